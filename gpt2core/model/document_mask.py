"""Documents that share a window kept apart: each is computed as if it stood alone.

An end-of-text id opens the document that follows it, so what is predicted behind it depends on nothing before it. Shapes: B
batch, T positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DocumentMask(NamedTuple):
    """Where each token stands in its own document, and which tokens it sees."""

    positions: Tensor
    """int64 [B, T]; they begin at 0 with every document, and with the window."""
    visible: Tensor
    """bool [B, 1, T, T]: query i sees key j, which is no later and belongs to the same document."""


def document_mask(tokens: Tensor, end_of_text: int) -> DocumentMask:
    """Mask for tokens int64 [B, T]."""
    opens = tokens == end_of_text  # [B, T]
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    first = torch.where(opens, places, 0).cummax(1).values  # [B, T]: where the document of each token begins
    same = first[:, :, None] == first[:, None, :]
    return DocumentMask(places - first, same.tril().unsqueeze(1))
