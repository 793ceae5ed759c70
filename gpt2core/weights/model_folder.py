"""What a folder or file with a model holds: which layout, where the weights lie, which sizes. Reads no weights.

Known layouts: OpenAI's (also written by nshepperd/gpt-2 and gpt-2-simple), hparams.json and a TensorFlow checkpoint whose
newest prefix stands in the text file `checkpoint`. Hugging Face's, which is also our own: config.json and model.safetensors,
or its shards, or pytorch_model.bin. Adapters of peft, beside their base model or alone. nanoGPT's ckpt.pt. GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from configs.errors import UserError
from configs.schema import ModelSettings
from gpt2core.model.config import GPT2Config
from gpt2core.weights.untrusted_files import read_object, read_text, require_own_files

SAFETENSORS, SHARD_INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NANOGPT = "ckpt.pt"
OPENAI_FILES = ("hparams.json", "encoder.json", "vocab.bpe")
"""What OpenAI's layout has beside the checkpoint."""
PREFIX = "transformer."
"""What stands before a parameter's name in Hugging Face's and nanoGPT's files."""
EXPECTED = (
    "config.json with model.safetensors (Hugging Face, gpt2flow), hparams.json with a TensorFlow checkpoint (OpenAI), "
    "adapter_config.json (peft), ckpt.pt (nanoGPT) or a .gguf file"
)

GPT2_ARCHITECTURE: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "n_inner": None,
    "quantization_config": None,
}
"""Keys of a Hugging Face config that decide what is computed, with the only value that is GPT-2; absent means this value."""


@dataclass(frozen=True)
class OpenAIFolder:
    """OpenAI's layout; `prefix` is the path of the newest checkpoint without its endings."""

    config: GPT2Config
    prefix: Path

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights."""
        return sorted(self.prefix.parent.glob(f"{self.prefix.name}.data-*"))


@dataclass(frozen=True)
class HuggingFaceFolder:
    """Hugging Face's layout; `files` hold the weights, all safetensors or all pickled.

    `adapted`: beside them lie peft's adapters, which belong to the model.
    """

    config: GPT2Config
    files: tuple[Path, ...]
    adapted: bool = False

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights, those of the adapters last."""
        return [*self.files, *([self.files[0].with_name(ADAPTER_WEIGHTS)] if self.adapted else [])]


@dataclass(frozen=True)
class AdapterFolder:
    """Peft's layout without a base model, which is somewhere else."""

    folder: Path
    base: OpenAIFolder | HuggingFaceFolder | NanoGPTFile | GGUFFile

    @property
    def config(self) -> GPT2Config:
        """Sizes of the base model."""
        return self.base.config

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights, those of the adapters last."""
        return [*self.base.weight_files, self.folder / ADAPTER_WEIGHTS]


@dataclass(frozen=True)
class NanoGPTFile:
    """A checkpoint of nanoGPT."""

    config: GPT2Config
    file: Path

    @property
    def weight_files(self) -> list[Path]:
        """The one file."""
        return [self.file]


@dataclass(frozen=True)
class GGUFFile:
    """A file for llama.cpp."""

    config: GPT2Config
    file: Path

    @property
    def weight_files(self) -> list[Path]:
        """The one file."""
        return [self.file]


Found = OpenAIFolder | HuggingFaceFolder | AdapterFolder | NanoGPTFile | GGUFFile


def read_config(path: str | Path) -> GPT2Config:
    """Sizes of the model in a folder of any known layout; raises UserError where there is none or it is not a GPT-2."""
    return recognise(path).config


def sizes_of(settings: ModelSettings, base: Path | None, n_vocab: int) -> GPT2Config:
    """Sizes of the model that a run will train: the base model's where there is one, else with `n_vocab` tokens."""
    found = read_config(base) if base else None
    given = {name: getattr(settings, name) or getattr(found, name, None) for name in ("n_ctx", "n_embd", "n_head", "n_layer")}
    sizes: dict[str, Any] = {**given, "n_vocab": found.n_vocab if found else n_vocab, "dropout": settings.dropout}
    return GPT2Config(**sizes)


def weight_files(path: str | Path) -> list[Path]:
    """The files that hold the weights; raises UserError as `recognise` does."""
    return recognise(path).weight_files


def is_model_path(path: str | Path) -> bool:
    """Whether there is a folder or file of this name, or a TensorFlow checkpoint that is called so without its endings."""
    path = Path(path)
    return path.exists() or _index_of(path).is_file()


def recognise(path: str | Path, *, base: str | Path | None = None, tanh_gelu: bool = False) -> Found:
    """Find out what a folder or file holds.

    `base` is the model that adapters belong to, where their own config does not lead to it; `tanh_gelu` says that a checkpoint
    of nanoGPT has GPT-2's activation though it does not say so itself. Raises UserError where files are missing, lead out of
    the folder, or hold a model that is not a GPT-2.
    """
    path = Path(path)
    if path.is_dir():
        require_own_files(path)
        return _recognise_folder(path, base, tanh_gelu)
    if path.suffix == ".gguf" and path.is_file():
        return _gguf(path)
    if path.suffix == ".pt" and path.is_file():
        return _nanogpt(path, tanh_gelu)
    if _index_of(path).is_file():
        return OpenAIFolder(_read_hparams(path.parent), path)
    problem = "is a file of no known kind" if path.is_file() else "does not exist"
    raise UserError(f"{path} {problem}: give the folder that holds the model.")


