"""Commands that are given vectors in place of a catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from semtok import (
    Catalog,
    CatalogError,
    SemanticIds,
    Tokenizer,
    load_tokenizer,
    resolve_collisions,
)
from semtok.vector_files import holds_vectors, read_ids

Semtok = Callable[..., Any]
X = np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32)
IDS = [f"{row:04}" for row in range(48)]  # with leading zeros, which are kept
SMALL = ("--quantizer", "rq", "--levels", 2, "--codebook-size", 8)


def write_ids(path: Path, ids: list[str]) -> Path:
    path.write_text("".join(f"{item_id}\n" for item_id in ids))
    return path


def write_vectors(path: Path, x: np.ndarray, ids: list[str]) -> tuple[str, ...]:
    """Writes vectors in the format of the suffix; returns the arguments that name them."""
    if path.suffix == ".parquet":
        pl.DataFrame({"item_id": ids, "vector": x.tolist()}).write_parquet(path)
        return (path.name,)
    if path.suffix == ".npy":
        np.save(path, x)
    else:
        save_file({"x": x}, path)
    return (path.name, "--ids", write_ids(path.with_suffix(".txt"), ids).name)


def codes_in(path: Path) -> dict[str, list[int]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["item_id"]: row["codes"] for row in rows}


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_vectors_take_the_way_of_texts(semtok: Semtok, tmp_path: Path, suffix: str) -> None:
    old = write_vectors(tmp_path / f"old{suffix}", X[:40], IDS[:40])
    new = write_vectors(tmp_path / f"new{suffix}", X[30:], IDS[30:])
    done = semtok("fit", *old, "-o", "t", *SMALL)
    assert done.code == 0, done.stderr
    assert "40 items, 2 levels" in done.stdout
    # The oracle: the library's own steps.
    expected = SemanticIds.fit(
        X[:40], quantizer="rq", item_ids=IDS[:40], num_levels=2, codebook_size=8
    )
    tokenizer = load_tokenizer(tmp_path / "t")
    assert tokenizer.semantic_ids.item_ids == IDS[:40]
    np.testing.assert_array_equal(tokenizer.semantic_ids.codes, expected.codes)
    assert tokenizer.views[0].source is None

    done = semtok("encode", *new, "--tokenizer", "t", "--extend")
    assert done.code == 0, done.stderr
    raw = tokenizer.quantizer.encode(X[40:])
    codes, _, _ = resolve_collisions(
        raw,
        tokenizer.quantizer.codebook_sizes,
        policy="reassign",
        assigned=tokenizer.semantic_ids,
        quantizer=tokenizer.quantizer,
        x=X[40:],
    )
    table = codes_in(tmp_path / "new.codes.jsonl")
    assert list(table) == IDS[30:]
    assert [table[item_id] for item_id in IDS[40:]] == codes.tolist()
    assert [table[item_id] for item_id in IDS[30:40]] == expected.codes[30:].tolist()
    assert "8 new items" in done.stdout
    assert len(load_tokenizer(tmp_path / "t").semantic_ids) == 48
    assert semtok("encode", *new, *SMALL, "--force").code == 0  # without a tokenizer
    assert semtok("inspect", "t", "--html", "t.html").code == 0


def test_vectors_are_reduced_as_embeddings_are(semtok: Semtok, tmp_path: Path) -> None:
    arguments = write_vectors(tmp_path / "x.npy", X, IDS)
    done = semtok("fit", *arguments, "-o", "t", "--pca", 3, "--whiten", "--codebook-size", 8)
    assert done.code == 0, done.stderr
    expected = Tokenizer.fit(
        Catalog(item_ids=IDS, fields={}),
        embeddings=X,
        pca_dim=3,
        whiten=True,
        quantizer=lambda x, progress=None: SemanticIds.fit(x, codebook_size=8).quantizer,
    )
    loaded = load_tokenizer(tmp_path / "t")
    np.testing.assert_array_equal(loaded.semantic_ids.codes, expected.semantic_ids.codes)
    np.save(tmp_path / "long.npy", np.zeros((1, 7), dtype=np.float32))
    write_ids(tmp_path / "long.txt", ["n"])
    done = semtok("encode", "long.npy", "--ids", "long.txt", "--tokenizer", "t")
    assert done.code == 1
    assert "long.npy: must hold vectors of 6 numbers, as those that the tok" in done.stderr


def test_a_catalogue_of_known_items_needs_no_vectors(semtok: Semtok, tmp_path: Path) -> None:
    assert semtok("fit", *write_vectors(tmp_path / "x.npy", X, IDS), "-o", "t", *SMALL).code == 0
    (tmp_path / "items.jsonl").write_text('{"item_id": "0007", "title": "soap"}\n')
    done = semtok("encode", "items.jsonl", "--tokenizer", "t")
    assert done.code == 0, done.stderr
    known = load_tokenizer(tmp_path / "t").semantic_ids
    assert codes_in(tmp_path / "items.codes.jsonl") == {"0007": known.codes[7].tolist()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from semtok import LsaEmbedding, save_tokenizer

    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(folder / "x.npy", X, IDS)
    write_vectors(folder / "x.parquet", X, IDS)
    write_ids(folder / "few.txt", IDS[:47])
    write_ids(folder / "twice.txt", [*IDS[:47], "0003"])
    write_ids(folder / "blank.txt", [*IDS[:46], " ", "0047"])
    (folder / "none.txt").write_text("")
    (folder / "latin.txt").write_bytes("Öl\n".encode("latin-1"))
    (folder / "items.jsonl").write_text('{"item_id": "new", "title": "soap"}\n')
    texts = Catalog(item_ids=["a", "b"], fields={"title": ["red soap", "comb"]})
    source = LsaEmbedding.fit(texts)
    save_tokenizer(folder / "texts", Tokenizer.fit(texts, source=source))
    two = {"sound": X, "image": X}
    ids = Catalog(item_ids=IDS, fields={})
    save_tokenizer(folder / "two", Tokenizer.fit(ids, embeddings=two))
    save_tokenizer(folder / "one", Tokenizer.fit(ids, embeddings=X))
    return folder


REFUSALS = [
    ("fit x.npy -o z", 2, "is needed: the rows of x.npy have no ids"),
    ("fit x.npy --ids absent.txt -o z", 1, "absent.txt: no such file"),
    ("fit absent.npy --ids x.txt -o z", 1, "absent.npy: no such file"),
    ("fit x.npy --ids few.txt -o z", 1, "x.npy: has 48 rows for 47 item ids"),
    ("fit x.npy --ids twice.txt -o z", 1, "line 48: item id '0003' is already that of line 4"),
    ("fit x.npy --ids blank.txt -o z", 1, "blank.txt, line 47: 'id' is empty"),
    ("fit x.npy --ids none.txt -o z", 1, "none.txt: holds no ids"),
    ("fit x.npy --ids latin.txt -o z", 1, "latin.txt: must be text in UTF-8, one id per line"),
    ("fit x.parquet --ids x.txt -o z", 2, "has no effect: x.parquet has ids of its own"),
    ("fit items.jsonl --ids x.txt -o z", 2, "the items of items.jsonl have ids of their own"),
    ("fit x.npy --ids x.txt --fields title -o z", 2, "the catalogue is vectors, which are not"),
    ("fit x.npy --ids x.txt --embedding lsa -o z", 2, "the catalogue is vectors, which are not"),
    ("fit x.npy --ids x.txt --views a,b -o z", 2, "the catalogue is vectors, which are not"),
    ("fit x.npy --ids x.txt --cache c -o z", 2, "the catalogue is vectors, which are not"),
    ("fit x.npy --ids x.txt --engine ray -o z", 2, "the catalogue is vectors, which are not"),
    ("encode x.npy --ids x.txt -o x.txt --force", 1, "must end in one of"),
    (
        "encode x.npy --ids x.txt --tokenizer texts",
        1,
        "x.npy: holds vectors, but the tokenizer embeds the view 'embedding' itself: give",
    ),
    (
        "encode x.npy --ids x.txt --tokenizer two",
        1,
        "the tokenizer has the views 'sound', 'image': give it a catalogue and --views "
        "sound=FILE,image=FILE",
    ),
    (
        "encode items.jsonl --tokenizer one",
        1,
        "items.jsonl: holds 1 new items without vectors, but the tokenizer was fitted on vectors: "
        "give a file of their vectors instead, with --ids, or in addition, by --embedding",
    ),
    ("encode items.jsonl --tokenizer two", 1, "give them by --views NAME=FILE"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSALS)
def test_refusals_are_one_sentence_and_write_nothing(
    semtok: Semtok, folder: Path, arguments: str, code: int, words: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    done = semtok(*arguments.split(), cwd=folder)
    assert done.code == code
    shown = " ".join(done.stderr.replace("│", " ").split())
    assert words in shown
    assert done.stdout == ""
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": ["a"], "v": [[1.0, 2.0]]}, True),
        ({"id": [1], "v": [[1, 2]]}, True),
        ({"id": ["a"], "x": [1.0], "y": [2.0]}, True),
        ({"id": ["a"], "v": [[1.0]], "price": [2.0]}, False),
        ({"id": ["a"], "title": ["soap"], "v": [[1.0]]}, False),
        ({"id": ["a"], "title": [1.0]}, False),  # a title may be a number
        ({"id": ["a"], "tags": [["x"]]}, False),
        ({"id": ["a"]}, False),
    ],
)
def test_a_parquet_file_is_of_vectors_or_of_items(
    tmp_path: Path, columns: dict[str, list[object]], expected: bool
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "x.parquet")
    assert holds_vectors(tmp_path / "x.parquet") == expected


def test_a_broken_parquet_file_is_left_to_the_reader_of_catalogues(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    assert not holds_vectors(tmp_path / "x.parquet")


def test_ids_are_taken_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeff007\r\n Öl \r\n日本".encode())
    assert read_ids(path) == ["007", " Öl ", "日本"]
    path.write_bytes(b"a\n\n")
    with pytest.raises(CatalogError, match="line 2: 'id' is empty"):
        read_ids(path)
