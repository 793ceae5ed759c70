"""Safetensors files: written durably, opened so that each tensor is read when it is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import UserError
from gpt2core.machine.durable import fsync, named_write_errors

Reader = Callable[[], Tensor]
Readers = Mapping[str, Reader]
"""How to read each tensor of a file, by its name."""


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Replace `file` by the tensors as safetensors, durably; raises UserError as `save_model` does."""
    temporary = file.with_name(file.name + ".tmp")
    with named_write_errors(file):
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # what the user's umask gives; the library makes its files private
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
            temporary.chmod(mode)
            fsync(temporary)
            temporary.replace(file)
            fsync(file.parent)
        except SafetensorError as error:
            temporary.unlink(missing_ok=True)
            raise _as_os_error(error) from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _as_os_error(error: SafetensorError) -> Exception:
    """The library tells a full disk only in words: "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def open_tensors(file: Path) -> Readers:
    """Readers of the file's tensors, each of which maps its own part; they, too, raise UserError where it cannot be read.

    A file that stayed mapped would count as this process's memory as far as it was read.
    """
    with _opened(file) as opened:
        return {name: partial(_read, file, name) for name in opened.keys()}  # noqa: SIM118


def _read(file: Path, name: str) -> Tensor:
    with _opened(file) as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt", device="cpu") as opened:
            yield opened
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): fetch the model again.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}): check its permissions.") from error
