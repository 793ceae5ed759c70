"""How often the gate promotes equal models, and how often it finds a better one, by number of documents.

    python -m benchmarks.promotion

Models are simulated: documents of 200 to 4,000 bytes, whose gains vary with a standard deviation of one.
"""

from __future__ import annotations

import math

import numpy as np

from gpt2core.evaluation.document_scores import DocumentScores
from gpt2core.evaluation.sign_flips import error_of_attempt, sign_flip_test

DOCUMENTS = (8, 20, 50, 100, 200, 500)
GAINS = (0.0, 0.1, 0.2, 0.5, 1.0)
PROMOTIONS = 200
ERROR = error_of_attempt(0.05, 1)


def scores_of(bits: np.ndarray, n_bytes: np.ndarray) -> DocumentScores:
    return DocumentScores(np.arange(len(bits)), bits * n_bytes * math.log(2), n_bytes, n_bytes, n_bytes)


def promoted(documents: int, gain: float, seed: int) -> bool:
    """One promotion of a model that is better by `gain` standard deviations."""
    random = np.random.default_rng([documents, round(gain * 10), seed])
    n_bytes = random.integers(200, 4000, documents)
    before = random.normal(10.0, 1.0, documents)
    now = before - random.normal(gain, 1.0, documents)
    return sign_flip_test(scores_of(before, n_bytes), scores_of(now, n_bytes), error=ERROR).is_better


def main() -> None:
    """Print the table in Markdown."""
    print("| documents |", " | ".join("equal" if not gain else f"{gain:g} deviations" for gain in GAINS), "|")
    print("|---|" + "---|" * len(GAINS))
    for documents in DOCUMENTS:
        shares = [sum(promoted(documents, gain, seed) for seed in range(PROMOTIONS)) / PROMOTIONS for gain in GAINS]
        print(f"| {documents} |", " | ".join(f"{share:.1%}" for share in shares), "|")


if __name__ == "__main__":
    main()
