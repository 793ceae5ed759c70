"""What the page offers to begin with."""

from pathlib import Path

from gpt2core import load_model, load_tokenizer
from tasks.play.page import EXAMPLES, example_prompts, render_page
from tasks.serving.served_model import LoadedModel


def test_examples_are_the_runs_own_prompts_first(golden: Path) -> None:
    checkpoint = next((golden / "run-0.1.0" / "runs").glob("*/checkpoints/step-*"))
    tiny = golden / "openai-tiny" / "models" / "tiny"
    loaded = LoadedModel("old", load_model(tiny), load_tokenizer(tiny), checkpoint)
    own = example_prompts(loaded)
    assert own[-len(EXAMPLES) :] == list(EXAMPLES)
    assert len(own) > len(EXAMPLES)


def test_examples_of_a_model_without_a_run_suit_any(golden: Path) -> None:
    tiny = golden / "openai-tiny" / "models" / "tiny"
    loaded = LoadedModel("tiny", load_model(tiny), load_tokenizer(tiny), Path("tiny"))
    assert example_prompts(loaded) == list(EXAMPLES)


def test_what_a_name_or_a_prompt_holds_is_text_and_no_html(golden: Path) -> None:
    tiny = golden / "openai-tiny" / "models" / "tiny"
    loaded = LoadedModel("<script>alert(1)</script>", load_model(tiny), load_tokenizer(tiny), tiny)
    assert "<script>alert" not in render_page(loaded)
