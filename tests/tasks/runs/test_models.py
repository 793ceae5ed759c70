"""Which folder a base model is, and that it is of the sizes that are set."""

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import ModelSettings
from tasks.runs.models import resolve_base


@pytest.mark.parametrize("sizes", [{}, {"n_ctx": 16}, {"n_ctx": 32, "n_embd": 48, "n_head": 4, "n_layer": 3}])
def test_a_base_model_of_the_sizes_that_are_set_is_its_folder(golden: Path, sizes: dict[str, int]) -> None:
    base = golden / "openai-tiny" / "models" / "tiny"
    assert resolve_base(ModelSettings.model_validate({"base": str(base), **sizes})) == base


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"n_embd": 64}, r"model\.n_embd is 64, but the base model \S+tiny has 48: leave model\.n_embd out"),
        ({"n_layer": 12}, r"model\.n_layer is 12, but the base model \S+tiny has 3: leave model\.n_layer out"),
        ({"n_ctx": 33}, r"model\.n_ctx is 33, but the base model \S+tiny has 32: give at most that"),
    ],
)
def test_other_sizes_are_refused_before_anything_is_encoded_or_planned(
    golden: Path, sizes: dict[str, int], sentence: str
) -> None:
    base = golden / "openai-tiny" / "models" / "tiny"
    with pytest.raises(UserError, match=sentence):
        resolve_base(ModelSettings.model_validate({"base": str(base), **sizes}))
