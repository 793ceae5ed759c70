"""Configs: the shipped ones are valid, mistakes are named with their place and remedy."""

from pathlib import Path

import pytest
import yaml
from tiny import SMALLEST

from configs.errors import UserError
from configs.loading import SHIPPED, load_config
from configs.schema import RunConfig, RunSettings, Section

SHIPPED_CONFIGS = sorted(SHIPPED.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED_CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_and_named_after_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_all_the_promised_configs_are_shipped() -> None:
    promised = {"demo", "shakespeare-char", "gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"}
    assert promised <= {path.stem for path in SHIPPED_CONFIGS}


def test_an_override_wins_over_the_file_and_leaves_its_neighbours() -> None:
    before, after = load_config(Path("demo")), load_config(Path("demo"), {"train": {"steps": 7}})
    assert after.train.steps == 7
    assert after.train.learning_rate == before.train.learning_rate


def test_a_single_source_may_be_written_without_a_list() -> None:
    assert load_config(Path("demo"), {"data": {"source": "a.txt"}}).data.source == ["a.txt"]


def test_every_setting_is_documented() -> None:
    def undocumented(model: type) -> list[str]:
        names = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                names += undocumented(field.annotation)
            elif not field.description:
                names.append(f"{model.__name__}.{name}")
        return names

    assert undocumented(RunSettings) == []


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"train": {"steps": "abc"}}, "--train.steps is 'abc' but should be a whole number."),
        ({"train": {"steps": 0}}, "--train says 0 steps: give one of steps, epochs, tokens and hours."),
        ({"train": {"stepz": 3}}, "--train.stepz is not a setting: did you mean train.steps?"),
        ({"nam": 3}, "--nam is not a setting: did you mean name?"),
        ({"train": {"schedule": "x"}}, "--train.schedule is 'x' but should be 'cosine', 'linear', 'constant' or 'wsd'."),
        ({"train": {"learning_rate": float("nan")}}, "--train.learning_rate is nan but should be a finite number."),
        (
            {"train": {"trainable": "lora"}},
            "train.trainable is 'lora' but model.base is 'scratch': adapters need a trained model, name one.",
        ),
        (
            {"train": {"trainable": ["lora", "wte.*"]}, "model": {"base": "some"}},
            "train.trainable lora stands alone: choose adapters, or patterns of the model's own parameters.",
        ),
        ({"train": {"lora": {"rnk": 3}}}, "--train.lora.rnk is not a setting: did you mean train.lora.rank?"),
        ({"model": {"n_head": 7}}, "model.n_embd 128 is not divisible by model.n_head 7: change one of them."),
        (
            {"model": {"n_layer": None}},
            "model.n_layer is missing: a model from scratch needs n_ctx, n_embd, n_head and n_layer.",
        ),
        ({"name": "../x"}, "--name is '../x': use letters, digits, '-', '_' and '.' only, and begin with a letter."),
        ({"train": {"compile": "maybe"}}, "--train.compile is 'maybe' but should be auto, true or false."),
        (
            {"train": {"early_stopping": 3}},
            "--train.early_stopping is 3 but is a section: give one of patience, min_delta in it.",
        ),
        ({"train": {"trainable": []}}, "--train.trainable is empty: give one or more."),
        (
            {"train": {"lora": {"rank": 4}}},
            "train.lora is given but no adapters are trained: add train.trainable lora, or leave it out.",
        ),
        (
            {"train": {"dtype": "FP16"}},
            "--train.dtype float16 overflows at 65504 and would need loss scaling, which skips updates: "
            "use bfloat16 or float32.",
        ),
        ({"evaluate": {"top_p": 1.5}}, "--evaluate.top_p is 1.5 but should be less than or equal to 1."),
        ({"evaluate": {"temperature": -1}}, "--evaluate.temperature is -1 but should be greater than or equal to 0."),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(overrides: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Path("demo"), overrides)
    assert str(caught.value) == sentence


