"""Shards of files hold what the files hold; checkpoints keep what was finished of them."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok.catalog import Catalog, CatalogError, read_catalog
from semtok.checkpoints import Checkpoint
from semtok.embedding.chunks import writing_npy
from semtok.places import file_system
from semtok.ray_tasks import rows_of_arrow, rows_to_arrow
from semtok.shard_checks import FileChecks
from semtok.shards import Shard, shard_chunks, shards_of


def joined(path: Path, shard_bytes: int, chunk_size: int = 7) -> tuple[list[str], list[object]]:
    """The ids and titles of the shards of a file, one after the other."""
    ids: list[str] = []
    titles: list[object] = []
    for shard in shards_of([str(path)], shard_bytes):
        for chunk in shard_chunks(shard, "item_id", chunk_size):
            ids += chunk.item_ids
            titles += chunk.fields.get("title", [None] * len(chunk))
    return ids, titles


def whole(catalog: Catalog) -> tuple[list[str], list[object]]:
    return catalog.item_ids, list(catalog.fields.get("title", [None] * len(catalog)))


@settings(max_examples=150, deadline=None)
@given(
    titles=st.lists(st.text(max_size=9) | st.none(), min_size=1, max_size=9),
    blanks=st.lists(st.sampled_from(["", "\n", " \r\n"]), min_size=9, max_size=9),
    end=st.sampled_from(["", "\n", "\r\n"]),
    shard_bytes=st.integers(1, 200),
)
def test_lines_are_in_one_shard_each(
    tmp_path_factory: pytest.TempPathFactory,
    titles: list[str | None],
    blanks: list[str],
    end: str,
    shard_bytes: int,
) -> None:
    rows = [
        json.dumps({"item_id": row} | ({} if title is None else {"title": title}))
        for row, title in enumerate(titles)
    ]
    lines = [f"{row}\n{blank}" for row, blank in zip(rows, blanks, strict=False)]
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(("".join(lines).rstrip() + end).encode())
    assert joined(path, shard_bytes) == whole(read_catalog(path))


@pytest.mark.parametrize("shard_bytes", [1, 900, 1 << 26])
def test_row_groups_are_in_one_shard_each(tmp_path: Path, shard_bytes: int) -> None:
    path = tmp_path / "x.parquet"
    frame = pl.DataFrame({"item_id": range(100), "title": [f"title {row}" for row in range(100)]})
    frame.write_parquet(path, row_group_size=9)
    shards = shards_of([str(path)], shard_bytes)
    assert [shard.first_row for shard in shards] == [9 * shard.start for shard in shards]
    assert len(shards) == {1: 12, 1 << 26: 1}.get(shard_bytes, len(shards))
    assert joined(path, shard_bytes) == whole(read_catalog(path))


def test_parquet_has_the_values_that_the_local_engine_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5, 678)
    frame = pl.DataFrame(
        {
            "item_id": ["a", "b"],
            "number": [1.5, None],
            "names": [["x", None], []],
            "object": [{"a": 1, "b": ["y"]}, None],
            "moment": [moment, None],
            "day": [moment.date(), None],
            "small": pl.Series([7, None], dtype=pl.UInt8),
            "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
            "flag": [True, None],
        }
    )
    frame.write_parquet(path)
    (shard,) = shards_of([str(path)], 1 << 26)
    (chunk,) = shard_chunks(shard, "item_id", 10)
    assert chunk == read_catalog(path)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl.gz"])
def test_what_is_read_from_the_start_is_a_shard(tmp_path: Path, suffix: str) -> None:
    import gzip

    text = "item_id,title\n1,a\n2,b\n" if "csv" in suffix else '{"item_id": 1}\n{"item_id": 2}\n'
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert len(shards_of([str(path)], 1)) == 1
    assert joined(path, 1) == whole(read_catalog(path))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(CatalogError, match=r"x.parquet: not a readable parquet file"):
        shards_of([str(tmp_path / "x.parquet")], 1 << 26)
    path = tmp_path / "x.jsonl"
    path.write_text('{"item_id": 1}\n{"item_id": 2}\n{"item_id": \n')
    with pytest.raises(CatalogError, match=r"x.jsonl from byte 20 on, line 1: malformed JSON"):
        joined(path, 20)
    with pytest.raises(CatalogError, match=r"x.jsonl, line 3: malformed JSON"):
        joined(path, 1 << 26)
    path.write_text("")
    with pytest.raises(CatalogError, match=r"x.jsonl: holds no items"):
        joined(path, 1 << 26)
    with pytest.raises(CatalogError, match=r"must end in one of"):
        shards_of([str(tmp_path / "x.txt")], 1)


def test_missing_file_systems_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"nowhere://x/y: no such kind of place"):
        file_system("nowhere://x/y")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"gs:// needs an extra .*'semtok\[gs\]'") as refusal:
        file_system("gs://bucket/y")
    assert "\n" not in str(refusal.value)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ImportError, match=r"file:// needs an extra .*'semtok\[ray\]'"):
        file_system("items.jsonl")


def test_files_are_checked_across_their_shards() -> None:
    shards = [Shard(place="a"), Shard(place="a"), Shard(place="b")]
    check = FileChecks(shards, [["title"], []])
    check.table(0, ["1", "2"], [["other"], None])
    check.table(1, ["3"], [["title"]])
    with pytest.raises(CatalogError, match=r"b: item id '2' is already in a"):
        check.table(2, ["2"], [["title"]])
    check.table(2, ["4"], [["name"]])
    with pytest.raises(CatalogError, match=r"b: has none of the fields title \(fields: name\)"):
        check.end()
    check = FileChecks(shards, [])
    check.table(0, ["1"], [[]])
    with pytest.raises(CatalogError, match=r"a: item id '1' is twice in it"):
        check.table(1, ["1"], [[]])
    with pytest.raises(CatalogError, match=r"b: holds no items"):
        check.end()


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_rows_cross_as_arrow_without_a_copy(dtype: type) -> None:
    rows = np.arange(12).reshape(4, 3).astype(dtype)
    column = rows_to_arrow(rows)
    again = rows_of_arrow(pa.table({"x": column})["x"])
    assert again.tolist() == rows.tolist()
    assert np.shares_memory(again, rows)
    assert rows_of_arrow(pa.table({"x": column}).slice(1, 2)["x"]).tolist() == rows[1:3].tolist()


def test_parts_without_rows_leave_an_array_readable(tmp_path: Path) -> None:
    """As where all items of a shard are known already."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    with writing_npy(tmp_path / "x.npy") as write:
        for part in (rows[:0], rows, rows[:0], rows):
            write(part)
    assert np.load(tmp_path / "x.npy").tolist() == [*rows.tolist(), *rows.tolist()]
    with writing_npy(tmp_path / "none.npy") as write:
        write(rows[:0])
    assert np.load(tmp_path / "none.npy").shape == (0, 3)


