from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from semtok import (
    Catalog,
    CatalogError,
    HierarchicalKMeans,
    LsaEmbedding,
    ResidualQuantizer,
    SemanticIds,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
)

FIT = partial(HierarchicalKMeans.fit, codebook_size=4)


def catalog(start: int, stop: int) -> Catalog:
    colours = ("red", "green", "blue", "black", "white")
    things = ("polish", "cream", "soap", "brush", "comb", "mirror")
    titles = [f"{colours[row % 5]} {things[row % 6]} {row % 7}" for row in range(start, stop)]
    return Catalog(item_ids=[f"i{row}" for row in range(start, stop)], fields={"title": titles})


def fit(policy: str = "reassign", **options: object) -> Tokenizer:
    items = catalog(0, 40)
    source = LsaEmbedding.fit(items, dim=8)
    return Tokenizer.fit(items, source=source, quantizer=FIT, policy=policy, **options)


def without_digests(folder: Path) -> None:
    """Makes a folder of format 1, which had none."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        del config["files"], config["digest"]
        path.write_text(json.dumps({**config, "format": 1}))


@pytest.mark.parametrize("policy", ["reassign", "suffix", "allow"])
def test_ids_given_never_move_and_new_ones_never_collide(policy: str) -> None:
    tokenizer = fit(policy)
    known = tokenizer.semantic_ids
    assert known.num_levels == tokenizer.quantizer.num_levels + (policy == "suffix")
    ids = tokenizer.encode(catalog(20, 60)).semantic_ids
    assert ids.item_ids == [f"i{row}" for row in range(20, 60)]
    np.testing.assert_array_equal(ids.codes[:20], known.codes[20:])
    everything = np.unique(np.concatenate([known.codes, ids.codes[20:]]), axis=0)
    assert (len(everything) == 60) == (policy != "allow")
    longer = tokenizer.extended(ids)
    assert len(longer.semantic_ids) == 60
    np.testing.assert_array_equal(longer.semantic_ids.codes[:40], known.codes)
    again = longer.encode(catalog(20, 60))
    np.testing.assert_array_equal(again.semantic_ids.codes, ids.codes)
    assert (again.drift, again.collisions) == (None, None)


def test_what_became_of_new_items_is_said_of_themselves() -> None:
    known = catalog(0, 40)
    x = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    quantizer = partial(ResidualQuantizer.fit, num_levels=1, codebook_size=4)
    tokenizer = Tokenizer.fit(known, embeddings=x, quantizer=quantizer, policy="suffix")
    encoding = tokenizer.encode(catalog(40, 43), embeddings=x[[0, 1, 10]])
    assert encoding.collisions is not None
    assert (encoding.collisions.rate, encoding.collisions.largest_bucket) == (
        pytest.approx(2 / 3),
        2,
    )
    assert encoding.collisions.num_moved == 3
    assert encoding.drift.placement == "3 of which got another code, as theirs was taken"


def test_identical_items_have_codes_of_their_own() -> None:
    items = Catalog(item_ids=list("abcdefg"), fields={"title": ["tea"] * 7})
    tokenizer = Tokenizer.fit(items, source=LsaEmbedding.fit(items), quantizer=FIT)
    assert len(np.unique(tokenizer.semantic_ids.codes, axis=0)) == 7
    assert tokenizer.collisions is not None
    assert tokenizer.collisions.rate == 0


def test_embeddings_from_elsewhere_pass_pca() -> None:
    items = catalog(0, 40)
    x = np.random.default_rng(0).normal(size=(40, 6))
    tokenizer = Tokenizer.fit(items, embeddings=x, pca_dim=3, whiten=True, quantizer=FIT)
    reduction = tokenizer.views[0].reduction
    assert reduction is not None
    np.testing.assert_allclose(reduction.transform(x).std(axis=0, ddof=1), 1, atol=1e-4)
    same = tokenizer.encode(items).semantic_ids
    np.testing.assert_array_equal(same.codes, tokenizer.semantic_ids.codes)
    with pytest.raises(ValueError, match="embeddings must be given for 5 new items"):
        tokenizer.encode(catalog(38, 45))
    new = tokenizer.encode(catalog(38, 45), embeddings=x[:7]).semantic_ids
    np.testing.assert_array_equal(new.codes[:2], tokenizer.semantic_ids.codes[38:])
    with pytest.raises(ValueError, match=r"one row per item \(7\), got 40"):
        tokenizer.encode(catalog(38, 45), embeddings=x)


def test_stages_are_reported() -> None:
    calls: list[tuple[str, int, int]] = []
    fit(progress=lambda *call: calls.append(call))
    assert ("embedding", 40, 40) in calls
    assert ("quantizing", 40, 40) in calls
    assert calls[-1] == ("measuring", 1, 1)


def test_folders_round_trip(tmp_path: Path) -> None:
    tokenizer = fit("suffix", pca_dim=4, info={"paper": "PRORec"})
    save_tokenizer(tmp_path / "t", tokenizer)
    loaded = load_tokenizer(tmp_path / "t")
    new = catalog(30, 44)
    mine, theirs = loaded.encode(new), tokenizer.encode(new)
    np.testing.assert_array_equal(mine.semantic_ids.codes, theirs.semantic_ids.codes)
    assert mine.drift == theirs.drift
    assert loaded.info == {"paper": "PRORec"}
    for name in ("policy", "collisions", "distortion", "neighbour_overlap"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert loaded.semantic_ids.codebook_sizes == tokenizer.semantic_ids.codebook_sizes
    assert {path.suffix for path in (tmp_path / "t").rglob("*") if path.is_file()} == {
        ".json",
        ".npy",
        ".parquet",
        ".safetensors",
    }


def test_a_quantizer_of_ones_own_needs_no_source(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    quantizer = FIT(x)
    ids = SemanticIds(
        codes=quantizer.codes,
        codebook_sizes=quantizer.codebook_sizes,
        item_ids=[f"i{row}" for row in range(30)],
    )
    save_tokenizer(tmp_path / "t", Tokenizer(quantizer=quantizer, semantic_ids=ids))
    loaded = load_tokenizer(tmp_path / "t")
    assert (loaded.views[0].source, loaded.views[0].reduction) == (None, None)
    assert (loaded.distortion, loaded.neighbour_overlap) == (None, None)
    np.testing.assert_array_equal(loaded.quantizer.encode(x), quantizer.codes)
    np.testing.assert_array_equal(loaded.semantic_ids.codes, quantizer.codes)


def test_a_folder_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(tmp_path / "t", fit(info={"version": 1}))
    with pytest.raises(FileExistsError, match="exists already"):
        save_tokenizer(tmp_path / "t", fit(info={"version": 2}))
    with monkeypatch.context() as patch:
        patch.setattr(SemanticIds, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_tokenizer(tmp_path / "t", fit(info={"version": 2}), overwrite=True)
    assert load_tokenizer(tmp_path / "t").info == {"version": 1}
    save_tokenizer(tmp_path / "t", fit(info={"version": 3}), overwrite=True)
    assert load_tokenizer(tmp_path / "t").info == {"version": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="is not a tokenizer, so it is not replaced"):
        save_tokenizer(tmp_path / "other", fit(), overwrite=True)


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "t", fit())
    (tmp_path / "t" / "NOTES.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"t: also holds NOTES.txt, which would be lost"):
        save_tokenizer(tmp_path / "t", fit(), overwrite=True)
    assert (tmp_path / "t" / "NOTES.txt").read_text() == "mine"


def test_a_link_stays_and_its_folder_is_replaced(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "v1", fit())
    (tmp_path / "t").symlink_to("v1")
    save_tokenizer(tmp_path / "t", fit(info={"version": 2}), overwrite=True)
    assert (tmp_path / "t").readlink() == Path("v1")
    assert load_tokenizer(tmp_path / "v1").info == {"version": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "v1"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"format": 3}, r"has format 3, this semtok reads up to 2: upgrade it"),
        ({"format": None}, "names no format"),
        ({"kind": "quantizer"}, "kind must be 'tokenizer', got 'quantizer'"),
        ({"kind": "x", "digest": "x"}, "damaged, its digest differs"),
        ({"policy": "suffix"}, "semantic_ids must have"),
        ({"codebook_sizes": [1, 1, 1]}, "codes must be within the codebook sizes"),
        ({"collisions": {"rate": 1}}, "corrupt"),
    ],
)
def test_a_corrupt_or_newer_folder_is_refused(
    tmp_path: Path, damage: dict[str, object], words: str
) -> None:
    save_tokenizer(tmp_path / "t", fit())
    path = tmp_path / "t" / "config.json"
    without_digests(tmp_path / "t")
    config = {**json.loads(path.read_text()), **damage}
    levels = load_tokenizer(tmp_path / "t").semantic_ids.num_levels
    if "codebook_sizes" in damage:
        config["codebook_sizes"] = [1] * levels
    path.write_text(json.dumps(config))
    with pytest.raises(CatalogError, match=words):
        load_tokenizer(tmp_path / "t")
    path.write_text("{")
    with pytest.raises(CatalogError, match="malformed JSON"):
        load_tokenizer(tmp_path / "t")


def test_a_folder_of_one_view_as_written_before_there_were_views(tmp_path: Path) -> None:
    tokenizer = fit(pca_dim=4)
    save_tokenizer(tmp_path / "t", tokenizer)
    for part in ("source", "reduction"):
        (tmp_path / "t" / "views" / "0" / part).rename(tmp_path / "t" / part)
    path = tmp_path / "t" / "config.json"
    without_digests(tmp_path / "t")
    config = json.loads(path.read_text())
    del config["views"], config["neighbour_overlap"]
    config["collisions"] = {"rate": 0.0, "largest_bucket": 1}
    path.write_text(json.dumps({**config, "has_source": True, "has_reduction": True}))
    new = catalog(38, 45)
    np.testing.assert_array_equal(
        load_tokenizer(tmp_path / "t").encode(new).semantic_ids.codes,
        tokenizer.encode(new).semantic_ids.codes,
    )


def test_drift_is_the_ratio_of_distortions() -> None:
    x = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    items = Catalog(item_ids=[f"i{row}" for row in range(100)], fields={})
    quantizer = partial(ResidualQuantizer.fit, num_levels=2, codebook_size=4)
    tokenizer = Tokenizer.fit(items, embeddings=x[:100], quantizer=quantizer, policy="allow")
    new = Catalog(item_ids=[f"n{row}" for row in range(20)], fields={})

    def error(vectors: np.ndarray) -> float:
        decoded = tokenizer.quantizer.decode(tokenizer.quantizer.encode(vectors))
        return float(((vectors - decoded) ** 2).sum(axis=1).mean())

    drift = tokenizer.encode(new, embeddings=x[100:]).drift
    assert drift is not None
    assert drift.level == 2
    assert drift.ratio == pytest.approx(error(x[100:]) / error(x[:100]), rel=1e-4)
    assert drift.ratio < drift.threshold == 1.5
    assert not drift.refit
    far = tokenizer.encode(new, embeddings=x[100:] + 5).drift
    assert far is not None
    assert far.refit
    assert "fit again, as it is above 1.5" in str(far)
    patient = tokenizer.encode(new, embeddings=x[100:] + 5, refit_above=1e6).drift
    assert patient is not None
    assert not patient.refit
    # A tree's leaves are its items: only the clusters of its first level tell how far others are.
    tree = Tokenizer.fit(items, embeddings=x[:100], quantizer=FIT)
    assert tree.distortion is not None
    encoding = tree.encode(new, embeddings=x[100:])
    assert encoding.drift is not None
    assert encoding.drift.level == 1
    assert encoding.drift.ratio == pytest.approx(
        tree.quantizer.distortion(x[100:])[0] / tree.distortion[0]
    )
    assert encoding.drift.num_moved == 20
    same = Tokenizer.fit(items, embeddings=np.ones((100, 2)), quantizer=FIT)
    still = same.encode(new, embeddings=np.ones((20, 2))).drift
    assert still is not None
    assert still.ratio is None
    assert "not measured" in str(still)


def test_missing_files_of_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"no config.json there, so not a semtok folder"):
        load_tokenizer(tmp_path / "absent")
    save_tokenizer(tmp_path / "t", fit())
    (tmp_path / "t" / "codes.parquet").unlink()
    with pytest.raises(CatalogError, match=r"codes.parquet: no such file"):
        load_tokenizer(tmp_path / "t")


def test_a_tokenizer_checks_its_parts() -> None:
    items = catalog(0, 40)
    x = np.zeros((40, 2))
    with pytest.raises(ValueError, match="source or embeddings must be given"):
        Tokenizer.fit(items)
    with pytest.raises(ValueError, match="whiten must be given with pca_dim"):
        Tokenizer.fit(items, embeddings=x, whiten=True)
    with pytest.raises(ValueError, match=r"one row per item \(40\), got 3"):
        Tokenizer.fit(items, embeddings=x[:3])
    with pytest.raises(ValueError, match="embeddings must be of the views embedding, got 'title'"):
        fit().encode(items, embeddings={"title": x})
    with pytest.raises(ValueError, match="fuse must be left on for a single view"):
        Tokenizer.fit(items, embeddings=x, fuse=False)
    tokenizer = fit()
    longer = np.column_stack([tokenizer.semantic_ids.codes, np.zeros(40, dtype=np.int64)])
    with pytest.raises(ValueError, match="semantic_ids must have"):
        Tokenizer(
            quantizer=tokenizer.quantizer,
            semantic_ids=SemanticIds(
                codes=longer, codebook_sizes=(4,) * longer.shape[1], item_ids=items.item_ids
            ),
        )
