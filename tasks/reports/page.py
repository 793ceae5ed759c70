"""The report on a run as one self-contained HTML page, and how any page with charts is made."""

from __future__ import annotations

from pathlib import Path

from gpt2core.lens.pages import page_environment
from gpt2core.machine.durable import require_place, write_text
from tasks.reports.facts import RunFacts, gather_facts
from tasks.runs.run_folder import RunFolder


def write_page(folder: RunFolder, path: Path | None = None) -> Path:
    """Write the page about the run as it stands, into its folder unless a path is given; returns where it is."""
    path = path or folder.report_page
    require_place(path)
    write_text(path, render_report(gather_facts(folder)))
    return path


def render_report(facts: RunFacts) -> str:
    """The page."""
    return render(Path(__file__).parent, "page_of_run.html", title=facts.run, facts=facts)


def render(folder: Path, template: str, **values: object) -> str:
    """A page whose template lies in a folder and may use the charts of this one."""
    return page_environment(folder, Path(__file__).parent).get_template(template).render(**values)
