from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from semtok import (
    Catalog,
    CatalogError,
    HierarchicalKMeans,
    LsaEmbedding,
    ProductQuantizer,
    ResidualQuantizer,
    Tokenizer,
    View,
    ViewQuantizer,
    load_tokenizer,
    save_tokenizer,
)
from semtok.candidates import code_costs

X = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
RQ = partial(ResidualQuantizer.fit, num_levels=2, codebook_size=4)
PQ = partial(ProductQuantizer.fit, num_levels=2, codebook_size=4)
TREE = partial(HierarchicalKMeans.fit, codebook_size=4)


def items(start: int = 0, stop: int = 60) -> Catalog:
    colours = ("red", "green", "blue", "black", "white")
    brands = ("Acme", "Bolt", "Corona")
    return Catalog(
        item_ids=[f"i{row}" for row in range(start, stop)],
        fields={
            "title": [f"{colours[row % 5]} thing {row % 7}" for row in range(start, stop)],
            "brand": [None if row % 11 == 3 else brands[row % 3] for row in range(start, stop)],
        },
    )


@pytest.mark.parametrize("fit", [RQ, PQ])
def test_each_view_is_quantized_alone_and_the_codes_stand_side_by_side(fit: partial) -> None:
    views = ViewQuantizer.fit(X, dims=(4, 6), quantizer=fit)
    first, second = fit(X[:, :4]), fit(X[:, 4:])
    codes = views.encode(X)
    np.testing.assert_array_equal(codes[:, :2], first.encode(X[:, :4]))
    np.testing.assert_array_equal(codes[:, 2:], second.encode(X[:, 4:]))
    assert (views.num_levels, views.codebook_sizes, views.dim) == (4, (4,) * 4, 10)
    whole = np.concatenate([first.decode(codes[:, :2]), second.decode(codes[:, 2:])], axis=1)
    np.testing.assert_allclose(views.decode(codes), whole)
    np.testing.assert_array_equal(views.encode(X[7:9]), codes[7:9])


def test_distortion_after_each_level_is_that_of_the_decoded_prefix() -> None:
    views = ViewQuantizer.fit(X, dims=(4, 6), quantizer=RQ)
    codes = views.encode(X)
    for level, measured in enumerate(views.distortion(X), start=1):
        gaps = X - views.decode(codes[:, :level])
        assert measured == pytest.approx(float((gaps**2).sum(axis=1).mean()), rel=1e-5)
    still_open = np.tile(X[:, 4:].mean(axis=0), (60, 1))
    np.testing.assert_allclose(views.decode(codes[:, :1])[:, 4:], still_open, rtol=1e-5)


def test_costs_of_codes_are_distances_in_the_view_that_they_belong_to() -> None:
    views = ViewQuantizer.fit(X, dims=(4, 6), quantizer=RQ)
    costs = code_costs(views)
    path = tuple(views.encode(X[:1])[0].tolist())
    for level in range(4):
        decoded = views.decode(np.array([[*path[:level], code] for code in range(4)]))
        columns = slice(0, 4) if level < 2 else slice(4, 10)
        slow = ((decoded[:, columns] - X[0, columns]) ** 2).sum(axis=1)
        np.testing.assert_allclose(costs(X[0], path[:level]), slow, rtol=1e-4)
        assert costs(X[0], path[:level]).argmin() == path[level]


