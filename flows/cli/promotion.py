"""Verbs about the champion and the registry. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from configs.errors import UserError
from configs.loading import load_config
from configs.promotion import PromotionSettings
from flows.cli.app import app
from flows.cli.prefect_start import prefect_starting
from tasks.servers.prefect_server import naming_a_lost_server
from tasks.workspace.folders import Workspace

models = App(
    name="models",
    help="List registered models and versions, compare two versions, delete one.\n\nExample: `gpt2flow models demo`",
)
app.command(models)


@app.command
def promote(
    model: str | None = None,
    /,
    *,
    config: Path | None = None,
    approve: bool = False,
    reject: bool = False,
    reason: str = "",
    settings: Annotated[PromotionSettings, Parameter(name="*")] = PromotionSettings(),
) -> None:
    """Let the candidate meet the champion on text that neither has learnt from; it becomes champion if every rule holds.

    The exit code is 0 for promoted, unchanged and awaiting approval, 3 for refused, 4 for undecided.

    Example: `gpt2flow promote demo --rules.margin 0.01`, or `gpt2flow promote demo --approve --reason "reads better"`

    Parameters
    ----------
    model
        Name of the registered model, or NAME/VERSION for a version that is not the candidate; that of the latest run unless
        given.
    config
        A config whose section promote is used; that of the candidate's own run unless given.
    approve
        Agree to the decision that waits for a person.
    reject
        Do not agree to it.
    reason
        Why; it stands in the ledger.
    """
    if approve and reject:
        raise UserError("--approve and --reject contradict each other: give one of them.")
    if approve or reject:
        _answer(model, approve, reason)
        return
    if reason:
        raise UserError("--reason is that of an answer: give --approve or --reject with it.")
    if config is not None:
        from tasks.promotion.match import laid_over

        settings = laid_over(settings, load_config(config).promote)
    print(f"gpt2flow {package_version('gpt2flow')}, promote: starting PyTorch, Prefect and MLflow ...", flush=True)
    with prefect_starting(Workspace.current().create()):
        from flows.pages.promotion import EXIT_CODES, print_decision
        from flows.promote import promote as flow

    name, version = _name_and_version(model)
    with naming_a_lost_server():
        decision = flow(name, version, settings)
    print_decision(Console(highlight=False), decision)
    sys.exit(EXIT_CODES[decision.verdict])


@app.command
def rollback(model: str | None = None, /, *, reason: str = "") -> None:
    """Put the previous champion back, after it has worked in a fresh process; the same command again goes forward.

    Example: `gpt2flow rollback demo --reason "answers in the wrong language"`

    Parameters
    ----------
    model
        Name of the registered model; that of the latest run unless given.
    reason
        Why; it stands in the ledger.
    """
    _prepare()
    from flows.pages.promotion import print_decision
    from tasks.promotion.rollback import roll_back

    print_decision(Console(highlight=False), roll_back(_name(model), reason))


@app.command
def history(model: str | None = None, /) -> None:
    """Show the ledger of a model: who moved its champion when, from which version to which, why, on what evidence.

    Example: `gpt2flow history demo`

    Parameters
    ----------
    model
        Name of the registered model; that of the latest run unless given.
    """
    _prepare()
    from flows.pages.promotion import print_history
    from tasks.promotion.history import read_history

    found = read_history(_name(model))
    print_history(Console(highlight=False), found)
    if found.problems:
        sys.exit(1)


@models.default
def list_models(model: str | None = None, /) -> None:
    """List the registered models, or the versions of one: aliases, figures, lineage, size.

    Example: `gpt2flow models demo`

    Parameters
    ----------
    model
        Name of a registered model; all of them unless given.
    """
    _prepare()
    from flows.pages.models import print_models, print_versions
    from tasks.promotion.versions import list_all, list_versions

    if model is None:
        print_models(Console(highlight=False), list_all())
    else:
        print_versions(Console(highlight=False), list_versions(model))


@models.command
def diff(first: str, second: str, /) -> None:
    """Show two versions side by side: settings, text, figures, samples.

    Example: `gpt2flow models diff demo@previous demo@champion`

    Parameters
    ----------
    first
        NAME@ALIAS or NAME/VERSION.
    second
        The other one.
    """
    _prepare()
    from flows.pages.models import print_difference
    from tasks.promotion.versions import compare_versions

    print_difference(Console(highlight=False), compare_versions(first, second))


@models.command
def delete(version: str, /) -> None:
    """Delete a version and its files, unless an alias, a run or another version needs it.

    Example: `gpt2flow models delete demo/3`

    Parameters
    ----------
    version
        NAME/VERSION.
    """
    _prepare()
    from tasks.promotion.versions import delete_version

    print(f"Deleted: {delete_version(version)}")


def _answer(model: str | None, agreed: bool, reason: str) -> None:
    _prepare()
    from flows.pages.promotion import print_decision
    from tasks.promotion.approval import answer

    print_decision(Console(highlight=False), answer(_name(model), agreed, reason))


def _prepare() -> None:
    """The databases as this version needs them, and artifacts where a moved workspace has them now."""
    from tasks.workspace.databases import prepare_databases

    prepare_databases(Workspace.current().create())


def _name(model: str | None) -> str:
    from tasks.registry.lookup import default_model

    return model or default_model()


def _name_and_version(model: str | None) -> tuple[str, str | None]:
    name, _, version = (model or "").removeprefix("models:/").replace("@", "/").partition("/")
    return (name or _name(None)), (version or None)
