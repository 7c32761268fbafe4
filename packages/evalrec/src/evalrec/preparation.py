"""From raw files to a native folder.

The folder holds `interactions.parquet` (sorted by user, then time), `items.jsonl.gz` (line i is
item row i) and `dataset.json`: what was read, with which options, what was left out at each step,
and a hash of the content. The same input and options write the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evalrec.documents import has_format, read_json
from evalrec.interactions import DataError, Interactions
from evalrec.plugins import is_plugin, package_version
from evalrec.readers.collect import Read
from evalrec.readers.formats import (
    Progress,
    get_format,
    image_paths,
    read_catalogue,
    read_images,
    read_raw,
    sort_files,
)
from evalrec.readers.images import image_beside, image_from, is_image_in
from evalrec.reduction import PrepareOptions, reduce
from evalrec.storage import (
    check_writable,
    recover_folder,
    replacing_folder,
    write_parquet,
)

_FORMAT_VERSION = 1
FILE_NAMES = ("interactions.parquet", "items.jsonl.gz", "dataset.json")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A native folder that was written.

    Attributes:
        folder: The folder.
        steps: After each step, its name and the numbers of users, items and interactions left.
        num_below_rating: Interactions whose rating was too low; they were not read further.
        num_repeats: How many of the kept interactions repeat a pair of user and item.
        num_without_text: Items without text in any file.
        content_sha256: A hash of the ids, interactions and items, whatever the files' encoding.
        notes: Everything else that was left out or merged, one sentence each.
    """

    folder: Path
    steps: tuple[dict[str, Any], ...]
    num_below_rating: int
    num_repeats: int
    num_without_text: int
    content_sha256: str
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of kept users, items and interactions; unused items do not count."""
        return {name: self.steps[-1][name] for name in ("users", "items", "interactions")}


def prepare(
    name: str,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    options: PrepareOptions | None = None,
    overwrite: bool = False,
    trust: Collection[str] = (),
    progress: Progress | None = None,
) -> Prepared:
    """Write a native folder from files of a public raw format.

    Args:
        name: One of `evalrec.FORMATS`, or "package.module:NAME" of another package.
        files: The raw files, or folders of them.
        out: The folder, which appears whole or not at all.
        options: Which interactions are kept.
        overwrite: Whether a folder that this function wrote before is replaced.
        trust: The packages whose code may run.
        progress: Called with the name of a stage, the work done and the total work.

    Raises:
        DataError: If a file cannot be used, or nothing is left; nothing is written then.
        ValueError: If the format or an option is unknown or has no effect.
        FileExistsError: If the folder exists and is neither empty nor a prepared one, is a prepared
            one and `overwrite` is not set, or holds a file that is read.
        OSError: If the folder cannot be written; this is checked before anything is read.
    """
    options = options or PrepareOptions()
    form, out = get_format(name, trust), Path(out)
    check_place(out, overwrite)
    paths = sort_files(form, files)
    with_images = image_paths(form, paths) if options.keep_images else ()
    all_paths = tuple(dict.fromkeys((*paths.interactions, *paths.items, *with_images)))
    refuse_input(out, all_paths)
    if options.unknown_items != "keep" and not paths.items:
        raise ValueError(
            f"unknown_items must be keep without a file of items, got {options.unknown_items!r}"
        )
    read = read_raw(name, files, min_rating=options.min_rating, trust=trust, progress=progress)
    catalogue = partial(read_catalogue, name, files, trust=trust, progress=progress)
    if options.unknown_items == "keep":
        table, steps = reduce(read.interactions, options, progress)
        records = catalogue(dict.fromkeys(table.item_ids))
    else:
        records = catalogue(dict.fromkeys(read.interactions.item_ids))
        table, steps = reduce(read.interactions, options, progress, described=records)
    for record in records.values():
        _keep_path(record, paths.items[0].parent, out)
    notes = []
    if options.keep_images:
        images = read_images(form, with_images, dict.fromkeys(table.item_ids), progress)
        for item, image in images.items():
            record = records.setdefault(item, {"item_id": item})
            record["image"] = image_beside(image, out)
        num_without = table.num_items - len(images)
        notes.append(f"{num_without:,} of {table.num_items:,} items have no image")
    version = {"version": package_version(name)} if is_plugin(name) else {}
    return write_dataset(
        out,
        table,
        records,
        read=read,
        steps=steps,
        source={
            **{"source": name, **version},
            **{"files": file_sizes(all_paths), "options": asdict(options)},
        },
        time_unit=form.time_unit,
        notes=tuple(notes),
        progress=progress,
    )


def _keep_path(record: dict[str, Any], folder: Path, out: Path) -> None:
    """Make the image path of a record, if it has one, relative to the written folder."""
    if is_image_in(record.get("image"), folder):
        record["image"] = image_from(record["image"], folder, out)


def check_place(out: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, before anything is read.

    Raises:
        FileExistsError: If it exists and may not be replaced.
        OSError: If it cannot be written.
    """
    recover_folder(out)
    _refuse_existing(out, overwrite)
    check_writable(out, parents=True)


