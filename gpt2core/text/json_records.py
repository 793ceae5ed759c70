"""The records of a .json file, one at a time: an array of them, an object that holds one such array, or one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from configs.errors import UserError

LONGEST = 1 << 26
"""Characters of one record at the most."""
CUT_WORD = 16
"""Characters from the end within which a value that is not JSON may just be cut."""
OpenText = Callable[[], Iterator[str]]
RECORDS = (dict, str)


def find_records(open_text: OpenText) -> Callable[[], Iterator[Any]] | None:
    """What reads the records, or None where the file holds something else than a list of objects or texts."""
    values = _Values(open_text())
    try:
        if values.sign() == "[":
            values.take()
            return (lambda: _Values(open_text()).items()) if isinstance(values.value(), RECORDS) else None
        if values.sign() != "{":
            return None
        key = _only_list(values)
        if values.sign():
            return lambda: _Values(open_text()).following()
    except ValueError:
        return None
    return (lambda: _in_object(_Values(open_text()), key)) if key is not None else None


def numbered(records: Iterable[Any], shown: str) -> Iterator[tuple[int, Any]]:
    """The records from 1 on. Raises UserError with the number of one that is not JSON."""
    number = 0
    try:
        for number, record in enumerate(records, start=1):
            yield number, record
    except ValueError as error:
        raise UserError(f"{shown}, record {number + 1} is not JSON ({error}): correct the file.") from None


def _only_list(values: _Values) -> str | None:
    """The key of the one list of objects in an object whose other values are single ones. Reads to the object's end."""
    lists: list[str] = []
    simple = True
    for key in values.each_key():
        if values.sign() == "[":
            kinds = {type(item) for item in values.items()}
            lists += [key] if kinds == {dict} else []
            simple = simple and kinds == {dict}
        else:
            simple = not isinstance(values.value(), dict) and simple
    return lists[0] if simple and len(lists) == 1 else None


def _in_object(values: _Values, wanted: str) -> Iterator[Any]:
    for key in values.each_key():
        if key == wanted:
            yield from values.items()
        else:
            values.value()


class _Values:
    """Reads values one after another; holds one of them and a chunk."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._held = ""
        self._place = 0
        self._decoder = json.JSONDecoder()

    def sign(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._place < len(self._held) and self._held[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._held) or not self._more(1):
                return self._held[self._place : self._place + 1]

    def take(self, *wanted: str) -> str:
        """Step over the next sign, one of those wanted. Raises ValueError."""
        found = self.sign()
        if wanted and found not in wanted:
            raise ValueError(f"{' or '.join(wanted)} is missing before {found or 'the end'!r}")
        self._place += 1
        return found

    def value(self) -> Any:
        """The next whole value. Raises ValueError."""
        self.sign()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._held, self._place)
            except RecursionError:
                raise ValueError("too many brackets inside one another") from None
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._held) - CUT_WORD
                if not (cut and self._more(len(self._held) - self._place)):
                    raise ValueError(error.msg) from None
            else:
                if end < len(self._held) or not self._more(1):  # a number may go on in the next chunk
                    self._place = end
                    return found

    def items(self) -> Iterator[Any]:
        """The values of an array."""
        self.take("[")
        if self.sign() == "]":
            self.take()
            return
        yield self.value()
        while self.take(",", "]") == ",":
            yield self.value()

    def each_key(self) -> Iterator[str]:
        """The keys of an object; who asks reads the value behind each."""
        self.take("{")
        ended = self.sign() == "}" and bool(self.take())
        while not ended:
            key = self.value()
            self.take(":")
            yield str(key)
            ended = self.take(",", "}") == "}"

    def following(self) -> Iterator[Any]:
        """The values to the end of the file."""
        while self.sign():
            yield self.value()

    def _more(self, wanted: int) -> bool:
        """Read `wanted` characters or more; False at the end. Reading as much again as is held keeps the time linear."""
        found: list[str] = []
        while sum(map(len, found)) < max(1, wanted) and (chunk := next(self._chunks, "")):
            found.append(chunk)
        self._held = self._held[self._place :] + "".join(found)
        self._place = 0
        if len(self._held) > LONGEST + wanted:
            raise ValueError(f"a value of more than {LONGEST:,} characters")
        return bool(found)
