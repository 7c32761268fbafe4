"""Checks of whole files. A task cannot do them, because it reads only a shard of a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semtok.catalog import CatalogError, id_hashes
from semtok.runs import KeyRuns
from semtok.shards import Shard


class FileChecks:
    """Refuses items that occur twice, and files without items or fields.

    It uses 24 bytes of memory per item.

    Args:
        shards: All shards, in order.
        wanted: The fields that each view reads, if they are known.
    """

    def __init__(self, shards: Sequence[Shard], wanted: Sequence[Sequence[str]]) -> None:
        self._shards, self._wanted = shards, wanted
        self._seen_ids = KeyRuns()
        self._fields: dict[str, set[str]] = {shard.place: set() for shard in shards}
        self._has_items: set[str] = set()
        self._ended = 0  # shards whose files are checked

    def table(self, number: int, item_ids: list[str], fields: list[list[str] | None]) -> None:
        """Checks items of a shard.

        Raises:
            CatalogError: If an item occurred before, or an earlier file fails the check of `end`.
        """
        place = self._shards[number].place
        self._end_before(place)
        keys = id_hashes(item_ids)
        before = self._seen_ids.find(keys)
        if before.max() >= 0:
            row = int((before >= 0).argmax())
            first = self._shards[int(before[row])].place
            where = "twice in it" if first == place else f"already in {first}"
            raise CatalogError(f"{place}: item id {item_ids[row]!r} is {where}")
        self._seen_ids.add(keys, np.full(len(keys), number, dtype=np.int64))
        self._fields[place].update(name for names in fields for name in names or ())
        self._has_items.add(place)

    def end(self) -> None:
        """Checks the remaining files.

        Raises:
            CatalogError: If a file contains no items, or none of the fields of a view.
        """
        self._end_before(None)

    def _end_before(self, place: str | None) -> None:
        while self._ended < len(self._shards) and self._shards[self._ended].place != place:
            ended = self._shards[self._ended].place
            fields = self._fields[ended]
            if ended not in self._has_items:
                raise CatalogError(f"{ended}: holds no items")
            for names in self._wanted:
                if names and fields.isdisjoint(names):
                    raise CatalogError(
                        f"{ended}: has none of the fields {', '.join(names)} "
                        f"(fields: {', '.join(sorted(fields)) or 'none'})"
                    )
            self._ended += 1
