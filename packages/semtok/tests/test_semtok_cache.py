from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from semtok import Catalog
from semtok.embedding import cache as cache_module
from semtok.embedding.cache import EmbeddingCache
from semtok.embedding.chunks import embed_chunks
from semtok.embedding.contract import EmbeddingSource, digest
from semtok.progress import Progress
from semtok.runs import KeyRuns


class Counting:
    """Embeds a text as its length and its first letters, and remembers what it was asked for."""

    dim = 3

    def __init__(self, fingerprint: str = "v1", fail_at: str | None = None) -> None:
        self.fingerprint = fingerprint
        self.fail_at = fail_at
        self.embedded: list[str] = []

    def contents(self, catalog: Catalog) -> list[str]:
        return catalog.texts(["title"])

    def embed(self, catalog: Catalog, *, progress: Progress | None = None) -> np.ndarray:
        texts = self.contents(catalog)
        if self.fail_at in texts:
            raise KeyboardInterrupt
        self.embedded += texts
        rows = [[len(text), *map(ord, (text + "  ")[:2])] for text in texts]
        if progress is not None:
            progress(len(texts), len(texts))
        return np.array(rows, dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        raise AssertionError("not part of these tests")


def catalogs(texts: list[str], size: int = 2) -> Iterator[Catalog]:
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        ids = [f"i{row}" for row in range(start, start + len(part))]
        yield Catalog(item_ids=ids, fields={"title": part})


TEXTS = ["tea", "coffee", "tea", "oil", "soap"]


@pytest.mark.parametrize("size", [1, 2, 5, 99])
@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_chunks_do_not_matter(tmp_path: Path, size: int, to_file: bool, cached: bool) -> None:
    source = Counting()
    assert isinstance(source, EmbeddingSource)
    path = tmp_path / "x.npy" if to_file else None
    x = embed_chunks(
        source, catalogs(TEXTS, size), path=path, cache=tmp_path / "c" if cached else None
    )
    np.testing.assert_array_equal(x, Counting().embed(next(catalogs(TEXTS, 5))))
    assert x.dtype == np.float32
    assert isinstance(x, np.memmap) == to_file
    if path is not None:
        np.testing.assert_array_equal(np.load(path, allow_pickle=False), x)
        assert not list(tmp_path.glob(".*"))


def test_a_second_run_embeds_only_what_changed(tmp_path: Path) -> None:
    first = Counting()
    embed_chunks(first, catalogs(TEXTS), cache=tmp_path)
    assert first.embedded == ["tea", "coffee", "oil", "soap"]  # the second tea is the first one
    second = Counting()
    x = embed_chunks(second, catalogs(["soap", "new", *TEXTS]), cache=tmp_path)
    assert second.embedded == ["new"]
    np.testing.assert_array_equal(x, Counting().embed(next(catalogs(["soap", "new", *TEXTS], 9))))
    other = Counting(fingerprint="v2")
    embed_chunks(other, catalogs(TEXTS), cache=tmp_path)
    assert len(other.embedded) == 4


def test_a_killed_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_SHARD", 2)
    path = tmp_path / "x.npy"
    killed = Counting(fail_at="soap")
    with pytest.raises(KeyboardInterrupt):
        embed_chunks(killed, catalogs(TEXTS, 5), path=path, cache=tmp_path / "c")
    assert killed.embedded == ["tea", "coffee"]
    assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    again = Counting()
    x = embed_chunks(again, catalogs(TEXTS, 5), path=path, cache=tmp_path / "c")
    assert again.embedded == ["oil", "soap"]
    np.testing.assert_array_equal(x, Counting().embed(next(catalogs(TEXTS, 5))))


@pytest.mark.parametrize("kind", ["cut", "text", "bit", "other tensors", "other dim"])
def test_a_broken_shard_is_embedded_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    embed_chunks(Counting(), catalogs(TEXTS[:2]), cache=tmp_path)
    embed_chunks(Counting(), catalogs(TEXTS[2:], 9), cache=tmp_path)
    shard = sorted((tmp_path / "v1").iterdir())[0]
    data, tensors = bytearray(shard.read_bytes()), load_file(shard)
    num_kept = sum(len(load_file(path)["keys"]) for path in (tmp_path / "v1").iterdir())
    if kind == "cut":
        shard.write_bytes(data[:-3])
    elif kind == "text":
        shard.write_bytes(b"hello")
    elif kind == "bit":
        where = data.find(tensors["vectors"].tobytes())
        data[where] ^= 4
        shard.write_bytes(data)
    elif kind == "other tensors":
        save_file({"x": tensors["vectors"]}, shard)
    else:
        save_file({**tensors, "vectors": tensors["vectors"][:, :2].copy()}, shard)
    again = Counting()
    with caplog.at_level(logging.WARNING):
        x = embed_chunks(again, catalogs(TEXTS, 9), cache=tmp_path)
    np.testing.assert_array_equal(x, Counting().embed(next(catalogs(TEXTS, 5))))
    assert shard.name in caplog.text
    assert "deleted, and its items are embedded again" in caplog.text
    assert sorted(again.embedded) == sorted({"tea", "coffee", "oil", "soap"} & set(again.embedded))
    assert len(again.embedded) == len(tensors["keys"]) < num_kept
    last = Counting()
    embed_chunks(last, catalogs(TEXTS, 9), cache=tmp_path)
    assert last.embedded == []


def test_progress_ends_with_all_items(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    embed_chunks(Counting(), catalogs(TEXTS), progress=progress)
    assert calls == [(2, 0), (4, 0), (5, 0), (5, 5)]
    calls.clear()
    embed_chunks(Counting(), catalogs(TEXTS), total=5, cache=tmp_path, progress=progress)
    assert calls[-1] == (5, 5)
    assert all(total == 5 for _, total in calls)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in .npy, got .*x.bin"):
        embed_chunks(Counting(), catalogs(TEXTS), path=tmp_path / "x.bin")
    for path in (None, tmp_path / "x.npy"):
        with pytest.raises(ValueError, match="at least one item, got none"):
            embed_chunks(Counting(), [], path=path)
    assert not list(tmp_path.iterdir())


def test_digests_differ_where_parts_do() -> None:
    array = np.arange(4, dtype=np.float32)
    parts = [
        ("a", "b"), ("ab",), ("ab", ""), (b"a", "b", "c"), ("\ud800",),
        (array,), (array.reshape(2, 2),), (array.astype(np.float64),), (array[::-1],),
    ]  # fmt: skip
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest("a", array) == digest(b"a", array.copy())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 60), max_size=12), max_size=8))
def test_key_runs_are_a_dictionary(parts: list[set[int]]) -> None:
    runs, expected = KeyRuns(), dict[int, int]()
    for part in parts:
        new = [key for key in part if key not in expected]
        values = [len(expected) + row for row in range(len(new))]
        expected |= dict(zip(new, values, strict=True))
        keys = np.array([(key, key + 7) for key in new], dtype=np.uint64).reshape(-1, 2)
        runs.add(keys, np.array(values, dtype=np.int64))
    every = np.array([(key, key + 7) for key in range(70)], dtype=np.uint64)
    assert runs.find(every).tolist() == [expected.get(key, -1) for key in range(70)]
    wrong = every + np.array([0, 1], dtype=np.uint64)
    assert (runs.find(wrong) == -1).all()


def test_any_number_of_shards_keeps_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SHARD", 1)
    catalog = next(catalogs([f"t{row}" for row in range(20)], 20))
    before = len(os.listdir("/dev/fd"))
    store = EmbeddingCache(tmp_path, Counting())
    store.embed(catalog)
    assert len(list(store.folder.iterdir())) == 20
    reopened = EmbeddingCache(tmp_path, Counting())
    assert len(os.listdir("/dev/fd")) == before
    next(store.folder.iterdir()).unlink()  # as another program that finds it broken
    np.testing.assert_array_equal(reopened.embed(catalog), Counting().embed(catalog))


def test_the_cache_reads_mapped_shards(tmp_path: Path) -> None:
    store = EmbeddingCache(tmp_path, Counting())
    catalog = next(catalogs(TEXTS, 9))
    x = store.embed(catalog)
    assert x.flags.writeable
    x[:] = 0
    np.testing.assert_array_equal(store.embed(catalog), Counting().embed(catalog))
