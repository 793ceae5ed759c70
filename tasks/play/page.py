"""The page as HTML: one file with its style and script, that nothing else need be fetched for."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from configs.generation import CompletionSettings
from configs.schema import RunConfig
from gpt2core.lens.pages import page_environment
from tasks.evidence.entrant import config_of
from tasks.play.play_request import MOST_LENS, MOST_NEW
from tasks.registry.lookup import PINNED, find_reference
from tasks.runs.run_folder import RunFolder
from tasks.serving.completion_request import MOST_ALTERNATIVES
from tasks.serving.served_model import LoadedModel

EXAMPLES = ("Once upon a time", "The most important thing about", "Dear friend,")
MOST_EXAMPLES = 6


def render_page(loaded: LoadedModel) -> str:
    """The page for a model."""
    return (
        page_environment(Path(__file__).parent)
        .get_template("page_of_play.html")
        .render(
            title="gpt2flow play",
            model=loaded.name,
            examples=example_prompts(loaded),
            defaults=CompletionSettings(),
            most_new=MOST_NEW,
            most_lens=MOST_LENS,
            alternatives=MOST_ALTERNATIVES,
            n_ctx=loaded.model.config.n_ctx,
        )
    )


def example_prompts(loaded: LoadedModel) -> list[str]:
    """The prompts by which the model was evaluated, where its run is known, and some that suit any."""
    config = _config_of(loaded)
    own = config.evaluate.prompts if config else []
    return list(dict.fromkeys(prompt for prompt in (*own, *EXAMPLES) if prompt.strip()))[:MOST_EXAMPLES]


def _config_of(loaded: LoadedModel) -> RunConfig | None:
    if PINNED.fullmatch(loaded.name):
        return config_of(find_reference(MlflowClient(), loaded.name))
    record = RunFolder(loaded.folder.absolute().parent.parent).read_record()
    return record.config if record else None
