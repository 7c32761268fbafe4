"""Code tables as a folder of parquet files, on this machine or in an object store."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from semtok.places import file_system, inside, is_local, is_url, put_file
from semtok.semantic_ids import SemanticIds
from semtok.storage import replacing_folder

_SHARD = re.compile(r"part-\d{5,}\.parquet")


def write_shards(
    semantic_ids: SemanticIds,
    folder: str | Path,
    *,
    shard_size: int = 1_000_000,
    overwrite: bool = False,
) -> None:
    """Writes a code table as a folder of parquet files, part-00000.parquet and so on, in order.

    On this machine the folder appears complete or not at all. An object store cannot do this. There
    part-00000.parquet is written last and deleted first, so a folder with this file is complete.

    Args:
        semantic_ids: The table.
        folder: A path, or a URL such as s3://bucket/codes.
        shard_size: Number of items per file.
        overwrite: Whether an existing folder of such files is replaced.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is not set, or if it contains other
            files.
        ImportError: If an extra is missing; the message names it.
    """
    if is_url(folder) and not is_local(file_system(folder)[0]):
        _upload(semantic_ids, str(folder).rstrip("/"), shard_size, overwrite)
        return
    place = Path(file_system(folder)[1]) if is_url(folder) else Path(folder)
    if place.is_dir():
        _refuse_others(str(place), [path.name for path in place.iterdir()])
    with replacing_folder(place, overwrite=overwrite) as beside:
        for name, part in _parts(semantic_ids, shard_size):
            part.write(beside / name)


def _upload(semantic_ids: SemanticIds, folder: str, shard_size: int, overwrite: bool) -> None:
    system, path = file_system(folder)
    entries = system.ls(path, detail=False) if system.exists(path) else []
    before = {entry.rstrip("/").rpartition("/")[2] for entry in entries} - {""}
    _refuse_others(folder, sorted(before))
    if before and not overwrite:
        raise FileExistsError(f"{folder}: exists already")
    parts = list(_parts(semantic_ids, shard_size))
    stale = before - {name for name, _ in parts[1:]}
    for name in sorted(stale):
        system.rm_file(inside(path, name))
    with tempfile.TemporaryDirectory() as work:
        for name, part in reversed(parts):
            part.write(Path(work) / name)
            put_file(Path(work) / name, inside(folder, name))
            (Path(work) / name).unlink()


def _parts(semantic_ids: SemanticIds, shard_size: int) -> Iterator[tuple[str, SemanticIds]]:
    """The names of the files, and the content of each."""
    for number, start in enumerate(range(0, len(semantic_ids), shard_size)):
        stop = start + shard_size
        part = replace(
            semantic_ids,
            codes=semantic_ids.codes[start:stop],
            item_ids=semantic_ids.item_ids[start:stop],
        )
        yield f"part-{number:05d}.parquet", part


def _refuse_others(folder: str, names: list[str]) -> None:
    others = sorted(name for name in names if not _SHARD.fullmatch(name))
    if others:
        raise FileExistsError(
            f"{folder}: also holds {', '.join(others[:5])}, which would be lost, so it is not "
            "replaced"
        )