INPUTS = [{"place": f"x{number}", "size": "1", "start": number} for number in range(4)]
SETTINGS = {"models": "abc", "batch_size": 7}


def checkpoint(folder: Path, **other: object) -> Checkpoint:
    return Checkpoint(folder, **{"inputs": INPUTS, "settings": SETTINGS, **other})


def fresh(first: int) -> Iterator[tuple[int, pa.Table]]:
    """Two tables of each shard but shard 1, which is empty."""
    for number in (0, 2, 3):
        for part in range(2 if number >= first else 0):
            yield number, pa.table({"x": [10 * number + part]})


def values(tables: Iterator[pa.Table]) -> list[int]:
    return [value for table in tables for value in table["x"].to_pylist()]


@pytest.mark.parametrize("num_passed", [0, 1, 2, 3, 4, 5, 6])
def test_a_run_goes_on_at_the_first_shard_that_is_not_finished(
    tmp_path: Path, num_passed: int
) -> None:
    """Whatever the number of tables that passed before the run was killed."""
    kept = checkpoint(tmp_path / "c")
    assert kept.num_finished == 0
    running = kept.recorded(fresh(0))
    for _ in range(num_passed):
        next(running)
    running.close()
    again = checkpoint(tmp_path / "c")
    # Shard 0 is finished once a table of shard 2 comes, shard 2 with one of shard 3.
    assert again.num_finished == (0 if num_passed < 3 else 2 if num_passed < 5 else 3)
    before = [values(again.read(number)) for number in range(again.num_finished)]
    rest = values(table for _, table in again.recorded(fresh(again.num_finished)))
    assert [value for part in before for value in part] + rest == [0, 1, 20, 21, 30, 31]
    done = checkpoint(tmp_path / "c")
    assert done.num_finished == 4
    assert [values(done.read(number)) for number in range(4)] == [[0, 1], [], [20, 21], [30, 31]]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match=r"c: is a checkpoint of other settings \(batch_size\)"):
        checkpoint(tmp_path / "c", settings={**SETTINGS, "batch_size": 8})
    changed = [*INPUTS[:2], {**INPUTS[2], "place": "y"}, INPUTS[3]]
    with pytest.raises(ValueError, match=r"other input \(shard 2 was x2, and is now y"):
        checkpoint(tmp_path / "c", inputs=changed)
    with pytest.raises(ValueError, match=r"other input \(4 shards, and is now 3"):
        checkpoint(tmp_path / "c", inputs=INPUTS[:3])
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"other: is no checkpoint, and holds thesis.txt"):
        checkpoint(other)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path / "c")
    assert len(list(kept.recorded(fresh(0)))) == 6
    (tmp_path / "c" / "shard-000002.arrow").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"shard-000002.arrow is broken .* delete it"):
        list(checkpoint(tmp_path / "c").read(2))
