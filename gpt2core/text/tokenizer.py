"""GPT-2's byte-level BPE: loading any usual layout, training one, encoding and decoding.

The merging itself is done by the `tokenizers` library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import fastokens
import numpy as np
import tokenizers
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from configs.errors import UserError
from gpt2core.text.gguf_vocabulary import read_gguf_vocabulary
from gpt2core.text.pieces import cut_text
from gpt2core.text.sources import END_OF_TEXT

Ids = np.ndarray[Any, np.dtype[np.uint32]]
FILE, ADDED_TOKENS, GGUF = "tokenizer.json", "added_tokens.json", ".gguf"
LAYOUTS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
PROBE = 2000
"""Characters of each batch that are encoded twice."""
# Settings of a saved tokenizer that change the ids; the rest (offsets, padding, templates) does not.
BEHAVIOUR = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")


class Tokenizer:
    """Text to token ids and back. Built by `load_tokenizer` or `train_tokenizer`."""

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        core.no_padding()
        core.no_truncation()
        self._core = core
        vocabulary = core.get_vocab(with_added_tokens=True)
        missing = [entry for entry in (END_OF_TEXT, *_BYTES) if entry not in vocabulary]
        if missing:
            raise UserError(f"The vocabulary has no entry {missing[0]}: give a byte-level BPE as GPT-2's, or train one.")
        self.end_of_text: int = vocabulary[END_OF_TEXT]
        """Id that closes a document."""
        self.n_vocab: int = max(vocabulary.values()) + 1
        """Number of ids; every id is below it."""

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `<|endoftext|>` in the text is the one id of end of text, or ordinary characters if not `special`.

        Half a surrogate pair, which a terminal can produce but no UTF-8 can hold, becomes U+FFFD.
        """
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._for(special).encode(whole, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Token ids of each text, found in parallel."""
        return [found.ids for found in self._for(special).encode_batch_fast(texts, add_special_tokens=False)]

    def encode_ordinary(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text as an array, `<|endoftext|>` in it as ordinary characters, found in parallel.

        With GPT-2's own pre-tokenizer this is fastokens, many times as fast as `tokenizers` and equal to it: the beginning of
        the first text is encoded with both.
        """
        if texts and self._fast is not None and self._agree(texts[0][:PROBE]):
            ids, offsets = self._fast.encode_batch_flat(list(texts))
            return np.split(np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8")[1:-1].astype(np.int64))
        return [np.array(ids, dtype=np.uint32) for ids in self.encode_batch(texts, special=False)]

    def _agree(self, text: str) -> bool:
        known = self._for(special=END_OF_TEXT not in text)  # the twin takes a while to make, and is hardly ever needed
        same = bool(self._fast.encode(text).ids == known.encode(text, add_special_tokens=False).ids)
        if not same:
            self._fast = None
        return same

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids. Bytes are joined before they are decoded; what is not UTF-8 becomes U+FFFD, as do unknown ids."""
        unknown = b"\xff"
        return b"".join(self.token_bytes.get(int(i), unknown) for i in ids).decode("utf-8", errors="replace")

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes that each id stands for."""
        return {i: token.encode() if token in self.added else _bytes_of(token) for token, i in self.ids.items()}

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides about ids, the same for one vocabulary in any layout."""
        saved = self._saved
        added = [
            [t["id"], t["content"], *(t[k] for k in ("special", "lstrip", "rstrip", "single_word"))]
            for t in saved["added_tokens"]
        ]
        content = {
            "vocabulary": sorted((i, token) for token, i in self.ids.items()),
            "merges": [list(pair) for pair in self.merges],
            "added": sorted(added),
            "model": [saved["model"]["type"], {k: saved["model"][k] for k in BEHAVIOUR if saved["model"].get(k)}],
            "normalizer": saved["normalizer"],
            "pre_tokenizer": _without(saved["pre_tokenizer"], "trim_offsets"),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def ids(self) -> dict[str, int]:
        """Every entry's id, in their order; entries are written in GPT-2's alphabet of bytes, added ones as they are."""
        return dict(sorted(self._core.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1]))

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of entries that become one, the first to be merged first."""
        pairs = self._saved["model"].get("merges", ())
        return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]

    @cached_property
    def added(self) -> dict[str, bool]:
        """Entries that are matched as a whole before any merging, end of text among them; True for special ones."""
        return {token["content"]: bool(token["special"]) for token in self._saved["added_tokens"]}

    def save_as_openai(self, folder: Path) -> None:
        """Write encoder.json and vocab.bpe, which know nothing else than a BPE with GPT-2's own way to cut text into words.

        Raises UserError where this vocabulary has more.
        """
        self.require_gpt2_splitting("encoder.json and vocab.bpe")
        if more := [token for token in self.added if token != END_OF_TEXT]:
            raise UserError(
                f"The added token {more[0]!r} (id {self.ids[more[0]]}) has no place in encoder.json and vocab.bpe, where it "
                "would be cut into pieces: choose a format that keeps it (hf, gguf)."
            )
        (folder / "encoder.json").write_text(json.dumps(self.ids), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges), ""]
        (folder / "vocab.bpe").write_text("\n".join(lines), encoding="utf-8")

    def require_gpt2_splitting(self, what: str) -> None:
        """Raises UserError where text is cut into words differently from GPT-2, which `what` cannot record."""
        if not self._splits_as_gpt2:
            raise UserError(
                f"This vocabulary cuts text into words differently from GPT-2, which {what} cannot record: choose hf."
            )

    def save(self, folder: Path) -> Path:
        """Write tokenizer.json, which transformers loads as well, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        target, unfinished = folder / FILE, folder / f"{FILE}.tmp"
        unfinished.write_text(self._core.to_str(), encoding="utf-8")
        unfinished.replace(target)
        return target

    @cached_property
    def _fast(self) -> Any:
        if not self.splits_at_spaces:
            return None
        saved = {**self._saved, "added_tokens": []}
        try:
            return fastokens.Tokenizer.from_json_str(json.dumps(saved))
        except Exception:  # it knows fewer kinds of tokenizers than the library that made this one
            return None

    @cached_property
    def splits_at_spaces(self) -> bool:
        """Whether this is GPT-2's own pre-tokenizer, whose words never reach into white space that follows them."""
        return self._splits_as_gpt2 and list(self.added) == [END_OF_TEXT]

    @cached_property
    def _splits_as_gpt2(self) -> bool:
        ours = json.loads(_assemble({END_OF_TEXT: 0}, []).to_str())
        same = _without(self._saved["pre_tokenizer"], "trim_offsets") == _without(ours["pre_tokenizer"], "trim_offsets")
        return same and self._saved["normalizer"] is None

    @cached_property
    def _saved(self) -> dict[str, Any]:
        """What tokenizer.json would hold."""
        saved: dict[str, Any] = json.loads(self._core.to_str())
        return saved

    @cached_property
    def _ordinary(self) -> tokenizers.Tokenizer:
        """A twin that knows no special tokens; switching one object back and forth would not be safe among threads."""
        twin = tokenizers.Tokenizer.from_str(self._core.to_str())
        twin.encode_special_tokens = True
        return twin

    def _for(self, special: bool) -> tokenizers.Tokenizer:
        return self._core if special else self._ordinary


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read tokenizer.json, encoder.json + vocab.bpe, vocab.json + merges.txt (+ added_tokens.json), or a GGUF's vocabulary.

    `path` is the folder or one of the files, also that of the weights beside them. Raises UserError if nothing of the kind is
    there or if it is damaged.
    """
    path = Path(path)
    if path.suffix == GGUF and path.is_file():
        return Tokenizer(_read_gguf(path))
    if path.suffix == ".pt" or path.with_name(f"{path.name}.index").is_file():  # weights of nanoGPT, or of TensorFlow
        path = path.parent
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(f"The tokenizer {path} does not exist: give a folder with tokenizer.json or encoder.json + vocab.bpe.")
    if path.is_file() and path.name not in {name for layout in LAYOUTS for name in layout}:
        return Tokenizer(_read_saved(path))
    if path.is_dir() and (folder / FILE).is_file():
        return Tokenizer(_read_saved(folder / FILE))
    for vocabulary, merges in LAYOUTS:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return Tokenizer(_read_pair(folder / vocabulary, folder / merges))
    if files := sorted(folder.glob(f"*{GGUF}")):
        return Tokenizer(_read_gguf(files[0]))
    raise UserError(f"{folder} holds no tokenizer: put tokenizer.json, or encoder.json and vocab.bpe, into it.")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` entries: 256 bytes, merges, and end of text as the last id.

    The same texts give the same vocabulary. A pair is merged if it occurs at least twice, so a small text may give fewer.
    """
    if vocab_size < 257:
        raise UserError(f"tokenizer.vocab_size is {vocab_size}: 256 bytes and {END_OF_TEXT} need at least 257.")
    core = _assemble({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator((piece for text in texts for piece in cut_text(text)), trainer)
    trained = json.loads(core.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    return Tokenizer(_assemble({**vocabulary, END_OF_TEXT: len(vocabulary)}, [tuple(pair) for pair in trained["merges"]]))


def _assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocabulary:
        core.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return core


def _read_saved(path: Path) -> tokenizers.Tokenizer:
    try:
        core = tokenizers.Tokenizer.from_str(_read(path))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} is not a tokenizer.json ({_first_line(error)}): take it from the model again.") from None
    if not isinstance(core.model, models.BPE):
        raise UserError(f"{path} holds a {type(core.model).__name__} tokenizer: GPT-2 needs a byte-level BPE.")
    return core


def _read_pair(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    ids = _read_ids(vocabulary)
    try:
        core = _assemble(ids, _read_merges(merges))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{vocabulary} and {merges.name} do not belong together ({_first_line(error)}): take both from the same model."
        ) from None
    added = vocabulary.with_name(ADDED_TOKENS)
    if vocabulary.name == "vocab.json" and added.is_file():
        own = _read_ids(added)
        _add_tokens(core, added, own, dict.fromkeys(own, False))
    return core


def _read_gguf(path: Path) -> tokenizers.Tokenizer:
    found = read_gguf_vocabulary(path)
    try:
        core = _assemble(dict(found.ids), list(found.merges))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} has no valid vocabulary ({_first_line(error)}): fetch the file again.") from None
    _add_tokens(core, path, found.ids, found.added)
    return core


def _read_ids(path: Path) -> dict[str, int]:
    try:
        return TypeAdapter(dict[str, NonNegativeInt]).validate_json(_read(path), strict=True)
    except ValidationError:
        raise UserError(f"{path} is not a vocabulary: it should be a JSON object of token to id.") from None


def _add_tokens(core: tokenizers.Tokenizer, file: Path, ids: Mapping[str, int], special: Mapping[str, bool]) -> None:
    """Have these entries matched as a whole; raises UserError for one whose id would be another than `file` says."""
    for token in sorted(special, key=lambda each: ids[each]):
        core.add_tokens([AddedToken(token, special=special[token], normalized=False)])
        if core.token_to_id(token) != ids[token]:
            raise UserError(f"{file} gives the added token {token!r} the id {ids[token]}, which is not the next free one.")


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for row, line in enumerate(_read(path).split("\n"), start=1):
        if not line or (row == 1 and line.startswith("#version")):
            continue
        first, space, second = line.partition(" ")
        if not space or not first or not second or " " in second:
            raise UserError(f"{path}, line {row} is not two tokens with a space between: take the file from the model again.")
        merges.append((first, second))
    return merges


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: take the file from the model again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error


def _without(settings: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    return settings and {k: v for k, v in settings.items() if k != key}


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0].rstrip(".")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's way to write any byte as a visible character: visible Latin-1 stays, the others move up from U+0100."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_of_character()


def _bytes_of(token: str) -> bytes:
    """Bytes of a vocabulary entry; an entry outside GPT-2's alphabet is taken literally."""
    if any(character not in _BYTES for character in token):
        return token.encode()
    return bytes(_BYTES[character] for character in token)
