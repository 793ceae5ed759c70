"""The house as its maps draw it: gpt2core/README.md names every file, and every module is tested where a reader looks.

`python tests/test_layout.py` writes the map of gpt2core anew from the first line of each module.
"""

import ast
import re
from functools import cache
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
        files = sorted(file for file in package.glob("*.py") if file.stem != "__init__") + sorted(package.glob("c/*.[ch]"))
        names = [str(file.relative_to(package)) for file in files]
        lines += [f"  {name:<{max(map(len, names))}}  {first_line(file)}" for name, file in zip(names, files, strict=True)]
    return "\n".join(lines).lstrip("\n") + "\n"


def test_the_map_of_gpt2core_names_every_file_by_its_own_first_line() -> None:
    drawn = MAP.read_text(encoding="utf-8").split(FENCE)[1].split("```")[0]
    assert drawn == tree_of(PROJECT / "gpt2core"), "run: python tests/test_layout.py"


def imports_of(file: Path) -> set[str]:
    """Modules of the project that a file imports, also inside of functions and of programs that it writes."""
    text, found = re.sub(r"  #.*", "", file.read_text(encoding="utf-8")), set()
    for package, names in re.findall(r"from ((?:gpt2core|tasks|flows)[\w.]*) import ([(\w, ]+(?:\n    [\w,]+)*)", text):
        found |= {package, *(f"{package}.{name}" for name in re.findall(r"(?<!as )\b\w+", names))}
    return found | set(re.findall(r"(?:\"-m\", \"|import )((?:gpt2core|tasks|flows)\.[\w.]+)", text))


def reached_by(file: Path) -> set[str]:
    """What a test can run at all: all that its imports, and those of the fixtures that it uses, lead to."""
    reached, found = set(), imports_of(file) | imports_of(PROJECT / "tests" / "conftest.py")
    while found:
        reached |= found
        files = (PROJECT / f"{name.replace('.', '/')}.py" for name in found)
        mains = (PROJECT / name.replace(".", "/") / "__main__.py" for name in found)
        found = set().union(*(imports_of(path) for path in (*files, *mains) if path.is_file())) - reached
    return reached


@cache
def claims() -> dict[str, list[Path]]:
    """By module, the tests elsewhere whose docstring says that they test it too."""
    said: dict[str, list[Path]] = {}
    for file in (PROJECT / "tests").rglob("test_*.py"):
        text = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("Also tests")[2]
        for name in re.findall(r"`([\w.]+)`", text):
            said.setdefault(name, []).append(file)
    return said


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_module_is_tested_where_a_reader_looks(module: Path) -> None:
    """By a file of its own name, by one beside it that imports it, or by one that says so and leads to it."""
    place = module.relative_to(PROJECT)
    folder, name = PROJECT / "tests" / place.parent, ".".join(place.with_suffix("").parts)
    beside = [file for file in folder.glob("test_*.py") if name in imports_of(file)]
    said = [file for file in claims().get(name, []) if name in reached_by(file)]
    assert beside or said or (folder / f"test_{module.stem}.py").is_file(), (
        f"no test in {folder.relative_to(PROJECT)} names {name}"
    )


def _redraw() -> None:
    before, rest = MAP.read_text(encoding="utf-8").split(FENCE)
    MAP.write_text(f"{before}{FENCE}{tree_of(PROJECT / 'gpt2core')}```{rest.split('```')[1]}", encoding="utf-8")


if __name__ == "__main__":
    _redraw()