def _recognise_folder(folder: Path, base: str | Path | None, tanh_gelu: bool) -> Found:
    present = [name for name in (SAFETENSORS, SHARD_INDEX, PICKLE, PICKLE_INDEX) if (folder / name).is_file()]
    if present:
        adapted = (folder / ADAPTER_CONFIG).is_file()
        return HuggingFaceFolder(_read_huggingface_config(folder), _weight_files(folder, present[0]), adapted)
    if (folder / "checkpoint").is_file() or (folder / "hparams.json").is_file():
        return OpenAIFolder(_read_hparams(folder), _newest_prefix(folder))
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapters(folder, base, tanh_gelu)
    if (folder / NANOGPT).is_file():
        return _nanogpt(folder / NANOGPT, tanh_gelu)
    if found := sorted(folder.glob("*.gguf")):
        if len(found) > 1:
            raise UserError(f"{folder} holds {len(found)} GGUF files: give one of them, such as {found[0]}.")
        return _gguf(found[0])
    if (folder / "config.json").is_file():
        raise UserError(f"{folder} has config.json but no weights: put model.safetensors beside it.")
    raise UserError(f"{folder} holds no model: expected {EXPECTED}.")


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _nanogpt(file: Path, tanh_gelu: bool) -> NanoGPTFile:
    from gpt2core.weights.nanogpt_files import read_nanogpt_config  # needs PyTorch, which the other layouts do not

    return NanoGPTFile(read_nanogpt_config(file, tanh_gelu=tanh_gelu), file)


def _gguf(file: Path) -> GGUFFile:
    from gpt2core.weights.gguf_files import read_gguf_config  # needs the library gguf

    return GGUFFile(read_gguf_config(file), file)


def _adapters(folder: Path, base: str | Path | None, tanh_gelu: bool) -> AdapterFolder:
    named = base or read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(named, str | Path) or not str(named):
        raise UserError(f"{folder} has adapters and does not name their base model: give its folder as --base.")
    place = next((each for each in (Path(named).expanduser(), folder / named) if is_model_path(each)), None)
    if place is None:
        raise UserError(f"{folder} has adapters of the base model {named}, which is not here: give its folder as --base.")
    found = None if place.resolve() == folder.resolve() else recognise(place, base=place, tanh_gelu=tanh_gelu)
    if found is None or isinstance(found, AdapterFolder):
        raise UserError(f"The base model {place} of the adapters in {folder} is itself adapters: give a whole model as --base.")
    return AdapterFolder(folder, found)


def _weight_files(folder: Path, found: str) -> tuple[Path, ...]:
    if not found.endswith(".index.json"):
        return (folder / found,)
    index = folder / found
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()) or not names:
        raise UserError(f"{index} has no weight_map that names the shards: fetch the model again.")
    shards = sorted(set(names.values()))
    for name in shards:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{index} names the shard {name}, which is not in the folder: fetch the model again.")
    return tuple(folder / name for name in shards)


def _newest_prefix(folder: Path) -> Path:
    """The prefix that `checkpoint` names, in this folder: an absolute path is from the machine that trained."""
    file = folder / "checkpoint"
    if not file.is_file():
        raise UserError(f'{file} is missing: write the line model_checkpoint_path: "PREFIX" into it, for PREFIX.index.')
    named = re.search(r'^model_checkpoint_path:\s*"(.+)"', read_text(file), re.MULTILINE)
    name = PureWindowsPath(named[1]).name if named else ""
    if name in ("", ".."):
        raise UserError(f'{file} names no checkpoint: write the line model_checkpoint_path: "PREFIX" into it.')
    return folder / name


def _read_hparams(folder: Path) -> GPT2Config:
    file = folder / "hparams.json"
    if not file.is_file():
        missing = [name for name in OPENAI_FILES if not (folder / name).is_file()]
        listed = " and ".join([", ".join(missing[:-1]), missing[-1]]) if len(missing) > 1 else missing[0]
        raise UserError(
            f"{file} is missing: copy {listed} from the folder of the model that was fine-tuned, which has them, to {folder}."
        )
    hparams = read_object(file)
    return sizes_by_name(file, lambda field: hparams.get(field))


def _read_huggingface_config(folder: Path) -> GPT2Config:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: copy it from where the weights came from.")
    values = read_object(file)
    _require_gpt2(file, values)
    names = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
    return sizes_by_name(file, lambda field: values.get(names.get(field, field), values.get(field)))


def _require_gpt2(file: Path, values: dict[str, Any]) -> None:
    """Refuse whatever would be computed differently from GPT-2."""
    if "model_type" not in values:
        raise UserError(f"{file} has no model_type: only a config of Hugging Face's GPT-2 can be loaded.")
    width = values.get("n_embd")
    for key, expected in GPT2_ARCHITECTURE.items():
        value = values.get(key, expected)
        if value != expected and not (key == "n_inner" and isinstance(width, int) and value == 4 * width):
            raise UserError(f"{file} describes another architecture ({key} is {value!r}): only GPT-2 itself can be loaded.")


def sizes_by_name(file: Path, value_of: Callable[[str], Any]) -> GPT2Config:
    """Sizes of the model in `file` by GPT-2's names, from whatever knows their values; raises UserError where they are none."""
    sizes = {field: value_of(field) for field in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
    for field, value in sizes.items():
        if type(value) is not int:
            raise UserError(f"{file} gives no whole number for {field}: copy it from where the weights came from.")
    try:
        return GPT2Config(**sizes)
    except UserError as error:
        raise UserError(f"{file} cannot be right: {error}") from error
