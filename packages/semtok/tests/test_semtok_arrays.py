"""Semantic IDs of vectors in one call, and what public objects say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from semtok import (
    QUANTIZERS,
    Catalog,
    EmbeddingCache,
    FittedSemanticIds,
    HierarchicalKMeans,
    ImageNetwork,
    LsaEmbedding,
    Pca,
    ResidualQuantizer,
    RqVaeConfig,
    SemanticIds,
    StoredEmbedding,
    Tokenizer,
    View,
    load_quantizer,
    measure_health,
    neighbour_overlap,
)
from semtok.collisions import measure_collisions, resolve_collisions

X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
IDS = [f"i{row:03}" for row in range(60)]
SMALL: dict[str, dict[str, object]] = {
    "hierarchical": {"codebook_size": 4},
    "pq": {"num_levels": 2, "codebook_size": 8},
    "opq": {"num_levels": 2, "codebook_size": 8},
    "rq": {"num_levels": 2, "codebook_size": 8},
    "random": {"num_levels": 2, "codebook_size": 8},
    "views": {"codebook_size": 4},
}


@pytest.mark.parametrize("policy", ["reassign", "suffix", "allow"])
@pytest.mark.parametrize("name", SMALL)
def test_one_call_does_what_the_steps_do(name: str, policy: str) -> None:
    fitted = SemanticIds.fit(X, quantizer=name, item_ids=IDS, policy=policy, seed=3, **SMALL[name])
    assert isinstance(fitted, FittedSemanticIds)
    quantizer = QUANTIZERS[name].fit(X, seed=3, **SMALL[name])
    raw = quantizer.codes
    codes, sizes, collisions = resolve_collisions(
        raw, quantizer.codebook_sizes, policy=policy, quantizer=quantizer, x=X
    )
    np.testing.assert_array_equal(fitted.codes, codes)
    assert (fitted.codebook_sizes, fitted.item_ids) == (sizes, IDS)
    np.testing.assert_array_equal(fitted.quantizer.encode(X), quantizer.encode(X))
    assert fitted.health.collision_rate == measure_collisions(raw).rate == collisions.rate
    assert fitted.health.resolved_collision_rate == measure_collisions(codes).rate
    distortion = [level.distortion for level in fitted.health.levels[: quantizer.num_levels]]
    assert distortion == pytest.approx(quantizer.distortion(X), rel=1e-5)
    space = "hamming" if name in ("pq", "opq", "views") else "prefix"
    overlap = neighbour_overlap(X, codes[:, : quantizer.num_levels], space=space)
    assert fitted.health.neighbour_overlap == overlap


def test_a_tokenizer_of_the_same_vectors_gives_the_same_codes() -> None:
    fitted = SemanticIds.fit(X, quantizer="rq", item_ids=IDS, **SMALL["rq"])
    tokenizer = Tokenizer(quantizer=fitted.quantizer, semantic_ids=fitted)
    new = Catalog(item_ids=["new", "i003"], fields={})
    encoding = tokenizer.encode(new, embeddings=np.stack([X[0] + 0.01, X[3]]))
    assert encoding.semantic_ids.codes[1].tolist() == fitted.codes[3].tolist()
    assert type(encoding.semantic_ids) is SemanticIds
    assert encoding.semantic_ids.codes[0].tolist() not in fitted.codes.tolist()


def test_a_fitted_quantizer_or_a_configuration_stands_for_itself(tmp_path: Path) -> None:
    tree = HierarchicalKMeans.fit(np.repeat(X[:20], 2, axis=0), codebook_size=4)
    same = SemanticIds.fit(tree.vectors, quantizer=tree)
    np.testing.assert_array_equal(same.codes, tree.codes)
    copied = SemanticIds.fit(tree.vectors.astype(np.float64), quantizer=tree)
    np.testing.assert_array_equal(copied.codes, tree.codes)
    other = SemanticIds.fit(X[20:60], quantizer=tree, policy="allow")
    np.testing.assert_array_equal(other.codes, tree.encode(X[20:60]))
    tree.save(tmp_path / "q")
    loaded = SemanticIds.fit(X[20:60], quantizer=load_quantizer(tmp_path / "q"), policy="allow")
    np.testing.assert_array_equal(loaded.codes, other.codes)

    config = RqVaeConfig(
        hidden_dims=(8,), latent_dim=2, codebook_size=8, num_levels=2, epochs=2, batch_size=16
    )
    options = {name: getattr(config, name) for name in ("hidden_dims", "latent_dim")}
    by_config = SemanticIds.fit(X, quantizer=config)
    by_name = SemanticIds.fit(
        X, quantizer="rqvae", codebook_size=8, num_levels=2, epochs=2, batch_size=16, **options
    )
    np.testing.assert_array_equal(by_config.codes, by_name.codes)


def test_items_are_called_as_they_are_told() -> None:
    few = X[:3]
    assert SemanticIds.fit(few).item_ids == ["0", "1", "2"]
    assert SemanticIds.fit(few, item_ids=[7, "07", 8]).item_ids == ["7", "07", "8"]
    assert SemanticIds.fit(few, item_ids=np.array([5, 6, 7])).item_ids == ["5", "6", "7"]


REFUSALS: list[tuple[dict[str, object], str]] = [
    ({"item_ids": IDS[:59]}, r"item_ids must be as many as vectors \(60\), got 59"),
    ({"item_ids": [*IDS[:59], "i000"]}, "item_ids must be unique"),
    ({"item_ids": [*IDS[:59], 1.5]}, "row 59: 'item_ids' must be a string or a whole number"),
    ({"quantizer": "kmeans"}, "quantizer must be one of hierarchical, pq, .* got 'kmeans'"),
    ({"quantizer": RqVaeConfig(), "seed": 1}, "seed has no effect: RqVaeConfig has its own"),
    ({"quantizer": ResidualQuantizer(codebooks=X[None]), "seed": 1}, "seed has no effect"),
    (
        {"quantizer": ResidualQuantizer(codebooks=X[None]), "num_levels": 1},
        "num_levels has no effect: the quantizer is fitted already",
    ),
    ({"quantizer": "rq", "num_levels": 1, "codebook_size": 4}, "codes must leave a free one"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("options", "words"), REFUSALS)
def test_what_does_not_fit_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SemanticIds.fit(X, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x must hold finite numbers"):
        SemanticIds.fit(np.full((3, 2), np.nan, dtype=np.float32))
    with pytest.raises(TypeError, match="num_beams"):
        SemanticIds.fit(X, quantizer="pq", num_beams=2)


CATALOG = Catalog(item_ids=IDS, fields={"title": [f"red soap {row}" for row in range(60)]})


def tokenizer() -> Tokenizer:
    source = LsaEmbedding.fit(CATALOG, dim=4)
    return Tokenizer.fit(CATALOG, source=source, pca_dim=2)


OBJECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "catalog": (lambda _: CATALOG, "Catalog(60 items, fields title)"),
    "table": (
        lambda _: SemanticIds.fit(X, quantizer="rq", num_levels=2).take(IDS[:0]),
        "SemanticIds(0 items, 2 levels of 256 codes, no two alike)",
    ),
    "fitted": (
        lambda _: SemanticIds.fit(X[:1], policy="allow"),
        "FittedSemanticIds(1 item, 1 level of 256 codes, collisions allowed)",
    ),
    "health": (
        lambda _: measure_health(SemanticIds.fit(X)),
        "CodeHealth(60 items, 1 level of 256 codes, used 23%, collisions 0.00%, "
        "once resolved 0.00%)",
    ),
    "pca": (lambda _: Pca.fit(X, dim=2), "Pca(5 to 2 dimensions)"),
    "view": (lambda _: View(name="sound"), "View('sound', vectors made elsewhere)"),
    "cache": (
        lambda folder: EmbeddingCache(folder, LsaEmbedding.fit(CATALOG)),
        "EmbeddingCache('",
    ),
    "network": (
        lambda _: ImageNetwork(network=[1], layers=[1, 2], transform=len),
        "ImageNetwork(list, 2 layers)",
    ),
    "stored": (
        lambda _: StoredEmbedding(path=Path("x.npy"), item_ids=IDS, vectors=X),
        "StoredEmbedding('x.npy', 60 items, dim 5)",
    ),
    "tokenizer": (
        lambda _: tokenizer(),
        "Tokenizer(HierarchicalKMeans of embedding, SemanticIds(60 items, 1 level of 256 codes, "
        "no two alike))",
    ),
    "view with all": (
        lambda _: tokenizer().views[0],
        "View('embedding', LsaEmbedding(title, brand, categories, features, description, ",
    ),
    "encoding": (
        lambda _: tokenizer().encode(CATALOG.take([1])),
        "Encoding(SemanticIds(1 item, 1 level of 256 codes, no two alike), 0 of them new)",
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_says_in_a_line_what_it_is(name: str, tmp_path: Path) -> None:
    make, words = OBJECTS[name]
    line = repr(make(tmp_path))
    assert line.startswith(words)
    assert "\n" not in line
    assert len(line) < 200
