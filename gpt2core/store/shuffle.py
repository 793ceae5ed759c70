"""A permutation and a hash of numbers, from which every order that training draws is made without state."""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDS = 6


Words = np.ndarray[Any, np.dtype[np.uint64]]


def permute(places: Words, size: int, keys: Words) -> Words:
    """Where each place in [0, size) goes under the permutation that its key selects.

    A Feistel network permutes the next power of four; a place that lands outside is sent through again until it lands inside
    (cycle walking), which keeps the whole a permutation. See Black and Rogaway, Ciphers with Arbitrary Finite Domains (2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    rounds = [mix(keys + np.uint64(number)) for number in range(ROUNDS)]
    places = _feistel(places, half, rounds)
    outside = np.flatnonzero(places >= size)
    while len(outside):
        places[outside] = _feistel(places[outside], half, [key[outside] for key in rounds])
        outside = outside[places[outside] >= size]
    return places


def _feistel(places: Words, half: int, keys: list[Words]) -> Words:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = places >> shift, places & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << shift) | right


def mix(word: Words | np.uint64) -> Words:
    """SplitMix64's output function: every bit of the word reaches every bit of the result."""
    with np.errstate(over="ignore"):
        word = word + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(word ^ (word >> np.uint64(31)))
