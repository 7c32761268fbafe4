"""Free codes for the items that cannot keep their own codes.

Rows are sorted by their codes, so the items below a prefix of codes are adjacent. The first item
with given codes keeps them. The other items with the same codes must move. An item that moves stays
below the deepest prefix that has room for it. If a prefix has no more items than codes below it, no
item leaves it and none enters it. The catalogue therefore consists of independent subtrees. Most of
them have a prefix of all codes but the last; a subtree is larger if such a prefix has more items
than codes. Each subtree is resolved separately, its items in the order of their rows. The result is
the same as that of one pass over all rows. Memory: about 20 bytes per row, and one subtree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int16, Int64

from semtok.code_numbers import number_rows, sorted_rows
from semtok.progress import Progress, report

if TYPE_CHECKING:
    from semtok.candidates import CodeCosts

_CHUNK = 1 << 16
_REPORT_EVERY = 1000


class SortedCodes:
    """Rows of codes; a row must move if an earlier row has the same codes.

    Attributes:
        num_moving: Number of rows that must move.

    Args:
        taken: Codes that never change.
        codes: Codes of the rows. The taken codes come before them.
        sizes: Number of codes at each level.
    """

    def __init__(
        self,
        taken: Int64[np.ndarray, "taken levels"],
        codes: Int64[np.ndarray, "items levels"],
        sizes: tuple[int, ...],
    ) -> None:
        self._taken, self._codes, self._sizes = taken, codes, sizes
        # How many paths lie below a prefix of 0, 1, ... codes.
        self._capacity = [min(math.prod(sizes[level:]), 2**62) for level in range(len(sizes) + 1)]
        self._rows = sorted_rows(number_rows(taken, codes))
        self._shared = self._shared_levels()
        is_repeated = (self._shared == len(sizes)) & (self._rows < len(taken))
        if is_repeated.any():  # codes in `taken` that occur several times, which all stay
            self._rows, self._shared = self._rows[~is_repeated], self._shared[~is_repeated]
        self.num_moving = int(np.count_nonzero(self._shared == len(sizes)))

    def number(self, resolved: Int64[np.ndarray, "items levels"]) -> None:
        """Assigns the lowest free codes of the last level to the rows that move, in order.

        Args:
            resolved: The codes of the rows, changed in place for rows that move; may be `codes`.

        Raises:
            ValueError: If there are too few free codes.
        """
        num_levels, size = len(self._sizes), self._sizes[-1]
        moves = self._shared == num_levels
        group = np.cumsum(self._shared < num_levels - 1) - 1  # of all codes but the last
        movers_group = group[moves]
        # How many of its group move before it.
        rank = np.arange(len(movers_group)) - np.searchsorted(movers_group, movers_group)
        is_crowded = np.zeros(group[-1] + 1, dtype=bool)
        is_crowded[movers_group] = True
        kept = np.flatnonzero(~moves & is_crowded[group])
        kept_group = group[kept]
        first_kept = np.searchsorted(kept_group, kept_group)
        # Below the j-th of the codes kept in a group, c, there are c - j free ones: the free code
        # of rank r comes after as many kept ones as have c - j <= r.
        num_free = self._column(self._rows[kept], -1) - (np.arange(len(kept)) - first_kept)
        before = np.searchsorted(
            kept_group * (size + 1) + num_free,
            movers_group * (size + 1) + np.minimum(rank, size),
            "right",
        )
        code = rank + before - np.searchsorted(kept_group, movers_group)
        rows = self._rows[moves] - len(self._taken)
        if (code >= size).any():
            prefix = self._codes[rows[code >= size].min(), :-1]
            raise ValueError(
                f"codes must leave a free one, got {prefix.tolist()} with all {size} "
                "codes of the suffix taken: fit with a larger codebook_size"
            )
        resolved[rows, -1] = code

    def move(
        self,
        resolved: Int64[np.ndarray, "items levels"],
        costs: CodeCosts | None,
        x: Float[np.ndarray, "items dim"] | None,
        progress: Progress | None,
    ) -> None:
        """Assigns the nearest free codes to each row that moves, as the module describes.

        Args:
            resolved: As for `number`.
            costs: Returns the distances of codes from a vector; None takes the lowest codes.
            x: The vectors of the rows; required with `costs`.
            progress: Called with the number of rows done, and the number of all rows.

        Raises:
            ValueError: If there are fewer codes than rows.
        """
        if len(self._rows) > self._capacity[0]:
            raise ValueError(
                f"codes must leave a free one, got all of {self._sizes} taken: "
                "fit with a larger codebook_size"
            )
        starts, levels = self._subtrees()
        stops = np.append(starts[1:], len(self._rows))
        movers = np.flatnonzero(self._shared == len(self._sizes))
        done = 0
        for number in np.unique(np.searchsorted(starts, movers, "right") - 1):
            run, level = slice(starts[number], stops[number]), int(levels[number])
            rows, moves = self._rows[run], self._shared[run] == len(self._sizes)
            subtree = _Subtree(self._path(int(rows[0]))[:level], self._sizes)
            kept = rows[~moves]
            for start in range(0, len(kept), _CHUNK):
                part = kept[start : start + _CHUNK]
                subtree.take(
                    np.column_stack(
                        [self._column(part, at) for at in range(level, len(self._sizes))]
                    )
                )
            for row in np.sort(rows[moves]) - len(self._taken):
                path, vector = self._codes[row].tolist(), None if x is None else x[row]
                resolved[row] = subtree.nearest(path, costs, vector)
                done += 1
                if done % _REPORT_EVERY == 0 or done == self.num_moving:
                    report(progress, done, self.num_moving)

    def _subtrees(self) -> tuple[Int64[np.ndarray, " subtrees"], Int16[np.ndarray, " subtrees"]]:
        """The first rows of the independent subtrees, and the lengths of their prefixes."""
        depth = len(self._sizes) - 1
        is_start = self._shared < depth
        level = np.full(len(self._shared), depth, dtype=np.int16)
        while depth > 0:
            starts = np.flatnonzero(self._shared < depth)
            full = starts[np.diff(starts, append=len(self._rows)) > self._capacity[depth]]
            if len(full) == 0:
                break
            depth -= 1
            starts = np.flatnonzero(self._shared < depth)
            stops = np.append(starts[1:], len(self._rows))
            for number in np.unique(np.searchsorted(starts, full, "right") - 1):
                is_start[starts[number] + 1 : stops[number]] = False
                level[starts[number]] = depth
        subtrees = np.flatnonzero(is_start)
        return subtrees, level[subtrees]

    def _shared_levels(self) -> Int16[np.ndarray, " rows"]:
        """How many leading codes each row has in common with the one before it; -1 at first."""
        shared = np.zeros(len(self._rows), dtype=np.int16)
        for start in range(0, len(self._rows), _CHUNK):
            rows = self._rows[max(start - 1, 0) : start + _CHUNK]
            part = shared[start : start + _CHUNK]
            is_alike = np.ones(len(rows) - 1, dtype=bool)
            for level in range(len(self._sizes)):
                column = self._column(rows, level)
                is_alike &= column[1:] == column[:-1]
                part[len(part) - len(is_alike) :] += is_alike
        shared[:1] = -1
        return shared

    def _column(self, rows: Int64[np.ndarray, " rows"], level: int) -> Int64[np.ndarray, " rows"]:
        """The codes of sorted rows at a level: of what is taken, or of the rows after that."""
        if len(self._taken) == 0:
            column: Int64[np.ndarray, " rows"] = self._codes[rows, level]
            return column
        is_new = rows >= len(self._taken)
        column = np.empty(len(rows), dtype=np.int64)
        column[is_new] = self._codes[rows[is_new] - len(self._taken), level]
        column[~is_new] = self._taken[rows[~is_new], level]
        return column

    def _path(self, row: int) -> tuple[int, ...]:
        """The codes of a sorted row."""
        is_new = row >= len(self._taken)
        codes = self._codes[row - len(self._taken)] if is_new else self._taken[row]
        return tuple(codes.tolist())


class _Subtree:
    """The free paths below a prefix: one bit per path, and one count per longer prefix.

    Args:
        prefix: The codes of the prefix.
        sizes: Number of codes at each level, including the levels of the prefix.
    """

    def __init__(self, prefix: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        self._prefix, self._sizes = prefix, sizes[len(prefix) :]
        self._capacity = [math.prod(self._sizes[level:]) for level in range(len(self._sizes) + 1)]
        # How many paths are taken below each prefix of 1, 2, ... codes, but for whole paths.
        num_nodes = [math.prod(self._sizes[:level]) for level in range(len(self._sizes))]
        self._counts = [np.zeros(nodes, dtype=np.int64) for nodes in num_nodes[1:]]
        # Pages of zeros that nothing is written to take no memory.
        self._is_taken = np.zeros((num_nodes[-1], -(-self._sizes[-1] // 8)), dtype=np.uint8)

    def take(self, paths: Int64[np.ndarray, "paths levels"]) -> None:
        """Marks paths below the prefix, no two alike, as taken."""
        node = np.zeros(len(paths), dtype=np.int64)
        for level, counts in enumerate(self._counts):
            node = node * self._sizes[level] + paths[:, level]
            np.add.at(counts, node, 1)
        last = paths[:, -1]
        np.bitwise_or.at(self._is_taken, (node, last >> 3), (128 >> (last & 7)).astype(np.uint8))

    def nearest(
        self, path: list[int], costs: CodeCosts | None, x: Float[np.ndarray, " dim"] | None
    ) -> tuple[int, ...]:
        """Takes a free path with the longest possible common prefix with `path`.

        After this prefix, each code is the nearest to `x` that has a free path below it.

        Args:
            path: The codes from the root; the subtree must have a free path.
            costs: As for `SortedCodes.move`.
            x: The vector of the row.
        """
        codes = path[len(self._prefix) :]
        level = len(codes) - 1
        while not (room := self._room(codes[:level])).any():
            level -= 1
        codes = codes[:level]
        while True:
            if costs is None or x is None:
                code = int(room.argmax())
            else:
                code = _cheapest(costs(x, (*self._prefix, *codes)), room)
            codes.append(code)
            if len(codes) == len(self._sizes):
                break
            room = self._room(codes)
        self._take_path(codes)
        return (*self._prefix, *codes)

    def _take_path(self, codes: list[int]) -> None:
        """Does the work of `take` for a single path."""
        node, last = 0, codes[-1]
        for level, counts in enumerate(self._counts):
            node = node * self._sizes[level] + codes[level]
            counts[node] += 1
        self._is_taken[node, last >> 3] |= np.uint8(128 >> (last & 7))

    def _room(self, codes: list[int]) -> Bool[np.ndarray, " codes"]:
        """The next codes after a prefix that have a free path below them."""
        node, size = 0, self._sizes[len(codes)]
        for level, code in enumerate(codes):
            node = node * self._sizes[level] + code
        if len(codes) == len(self._counts):
            room: Bool[np.ndarray, " codes"] = np.unpackbits(self._is_taken[node], count=size) == 0
            return room
        counts = self._counts[len(codes)][node * size : (node + 1) * size]
        return np.less(counts, self._capacity[len(codes) + 1])


def _cheapest(costs: Float[np.ndarray, " codes"], room: Bool[np.ndarray, " codes"]) -> int:
    """The cheapest of the codes with room; the lowest of equally cheap ones."""
    codes = np.flatnonzero(room)
    return int(codes[costs[codes].argmin()])