def file_sizes(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The names and sizes of files, for `dataset.json`."""
    return [{"name": path.name, "bytes": path.stat().st_size} for path in paths]


def write_dataset(
    out: Path,
    table: Interactions,
    records: Mapping[str, Mapping[str, Any]],
    *,
    read: Read,
    steps: Sequence[dict[str, Any]],
    source: Mapping[str, Any],
    time_unit: str,
    notes: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Prepared:
    """Write a native folder, whole or not at all.

    Args:
        out: The folder, already checked by `check_place`.
        table: The kept interactions; items without interactions are included.
        records: The records of the items, by id.
        read: The counts of what was read.
        steps: The counts after each step.
        source: The files and options, for `dataset.json`.
        time_unit: The unit of the timestamps.
        notes: What else was left out or merged.
        progress: Called with "writing".

    Raises:
        OSError: If it cannot be written.
    """
    if progress is not None:
        progress("writing", 0, 1)
    table = renumbered(table)
    lines = [
        json.dumps(records.get(item) or {"item_id": item}, ensure_ascii=False) + "\n"
        for item in table.item_ids
    ]
    catalogue = "".join(lines).encode(errors="replace")  # halves of surrogate pairs, in texts
    prepared = Prepared(
        folder=out,
        steps=tuple(steps),
        num_below_rating=read.num_below_rating,
        num_repeats=_num_repeats(table),
        num_without_text=sum(len(records.get(item, ())) < 2 for item in table.item_ids),
        content_sha256=_hash(table, catalogue),
        notes=notes,
    )
    description = {
        "format": _FORMAT_VERSION,
        **source,
        "time_unit": time_unit,
        "interactions_read": read.num_rows,
        **_content(prepared, table),
    }
    _write(out, table, catalogue, description)
    if progress is not None:
        progress("writing", 1, 1)
    return prepared


def _content(prepared: Prepared, table: Interactions) -> dict[str, Any]:
    """The part of `dataset.json` about the kept interactions and items."""
    return {
        "interactions_below_min_rating": prepared.num_below_rating,
        "steps": list(prepared.steps),
        "users": table.num_users,
        "items": table.num_items,
        "interactions": len(table),
        "repeated_pairs": prepared.num_repeats,
        "items_without_text": prepared.num_without_text,
        "content_sha256": prepared.content_sha256,
    }


def renumbered(table: Interactions) -> Interactions:
    """Items in the order of their first appearance, so that preparing again changes nothing.

    Items without interactions come last, in their order.
    """
    used, places = np.unique(table.items, return_index=True)
    unused = np.setdiff1d(np.arange(table.num_items), used)
    order = np.concatenate([used[np.argsort(places)], unused])
    rows = np.empty(len(order), dtype=np.int64)
    rows[order] = np.arange(len(order))
    return replace(
        table, items=rows[table.items], item_ids=tuple(table.item_ids[row] for row in order)
    )


def _num_repeats(table: Interactions) -> int:
    pairs = np.sort(table.users * table.num_items + table.items)
    return int(np.count_nonzero(pairs[1:] == pairs[:-1]))


def _hash(table: Interactions, catalogue: bytes) -> str:
    digest = hashlib.sha256()
    for keys in (table.user_ids, table.item_ids):
        digest.update(json.dumps(keys).encode())
    for rows in (table.users, table.items, table.timestamps):
        digest.update(rows.astype("<i8").tobytes())
    if table.weights is not None:
        digest.update(table.weights.astype("<f8").tobytes())
    digest.update(catalogue)
    return digest.hexdigest()


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out.is_dir() and (out / "dataset.json").is_file()):
        raise FileExistsError(f"{out} exists and is not a prepared folder, so it is not replaced")
    if not overwrite:
        raise FileExistsError(f"{out} exists already; --force (overwrite=True) replaces it")
    others = sorted(path.name for path in out.iterdir() if path.name not in FILE_NAMES)
    if others:
        raise FileExistsError(
            f"{out} also holds {', '.join(others[:5])}, which would be lost, so it is not replaced"
        )


def refuse_input(out: Path, paths: Sequence[Path]) -> None:
    """Refuse a folder that holds an input file.

    Raises:
        FileExistsError: It names the file.
    """
    for path in paths:
        if out.resolve() in path.resolve().parents:
            raise FileExistsError(f"{out} holds {path.name}, which is read, so it is not replaced")


def _write(out: Path, table: Interactions, catalogue: bytes, description: dict[str, Any]) -> None:
    with replacing_folder(out) as folder:
        frame = pl.DataFrame(
            {
                "user_id": pl.Series(table.user_ids, dtype=pl.String).gather(table.users),
                "item_id": pl.Series(table.item_ids, dtype=pl.String).gather(table.items),
                "timestamp": table.timestamps,
                **({} if table.weights is None else {"weight": table.weights}),
            }
        )
        write_parquet(frame, folder / FILE_NAMES[0])
        (folder / FILE_NAMES[1]).write_bytes(gzip.compress(catalogue, mtime=0))
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (folder / FILE_NAMES[2]).write_text(text, encoding="utf-8")


def read_description(folder: str | Path) -> dict[str, Any] | None:
    """The content of `dataset.json` of a prepared folder; None if the folder has none.

    Raises:
        DataError: If the file is not what `prepare` writes.
    """
    path = Path(folder) / FILE_NAMES[2]
    if not path.is_file():
        return None
    description = read_json(path)
    if not has_format(description, _FORMAT_VERSION):
        raise DataError(f"{path} must be of format {_FORMAT_VERSION}, which evalrec prepare writes")
    return description
