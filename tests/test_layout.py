"""The house as its maps draw it: gpt2core/README.md names every file, and every module is tested where a reader looks.

`python tests/test_layout.py` writes the map of gpt2core anew from the first line of each module.
"""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MAP = PROJECT / "gpt2core" / "README.md"
FENCE = "```text\n"
MODULES = sorted(path for root in ("gpt2core", "tasks") for path in (PROJECT / root).rglob("*.py") if path.stem != "__init__")


def first_line(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return re.sub(r"^(//|/\*|\{#)\s*", "", text.split("\n")[0]).removesuffix("*/").removesuffix("#}").strip()


def tree_of(root: Path) -> str:
    """A line a file, sub-packages from the bottom of the house to its top."""
    lines = []
    for package in sorted(path for path in root.iterdir() if (path / "__init__.py").is_file()):
        lines.append(f"\n{package.name}/  {first_line(package / '__init__.py')}")
        files = sorted(file for file in package.iterdir() if file.suffix in (".py", ".c", ".h") and file.stem != "__init__")
        width = max(len(file.name) for file in files)
        lines += [f"  {file.name:<{width}}  {first_line(file)}" for file in files]
    return "\n".join(lines).lstrip("\n") + "\n"


def test_the_map_of_gpt2core_names_every_file_by_its_own_first_line() -> None:
    drawn = MAP.read_text(encoding="utf-8").split(FENCE)[1].split("```")[0]
    assert drawn == tree_of(PROJECT / "gpt2core"), "run: python tests/test_layout.py"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_module_is_tested_where_a_reader_looks(module: Path) -> None:
    """By a file of its own name, or by one beside it that imports it."""
    place = module.relative_to(PROJECT)
    folder = PROJECT / "tests" / place.parent
    name = ".".join(place.with_suffix("").parts)
    package, _, base = name.rpartition(".")
    imported = re.compile(rf"{re.escape(name)}\b|from {re.escape(package)} import [^\n]*\b{base}\b")
    beside = [file for file in folder.glob("test_*.py") if imported.search(file.read_text(encoding="utf-8"))]
    assert beside or (folder / f"test_{module.stem}.py").is_file(), f"no test in {folder.relative_to(PROJECT)} names {name}"


def _redraw() -> None:
    before, rest = MAP.read_text(encoding="utf-8").split(FENCE)
    MAP.write_text(f"{before}{FENCE}{tree_of(PROJECT / 'gpt2core')}```{rest.split('```')[1]}", encoding="utf-8")


if __name__ == "__main__":
    _redraw()