def test_costs_in_a_tree_are_infinite_where_it_has_no_node() -> None:
    tree = TREE(X)
    costs = code_costs(tree)
    for row in range(20):
        path = tuple(tree.codes[row].tolist())
        depth = max(
            level for level in range(len(path)) if np.isfinite(costs(X[row], path[:level])[0])
        )
        leaf_costs = costs(X[row], path[:depth])
        assert leaf_costs[path[depth]] == 0
        if depth + 1 < len(path):
            assert np.isinf(costs(X[row], path[: depth + 1])).all()
        assert np.isinf(costs(X[row], (0, 3, 3, 3, 3)[: tree.num_levels - 1])).any()


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("policy", ["reassign", "suffix"])
def test_views_end_to_end(tmp_path: Path, fuse: bool, policy: str) -> None:
    catalog = items()
    sources = {name: LsaEmbedding.fit(catalog, fields=(name,), dim=6) for name in catalog.fields}
    tokenizer = Tokenizer.fit(
        catalog,
        source=sources,
        fuse=fuse,
        pca_dim=2,
        whiten=True,
        quantizer=partial(RQ, codebook_size=16),
        policy=policy,
    )
    assert [view.name for view in tokenizer.views] == ["title", "brand"]
    assert tokenizer.quantizer.num_levels == (2 if fuse else 4)
    assert isinstance(tokenizer.quantizer, ViewQuantizer) != fuse
    x = np.concatenate(
        [view.reduction.transform(view.source.embed(catalog)) for view in tokenizer.views], axis=1
    )
    raw = tokenizer.quantizer.encode(x)
    if policy == "suffix":
        np.testing.assert_array_equal(tokenizer.semantic_ids.codes[:, :-1], raw)
    assert tokenizer.distortion == pytest.approx(tokenizer.quantizer.distortion(x))
    assert tokenizer.neighbour_overlap is not None
    save_tokenizer(tmp_path / "t", tokenizer)
    loaded = load_tokenizer(tmp_path / "t")
    new = items(50, 75)
    mine, theirs = loaded.encode(new), tokenizer.encode(new)
    np.testing.assert_array_equal(mine.semantic_ids.codes, theirs.semantic_ids.codes)
    np.testing.assert_array_equal(theirs.semantic_ids.codes[:10], tokenizer.semantic_ids.codes[50:])
    embeddings = {name: source.embed(new) for name, source in sources.items()}
    stored = tokenizer.encode(Catalog(item_ids=new.item_ids, fields={}), embeddings=embeddings)
    np.testing.assert_array_equal(stored.semantic_ids.codes, theirs.semantic_ids.codes)


def test_vectors_of_a_workspace_give_the_same_codes(tmp_path: Path) -> None:
    embeddings = {"a": X[:, :4], "b": X[:, 4:].astype(np.float64)}
    options = {"embeddings": embeddings, "fuse": False, "pca_dim": 3, "quantizer": PQ}
    held = Tokenizer.fit(items(), **options)
    mapped = Tokenizer.fit(items(), workspace=tmp_path, **options)
    np.testing.assert_array_equal(held.semantic_ids.codes, mapped.semantic_ids.codes)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npy"]


def test_trees_of_views_give_unique_codes() -> None:
    tokenizer = Tokenizer.fit(
        items(), embeddings={"a": X[:, :4], "b": np.ones((60, 2))}, fuse=False, quantizer=TREE
    )
    assert len(np.unique(tokenizer.semantic_ids.codes, axis=0)) == 60
    new = tokenizer.encode(items(55, 64), embeddings={"a": X[:9, :4], "b": np.ones((9, 2))})
    assert len(np.unique(new.semantic_ids.codes, axis=0)) == 9
    assert new.drift is not None
    assert new.drift.level == 1  # below it, fitted items are leaves
    assert new.drift.ratio is not None


def test_progress_of_views_is_one_bar() -> None:
    calls: list[tuple[int, int]] = []
    ViewQuantizer.fit(X, dims=(5, 5), quantizer=TREE, progress=lambda *call: calls.append(call))
    assert calls[-1] == (120, 120)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dims must add up to 10, the columns of x, got \(4, 5\)"):
        ViewQuantizer.fit(X, dims=(4, 5))
    views = ViewQuantizer.fit(X, dims=(4, 6), quantizer=PQ)
    with pytest.raises(ValueError, match="x must have dim 10"):
        views.encode(X[:, :9])
    with pytest.raises(ValueError, match="codes must have 1 to 4 levels, got 5"):
        views.decode(np.zeros((1, 5), dtype=np.int64))
    with pytest.raises(ValueError, match="view 'b': pca_dim must be within"):
        Tokenizer.fit(items(), embeddings={"a": X, "b": X[:, :2]}, pca_dim=3)
    with pytest.raises(ValueError, match=r"one row per item \(60\), got 5"):
        Tokenizer.fit(items(), embeddings={"a": X, "b": X[:5]})
    fitted = Tokenizer.fit(items(), embeddings={"a": X, "b": X[:, :3]}, quantizer=TREE)
    with pytest.raises(ValueError, match="views must have names, no two equal"):
        Tokenizer(
            quantizer=fitted.quantizer,
            semantic_ids=fitted.semantic_ids,
            views=(View(name="a"), View(name="a")),
        )
    views.save(tmp_path / "q")
    with pytest.raises(FileExistsError):
        views.save(tmp_path / "q")
    np.testing.assert_array_equal(ViewQuantizer.load(tmp_path / "q").encode(X), views.encode(X))
    (tmp_path / "q" / "1" / "config.json").unlink()
    with pytest.raises(CatalogError, match=r"config\.json: no such file"):
        ViewQuantizer.load(tmp_path / "q")