def test_a_mistake_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"model": {"n_ctx": 8, "n_embd": 8, "n_head": 2, "n_layer": 1}, "train": {"lr": 1}}))
    with pytest.raises(UserError, match=r"mine\.yaml: train\.lr is not a setting"):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1,\nb: 2", r"bad\.yaml, line 2: .*correct the YAML"),
        (b"\xff\xfe\x00", "not a YAML text file"),
        (b"- 1", "no settings"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load_config(path)


def test_a_missing_config_lists_the_ready_made_ones() -> None:
    with pytest.raises(
        UserError, match=r"nope\.yaml does not exist: give a YAML file, or one of the ready-made demo, gpt2-124m"
    ):
        load_config(Path("nope.yaml"))


@pytest.mark.parametrize("length", [{"epochs": 2.5}, {"tokens": 5000}, {"hours": 1.0}])
def test_another_length_takes_the_place_of_the_steps_of_the_file(length: dict[str, float]) -> None:
    train = load_config(Path("demo"), {"train": length}).train
    assert train.steps == 0
    assert {name: getattr(train, name) for name in length} == length
    again = RunConfig.model_validate_json(load_config(Path("demo"), {"train": length}).model_dump_json())
    assert again.train == train


@pytest.mark.parametrize(("written", "meant"), [("auto", "auto"), (True, True), ("true", True), ("no", False)])
def test_compile_is_auto_or_a_switch(written: object, meant: object) -> None:
    assert load_config(Path("demo"), {"train": {"compile": written}}).train.compile == meant


def test_two_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="train has both steps and hours: give one of steps, epochs, tokens and hours"):
        load_config(Path("demo"), {"train": {"steps": 5, "hours": 2}})


@pytest.mark.parametrize(
    ("text", "size"), [("6GB", 6 * 10**9), ("1.5 GiB", 1.5 * 2**30), ("800mb", 8 * 10**8), ("70000", 70000)]
)
def test_a_memory_limit_is_written_for_people(text: str, size: int) -> None:
    assert load_config(Path("demo"), {"train": {"memory_limit": text}}).train.memory_limit == size


def test_a_memory_limit_that_is_no_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.memory_limit is 'plenty': give a size such as 6GB or 800MB"):
        load_config(Path("demo"), {"train": {"memory_limit": "plenty"}})


def test_an_automatic_batch_is_no_number_yet() -> None:
    assert load_config(Path("demo"), {"train": {"batch_size": "auto"}}).train.batch_size == 0


@pytest.mark.parametrize(
    ("promote", "sentence"),
    [
        (
            {"rules": {"repitition": {"at_most": 1}}},
            "rules.repitition is not a setting: did you mean promote.rules.repetition",
        ),
        (
            {"rules": {"loops": {"at_least": 1}}},
            "loops.at_least is not a setting: did you mean promote.rules.loops.at_most",
        ),
        ({"rules": {"tasks": {"cbt": {"figure": "accuracy"}}}}, "promote.rules.tasks.cbt.file is missing: give it."),
        ({"rules": {"margin": -1}}, "promote.rules.margin is -1 but should be greater than or equal to 0."),
    ],
)
def test_a_rule_of_a_promotion_that_cannot_be_is_named(tmp_path: Path, promote: dict[str, object], sentence: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"model": SMALLEST, "promote": promote}))
    with pytest.raises(UserError) as error:
        load_config(file)
    assert sentence in str(error.value)


def test_a_run_may_not_register_as_champion_and_ask_for_promotion() -> None:
    with pytest.raises(ValueError, match="which only a promotion may set"):
        RunConfig.model_validate({"model": SMALLEST, "registry": {"promote": True, "alias": "champion"}})


def test_an_address_in_the_config_itself_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="env:NAME") as refused:
        load_config(Path("demo"), {"alerts": {"addresses": "https://hooks.example/t0ken"}})
    assert "t0ken" not in str(refused.value)
    assert load_config(Path("demo"), {"alerts": {"addresses": "env:HOOK"}}).alerts.addresses == ["env:HOOK"]


@pytest.mark.parametrize("key", ["source", "validation_source"])
def test_a_text_s_address_with_a_password_is_refused_and_not_repeated(key: str) -> None:
    for address in ("https://ann:s3cret@host/a.txt", "https://host/a.txt?X-Amz-Signature=s3cret"):
        with pytest.raises(UserError, match=rf"data\.{key} holds a password or a token, .* environment variables") as raised:
            load_config(Path("demo"), {"data": {key: [address]}})
        assert "s3cret" not in str(raised.value)
