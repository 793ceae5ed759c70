"""`gpt2flow convert` from its options to what it prints: every malformed model is one sentence, and nothing is written."""

import io
import json
import os
import pickle
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.cli.main import main
from gpt2core import load_model
from tasks.models.convert import Source, convert


@pytest.fixture(scope="module")
def sound(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound models, by format."""
    folder = tmp_path_factory.mktemp("sound")
    for form in ("hf", "nanogpt", "openai"):
        convert(Source(str(golden / "gguf-tiny")), folder / form, form)
    shutil.copytree(golden / "gguf-tiny", folder / "gguf")
    shutil.copytree(golden / "peft-tiny", folder / "peft")
    return {each.name: each for each in folder.iterdir()}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpt2flow", "convert", *map(str, arguments)])
    with warnings.catch_warnings(action="ignore"):  # that there are no arguments: cyclopts thinks a test has none
        main()


def test_it_says_where_the_model_is(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, sound["hf"], tmp_path / "out", "--to", "openai")
    assert not left.value.code
    assert capsys.readouterr().out == f"Written: {tmp_path / 'out'}\n"
    assert load_model(tmp_path / "out").config == load_model(sound["hf"]).config


class Trap:
    """Unpickling it makes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trapped",)


def edit_json(name: str, **changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def link(name: str, target: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(target.replace("PARENT", str(folder.parent)))

    return change


def cut(name: str, kept: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept])


def flip(name: str, place: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 64
        (folder / name).write_bytes(bytes(content))

    return change


def sparse(name: str, size: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return change


def shard_index(shard: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "stranger.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))

    return change


def trap(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for file in folder.glob("*.safetensors"):
            file.unlink()
        (folder / name).write_bytes(pickle.dumps({"model": Trap(), "model_args": {}}, protocol=2))

    return change


def pack(folder: Path) -> None:
    """Rewrite the archive with its tensors compressed, as a bomb would be."""
    packed = io.BytesIO()
    with zipfile.ZipFile(folder / "ckpt.pt") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (folder / "ckpt.pt").write_bytes(packed.getvalue())


def poke(value: float) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["transformer.ln_f.bias"][0] = value
        save_file(tensors, folder / "model.safetensors")

    return change


def twice(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name in ("one.bin", "two.bin"):
        torch.save(tensors, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin"}}))


MALFORMED: list[tuple[str, Callable[[Path], object], str]] = [
    ("hf", cut("config.json", 9), "config.json is not valid JSON"),
    ("hf", write("config.json", b"[" * 100_000), "config.json is not valid JSON"),
    ("hf", edit_json("config.json", activation_function="gelu"), "another architecture (activation_function is 'gelu')"),
    ("hf", edit_json("config.json", n_layer=10**9), "asks for"),
    ("hf", edit_json("config.json", vocab_size=10**18), "asks for"),
    ("hf", edit_json("config.json", n_positions=True), "gives no whole number for n_ctx"),
    ("hf", sparse("config.json", 1 << 40), "has 1,099,511,627,776 bytes, which no file of its kind has"),
    ("hf", link("model.safetensors", "PARENT/model.safetensors"), "model.safetensors is a link to"),
    ("hf", link("tokenizer.json", "../tokenizer.json"), "tokenizer.json is a link to ../tokenizer.json, outside its folder"),
    ("hf", shard_index("../stranger.safetensors"), "names the shard ../stranger.safetensors, which is not in the folder"),
    ("hf", shard_index("/etc/passwd"), "names the shard /etc/passwd, which is not in the folder"),
    ("hf", cut("model.safetensors", 5000), "model.safetensors is damaged"),
    ("hf", poke(float("nan")), "ln_f.bias of"),
    ("hf", twice, "which another file has as well"),
    ("hf", trap("pytorch_model.bin"), "nothing in it was run"),
    ("hf", cut("tokenizer.json", 100), "is not a tokenizer.json"),
    ("nanogpt", trap("ckpt.pt"), "nothing in it was run"),
    ("nanogpt", pack, "packed, which PyTorch never does"),
    ("nanogpt", cut("ckpt.pt", 3000), "ckpt.pt is damaged"),
    ("nanogpt", lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
    ("openai", flip("model.ckpt.data-00000-of-00001", 1000), "does not match its checksum"),
    ("openai", flip("model.ckpt.index", 50), "model.ckpt.index is damaged"),
    ("openai", cut("model.ckpt.data-00000-of-00001", 1000), "is truncated"),
    ("openai", sparse("model.ckpt.index", 1 << 40), "which no index of a GPT-2 has"),
    ("openai", lambda folder: (folder / "hparams.json").unlink(), "hparams.json is missing: copy hparams.json from"),
    ("openai", write("checkpoint", b'model_checkpoint_path: "../other/.."\n'), "names no checkpoint"),
    ("openai", write("checkpoint", b'model_checkpoint_path: "model-7"\n'), "model-7.index is missing"),
    ("gguf", cut("model.gguf", 20_000), "is damaged or no GGUF file"),
    ("gguf", write("model.gguf", b""), "is damaged or no GGUF file"),
    ("gguf", lambda folder: shutil.copy(folder / "model.gguf", folder / "b.gguf"), "holds 2 GGUF files"),
    ("peft", edit_json("adapter_config.json", base_model_name_or_path="/nowhere"), "base model /nowhere, which is not here"),
    ("peft", edit_json("adapter_config.json", base_model_name_or_path=7), "does not name their base model"),
]


@pytest.mark.parametrize(("form", "change", "complaint"), MALFORMED, ids=[f"{f}-{c[:40]}" for f, _, c in MALFORMED])
def test_a_malformed_model_is_one_sentence_and_nothing_is_written(
    sound: dict[str, Path],
    form: str,
    change: Callable[[Path], object],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(sound[form], tmp_path / "in" / form))
    change(folder)
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, folder, tmp_path / "out", "--to", "hf")
    assert left.value.code == 2
    first, said = capsys.readouterr().err.splitlines()
    assert first == "gpt2flow: loading PyTorch and the model ..."
    assert complaint in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.tmp").exists()
    assert not (tmp_path / "in" / "trapped").exists()


def test_a_folder_that_is_there_stays_as_it_is(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(SystemExit):
        run(monkeypatch, sound["hf"], tmp_path, "--to", "gguf")
    assert "is there already: give the name of a new folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_the_hubs_cache_with_its_links_loads(sound: dict[str, Path], tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--me--tale" / "snapshots" / "abc", tmp_path / "models--me--tale" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in sound["hf"].iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert load_model(snapshot).config == load_model(sound["hf"]).config
