"""A growing index of 128-bit keys, in sorted runs: 24 bytes per key."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64

_ENTRY = np.dtype([("key", np.uint64), ("check", np.uint64), ("value", np.int64)])


class KeyRuns:
    """Maps keys to numbers. Neighbouring runs of similar size are merged.

    A key is a pair of hashes. Two keys with the same first hash and different second hashes (by
    chance, only with billions of keys) may hide one another, but are never confused.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def find(self, keys: UInt64[np.ndarray, "keys 2"]) -> Int64[np.ndarray, " keys"]:
        """The number of each key, or -1 for an unknown key."""
        values = np.full(len(keys), -1, dtype=np.int64)
        for run in self._runs:
            where = np.searchsorted(run["key"], keys[:, 0])
            entries = run[np.minimum(where, len(run) - 1)]
            same = (entries["key"] == keys[:, 0]) & (entries["check"] == keys[:, 1])
            values[same] = entries["value"][same]
        return values

    def add(self, keys: UInt64[np.ndarray, "keys 2"], values: Int64[np.ndarray, " keys"]) -> None:
        """Adds keys that are not in the index yet."""
        if len(keys) == 0:
            return
        run = np.empty(len(keys), dtype=_ENTRY)
        run["key"], run["check"], run["value"] = keys[:, 0], keys[:, 1], values
        self._runs.append(_sorted(run))
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            self._runs.append(_sorted(np.concatenate([self._runs.pop(), self._runs.pop()])))


def _sorted(run: np.ndarray) -> np.ndarray:
    return run[np.argsort(run["key"], kind="stable")]
