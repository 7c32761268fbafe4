"""What the names of embeddings and of quantizers stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from semtok import (
    QUANTIZERS,
    Catalog,
    CatalogError,
    ImageEmbedding,
    LsaEmbedding,
    OptimizedProductQuantizer,
    RqVaeConfig,
    StoredEmbedding,
    TextEmbedding,
    embedding_source,
    is_stored,
)
from semtok.embedding.kinds import embedding_kind, on_device

CATALOG = Catalog(
    item_ids=["a", "b", "c", "d"],
    fields={
        "title": ["red soap", "blue soap", "red comb", "blue brush"],
        "brand": ["Acme", None, "Bolt", "Acme"],
        "image": ["a.png", "b.png", "c.png", "d.png"],
    },
)
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("spec", "fields", "kind"),
    [
        ("lsa", ("title",), "lsa"),
        ("minilm", ("title", "brand"), "text"),
        ("sentence-transformers/sentence-t5-base", ("title",), "text"),
        ("/models/a@b/t5", ("title",), "text"),
        ("resnet50", ("photo",), "image"),
        ("ViT-B-32@laion2b_s34b_b79k", ("photo",), "image"),
        ("ViT-B-32@/models/w.safetensors", ("photo",), "image"),
        ("ViT-B-32", ("image",), "image"),
        ("ViT-B-32", ("photo",), "text"),
        ("ViT-B-32", ("title", "image"), "text"),
        ("x.npy", ("image",), "stored"),
        ("x.parquet", (), "stored"),
        ("folder/x.safetensors", ("title",), "stored"),
        ("/mnt/a@b/x.safetensors", ("title",), "stored"),
        ("a@b.npy", ("title",), "stored"),
    ],
)
def test_names_stand_for_kinds(spec: str, fields: tuple[str, ...], kind: str) -> None:
    assert embedding_kind(spec, fields) == kind
    assert is_stored(spec) == (kind == "stored")


def test_lsa_is_fitted_to_the_catalogue_or_its_chunks() -> None:
    calls: list[tuple[int, int]] = []
    source = embedding_source(
        "lsa",
        catalog=CATALOG,
        fields=("title", "absent"),
        seed=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert isinstance(source, LsaEmbedding)
    assert calls == [(0, 1), (1, 1)]
    expected = LsaEmbedding.fit(CATALOG, fields=("title",), seed=3).embed(CATALOG)
    np.testing.assert_array_equal(source.embed(CATALOG), expected)
    chunks = (CATALOG.take(rows) for rows in ([0, 1], [2, 3]))
    again = embedding_source("lsa", catalog=chunks, fields=("title",), seed=3)
    assert again.fingerprint == source.fingerprint
    with pytest.raises(ValueError, match="fields must name at least one field of the catalogue"):
        embedding_source("lsa", catalog=CATALOG, fields=("absent",))


@pytest.mark.usefixtures("unchecked")  # a check of a source's type loads its model
def test_models_are_named_with_their_settings() -> None:
    options = {"precision": "bf16", "prompt": "item: ", "truncate_dim": 64}
    text = embedding_source("minilm", catalog=CATALOG, fields=("title",), **options)
    assert text == TextEmbedding(model="minilm", fields=("title",), **options)
    image = embedding_source(
        "RN50@openai", catalog=CATALOG, fields=("photo",), missing_images="empty", device="meta"
    )
    assert image == ImageEmbedding(
        model="RN50", weights="openai", image_field="photo", missing="empty"
    )
    assert isinstance(image, ImageEmbedding)
    assert image.device == "meta"
    photo = embedding_source("ViT-B-32", catalog=CATALOG, fields=("photo",), image_field="photo")
    assert photo == ImageEmbedding(image_field="photo")
    with pytest.raises(ValueError, match="fields must be the one with the images for 'resnet50'"):
        embedding_source("resnet50", catalog=CATALOG, fields=("title", "image"))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_files_are_embeddings_of_exactly_the_items(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".safetensors":
        save_file({"x": X}, path)
    else:
        frame = pl.DataFrame({"item_id": CATALOG.item_ids[::-1], "v": X[::-1].tolist()})
        frame.write_parquet(path)
    source = embedding_source(str(path), catalog=CATALOG)
    assert isinstance(source, StoredEmbedding)
    np.testing.assert_array_equal(source.embed(CATALOG), X)
    np.testing.assert_array_equal(source.embed(CATALOG.take([2, 0])), X[[2, 0]])
    chunks = [CATALOG.take([0, 1]), CATALOG.take([2, 3])]
    np.testing.assert_array_equal(embedding_source(str(path), catalog=chunks).embed(CATALOG), X)
    with pytest.raises(CatalogError, match=r"has 4 rows for 3 item ids|is not in the catalogue"):
        embedding_source(str(path), catalog=CATALOG.take([0, 1, 2]))


@pytest.mark.usefixtures("unchecked")  # a check of a source's type loads its model
def test_only_models_are_moved_to_a_device() -> None:
    lsa = LsaEmbedding.fit(CATALOG, fields=("title",))
    assert on_device(lsa, "meta") is lsa
    moved = on_device(TextEmbedding(model="some/model", batch_size=7), "meta")
    assert isinstance(moved, TextEmbedding)
    assert (moved.device, moved.batch_size) == ("meta", 7)


def test_kinds_of_quantizers_tell_what_they_take() -> None:
    assert QUANTIZERS["pq"].defaults["num_levels"] == 4
    assert QUANTIZERS["opq"].defaults == QUANTIZERS["pq"].defaults
    assert QUANTIZERS["opq"].quantizer_class is OptimizedProductQuantizer
    defaults = QUANTIZERS["rqvae"].defaults
    assert defaults["epochs"] == RqVaeConfig().epochs
    assert {"device", "progress", "log"} <= defaults.keys()
    assert "epochs" not in QUANTIZERS["rq"].defaults


def test_options_of_a_configuration_are_taken_by_name() -> None:
    x = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    small: dict[str, Any] = {"hidden_dims": (8,), "latent_dim": 2, "codebook_size": 4}
    kind = QUANTIZERS["rqvae"]
    log: list[dict[str, Any]] = []
    quantizer = kind.fit(x, **small, epochs=2, log=log.append)
    assert [entry["epoch"] for entry in log] == [1, 2]
    config = RqVaeConfig(**small, epochs=2)
    expected = kind.quantizer_class.fit(x, config)
    np.testing.assert_array_equal(quantizer.encode(x), expected.encode(x))
    with pytest.raises(TypeError, match="num_beams"):
        kind.fit(x, num_beams=2)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        kind.fit(x, epochs=0)
