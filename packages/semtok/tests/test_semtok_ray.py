from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from semtok import CatalogError, HierarchicalKMeans, LsaEmbedding, SemanticIds, Tokenizer
from semtok.catalog import Catalog, read_catalog
from semtok.code_shards import write_shards
from semtok.places import catalog_files
from semtok.ray_engine import RayOptions, embed_files, encode_files
from semtok.ray_tasks import Worker, packed, read_chunks, rows_of_arrow
from semtok.shards import shards_of

WORDS = ("red", "blue", "nail", "polish", "dry", "hair", "shampoo", "face", "cream", "oil")

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs semtok[ray]")


def items(start: int, stop: int) -> list[dict[str, object]]:
    generator = np.random.default_rng(start)
    return [
        {
            "item_id": f"i{row}",
            "title": " ".join(generator.choice(WORDS, 4)),
            "brand": [str(generator.choice(WORDS))] if row % 3 else None,
        }
        for row in range(start, stop)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue in three files of three kinds."""
    folder = tmp_path_factory.mktemp("catalogue")
    for name, rows in (("a", items(0, 150)), ("c", items(300, 390))):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    pl.DataFrame(items(150, 300)).write_parquet(folder / "b.parquet", row_group_size=40)
    return folder


@pytest.fixture(scope="module")
def catalog(folder: Path) -> Catalog:
    parts = [read_catalog(path) for path in catalog_files([folder])]
    return Catalog(
        item_ids=[item_id for part in parts for item_id in part.item_ids],
        fields={
            name: [value for part in parts for value in part.fields[name]]
            for name in ("title", "brand")
        },
    )


@pytest.fixture(scope="module")
def tokenizer(catalog: Catalog) -> Tokenizer:
    """Two views, reduced, fitted on the first 60 items: the other 330 are new."""
    known = catalog.take(range(60))
    return Tokenizer.fit(
        known,
        source={
            "title": LsaEmbedding.fit(known, fields=["title"], dim=6),
            "brand": LsaEmbedding.fit(known, fields=["brand"], dim=4),
        },
        pca_dim=3,
        quantizer=lambda x, progress=None: HierarchicalKMeans.fit(x, codebook_size=8, seed=1),
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import warnings

    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


# Ray sets options of its own that it calls deprecated, and leaves sockets open.
quiet = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("chunk_size", "shard_bytes", "most_shards"), [(37, 3000, 20), (1000, 1 << 26, 3)]
)
def test_actors_make_of_chunks_what_the_local_engine_makes_of_all(
    folder: Path,
    catalog: Catalog,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    chunk_size: int,
    shard_bytes: int,
    most_shards: int,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda packed: packed))
    worker = Worker(packed(tokenizer.views, tokenizer.quantizer), "cpu")
    places = catalog_files([folder])
    shards = shards_of(places, shard_bytes)
    assert 3 <= len(shards) <= most_shards
    batches = []
    for number in range(len(shards)):
        task = pa.table({"number": [number]})
        for chunk in read_chunks(task, shards, "item_id", chunk_size, ["title", "brand"]):
            batches.append(worker(chunk))  # noqa: PERF401
    joined = pa.concat_tables(batches)
    assert joined["item_id"].to_pylist() == catalog.item_ids
    files = [shards[number].place for number in joined["number"].to_pylist()]
    assert files == [
        place for place, count in zip(places, (150, 150, 90), strict=True) for _ in range(count)
    ]
    rows: dict[int, list[int]] = {}
    for number, row in zip(joined["number"].to_pylist(), joined["row"].to_pylist(), strict=True):
        rows.setdefault(number, []).append(row)
    assert all(part == list(range(len(part))) for part in rows.values())
    x = np.concatenate(
        [
            view.reduction.transform(view.source.embed(catalog))
            for view in tokenizer.views
            if view.source is not None and view.reduction is not None
        ],
        axis=1,
    )
    np.testing.assert_array_equal(rows_of_arrow(joined["x"]), x)
    np.testing.assert_array_equal(rows_of_arrow(joined["codes"]), tokenizer.quantizer.encode(x))


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_codes_of_the_local_engine(
    folder: Path, catalog: Catalog, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    local = tokenizer.encode(catalog)
    calls: list[tuple[int, int]] = []
    encoding = encode_files(
        tokenizer,
        [folder],
        workspace=tmp_path,
        options=RayOptions(batch_size=37),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert encoding.semantic_ids.item_ids == catalog.item_ids
    np.testing.assert_array_equal(encoding.semantic_ids.codes, local.semantic_ids.codes)
    assert encoding.collisions == local.collisions
    assert encoding.collisions is not None
    assert encoding.collisions.num_moved > 0  # else the order would not have mattered
    assert encoding.drift == local.drift
    assert calls == [(150, 0), (300, 0), (390, 0), (390, 390)]

    source = tokenizer.views[0].source
    assert source is not None
    ids, x = embed_files(source, [folder / "c.jsonl", folder / "a.jsonl"], tmp_path / "x.npy")
    assert ids == [*catalog.item_ids[300:], *catalog.item_ids[:150]]
    expected = source.embed(catalog)
    np.testing.assert_array_equal(x, np.concatenate([expected[300:], expected[:150]]))


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("second", "words"),
    [
        ('{"item_id": "y", "title": "b"}\n{"item_id": \n', "second.jsonl, line 2: malformed JSON"),
        ('{"item_id": "x", "title": "b"}\n', "second.jsonl: item id 'x' is already in .*first"),
        ('{"item_id": "y", "name": "b"}\n', "has none of the fields title"),
    ],
)
def test_ray_refuses_what_the_local_engine_refuses(
    tokenizer: Tokenizer, tmp_path: Path, second: str, words: str
) -> None:
    first = '{"item_id": "x", "title": "oil", "brand": "red"}\n'
    (tmp_path / "first.jsonl").write_text(first)
    (tmp_path / "second.jsonl").write_text(second)
    source = tokenizer.views[0].source
    assert source is not None
    with pytest.raises(CatalogError, match=words) as refusal:
        embed_files(
            source, [tmp_path / "first.jsonl", tmp_path / "second.jsonl"], tmp_path / "x.npy"
        )
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "x.npy").exists()


def test_files_are_found(folder: Path, tmp_path: Path) -> None:
    a, b, c = (str(folder / name) for name in ("a.jsonl", "b.parquet", "c.jsonl"))
    assert catalog_files([folder]) == [a, b, c]
    assert catalog_files([f"file://{folder}"]) == [a, b, c]
    assert catalog_files([str(folder / "*.jsonl"), b]) == [a, c, b]
    with pytest.raises(CatalogError, match=r"a.jsonl: is given twice"):
        catalog_files([folder, folder / "a.jsonl"])
    with pytest.raises(CatalogError, match="no catalogue there"):
        catalog_files([tmp_path])
    with pytest.raises(CatalogError, match="no catalogue there"):
        catalog_files([tmp_path / "absent*.jsonl"])


def test_shards_hold_the_codes_in_order(tmp_path: Path) -> None:
    codes = np.arange(10).reshape(5, 2)
    table = SemanticIds(codes=codes, codebook_sizes=(9, 10), item_ids=list("abcde"))
    write_shards(table, tmp_path / "out", shard_size=2)
    frame = pl.read_parquet(tmp_path / "out")
    assert frame["item_id"].to_list() == list("abcde")
    assert frame["codes"].to_list() == codes.tolist()
    assert len(list((tmp_path / "out").iterdir())) == 3
    with pytest.raises(FileExistsError, match="exists already"):
        write_shards(table, tmp_path / "out")


def test_options_are_checked(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        RayOptions(batch_size=0)
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        RayOptions(num_workers=0)
    with pytest.raises(ValueError, match="shard_bytes must be at least 1, got 0"):
        RayOptions(shard_bytes=0)
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    known = Catalog(item_ids=list("abcdefghi"), fields={})
    stored = Tokenizer.fit(known, embeddings=x)
    with pytest.raises(ValueError, match="views must have a source"):
        encode_files(stored, [tmp_path], workspace=tmp_path)
