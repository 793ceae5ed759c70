"""The verb that turns one program's model into another's. Heavy libraries are imported inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.cli.app import app


@app.command
def convert(
    model: str,
    folder: Path,
    /,
    *,
    to: Annotated[Literal["hf", "openai", "nanogpt", "gguf"], Parameter(name="--to")],
    base: Path | None = None,
    vocabulary: Path | None = None,
    n_ctx: int | None = None,
    tanh_gelu: bool = False,
) -> None:
    """Write a model in the files of another program, bit for bit the same weights, read back before they are kept.

    Example: `gpt2flow convert checkpoint/run1 my-model --to hf`

    Parameters
    ----------
    model
        Files of OpenAI's TensorFlow code (nshepperd's, gpt-2-simple's), of Hugging Face, peft, nanoGPT (ckpt.pt) or llama.cpp
        (.gguf); or a run's id or name, models:/NAME@ALIAS, hub:OWNER/NAME.
    folder
        The folder to make.
    to
        hf: transformers. openai: TensorFlow. nanogpt: ckpt.pt. gguf: llama.cpp and Ollama.
    base
        The model that adapters belong to, where their own config does not lead to it.
    vocabulary
        The folder with the vocabulary, where the model's own has none.
    n_ctx
        Keep only so many positions.
    tanh_gelu
        Take a nanoGPT checkpoint as one of GPT-2's GELU, though it does not say so.
    """
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from tasks.models.convert import Source
    from tasks.models.convert import convert as write

    write(Source(model, base, vocabulary, n_ctx, tanh_gelu), folder, to)
    print(f"Written: {folder}")
