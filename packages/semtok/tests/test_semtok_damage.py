"""A tokenizer's folder that was damaged is refused, whether or not it has digests."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from semtok import (
    Catalog,
    CatalogError,
    HierarchicalKMeans,
    LsaEmbedding,
    OptimizedProductQuantizer,
    Pca,
    RandomCodes,
    ResidualQuantizer,
    Tokenizer,
    load_quantizer,
    load_tokenizer,
    save_tokenizer,
)
from semtok.parts import read_part

pytestmark = pytest.mark.usefixtures("unchecked")

ITEMS = Catalog(
    item_ids=[f"i{row}" for row in range(40)],
    fields={"title": [f"{('red', 'blue', 'green')[row % 3]} soap {row % 7}" for row in range(40)]},
)
QUANTIZERS = {
    "tree": partial(HierarchicalKMeans.fit, codebook_size=4),
    "rq": partial(ResidualQuantizer.fit, num_levels=2, codebook_size=4),
    "opq": partial(OptimizedProductQuantizer.fit, num_levels=2, codebook_size=4),
    "random": partial(RandomCodes.fit, num_levels=2, codebook_size=16),
}


def saved(folder: Path, quantizer: str = "rq", policy: str = "suffix") -> Path:
    source = LsaEmbedding.fit(ITEMS, fields=("title",), dim=6)
    tokenizer = Tokenizer.fit(
        ITEMS, source=source, pca_dim=4, quantizer=QUANTIZERS[quantizer], policy=policy
    )
    save_tokenizer(folder, tokenizer)
    return folder


def undigested(folder: Path) -> None:
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        config = {name: config[name] for name in config if name not in ("files", "digest")}
        path.write_text(json.dumps({**config, "format": 1}))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_any_flipped_byte_of_any_file_is_noticed(tmp_path: Path, quantizer: str) -> None:
    folder = saved(tmp_path / "t", quantizer)
    loaded = load_tokenizer(folder)
    assert loaded.semantic_ids.item_ids == ITEMS.item_ids
    generator = np.random.default_rng(0)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 8
    for path in files:
        data = path.read_bytes()
        for place in generator.integers(0, len(data) - 1, 12).tolist():
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(generator.integers(0, 8))
            if bytes([data[place]]).isspace():
                continue
            path.write_bytes(damaged)
            with pytest.raises(CatalogError):
                load_tokenizer(folder)
        path.write_bytes(data)
    load_tokenizer(folder)


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("quantizer", load_quantizer),
        ("views/0/source", LsaEmbedding.load),
        ("views/0/reduction", Pca.load),
    ],
)
def test_a_part_alone_knows_its_files(tmp_path: Path, part: str, load: object) -> None:
    assert callable(load)
    path = saved(tmp_path / "t") / part / "tensors.safetensors"
    load(path.parent)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CatalogError, match=r"tensors.safetensors: damaged, its digest differs"):
        load(path.parent)
    path.unlink()
    with pytest.raises(CatalogError, match=r"tensors.safetensors: no such file"):
        load(path.parent)


def test_a_folder_without_digests_loads_as_before(tmp_path: Path) -> None:
    folder = saved(tmp_path / "t")
    codes = load_tokenizer(folder).semantic_ids.codes
    undigested(folder)
    np.testing.assert_array_equal(load_tokenizer(folder).semantic_ids.codes, codes)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_that_are_not_finite_are_refused(
    tmp_path: Path, quantizer: str, value: float
) -> None:
    folder = saved(tmp_path / "t", quantizer)
    undigested(folder)
    count = 0
    for path in folder.rglob("tensors.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32:
                continue
            damaged = tensor.copy()
            damaged.reshape(-1)[-1] = value
            save_file({**tensors, name: damaged}, path)
            with pytest.raises(CatalogError, match=f"{name} must be finite"):
                load_tokenizer(folder)
            count += 1
        save_file(tensors, path)
    assert count >= 5


@pytest.mark.parametrize("version", [-1, 0, True, 1.0, "1", None, 10**400])
def test_a_format_is_a_known_whole_number(tmp_path: Path, version: object) -> None:
    folder = saved(tmp_path / "t")
    undigested(folder)
    for path in folder.rglob("config.json"):
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), "format": version}))
        with pytest.raises(CatalogError, match=r"names no format|has format 1000") as refusal:
            load_tokenizer(folder)
        assert len(str(refusal.value)) < 300
        path.write_text(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebook_sizes": [4, 4, 10**400]}, "codebook_sizes must be a whole number within"),
        ({"codebook_sizes": [4, 4, 16.5]}, "codebook_sizes must be a whole number .* got 16.5"),
        ({"codebook_sizes": [4, 5, 40]}, r"quantizer's codebook sizes \(4, 4\), got \(4, 5\)"),
        ({"codebook_sizes": [4, True, 40]}, "codebook_sizes must be a whole number"),
        ({"codebook_sizes": {}}, "codebook_sizes must be a list"),
        ({"policy": "best"}, "policy must be one of suffix, reassign, allow, got 'best'"),
        ({"policy": ["suffix"]}, "policy must be one of"),
        ({"distortion": [1.0, -1.0]}, "distortion must be a number within"),
        ({"distortion": [1.0]}, "distortion must be that of 2 levels, got 1"),
        ({"distortion": [True, 1.0]}, "distortion must be a number"),
        ({"neighbour_overlap": 2}, "neighbour_overlap must be a number within"),
        ({"collisions": {"rate": "x", "largest_bucket": 1}}, "rate must be a number"),
        ({"collisions": {"rate": 0.5, "largest_bucket": 1, "x": 1}}, "must not hold 'x'"),
        ({"collisions": 3}, "corrupt"),
        ({"info": []}, "info must be an object"),
        ({"views": {"0": 1}}, "corrupt"),
        ({"views": [{"name": 3, "has_source": True, "has_reduction": True}]}, "name must be"),
        ({"views": [{"name": "a", "has_source": 1, "has_reduction": True}]}, "true or false"),
    ],
)
def test_values_out_of_range_are_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = saved(tmp_path / "t")
    undigested(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CatalogError, match=words):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 1, "kind": ' + "[" * 100_000,
        '{"format": Infinity}',
        '{"format": 1, "kind": "tokenizer", "info": NaN}',
        '{"format": 1, "kind": "tokenizer", "info": 1e999}',
        '{"format": 1, "format": 1}',
        '{"format": ' + "1" * 5000 + "}",
        "\ud800",
        "[]",
        "3",
        "",
        "\x00",
    ],
)
def test_one_refusal_of_whatever_is_no_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    for read in (load_tokenizer, load_quantizer, read_part, LsaEmbedding.load, Pca.load):
        with pytest.raises(CatalogError, match=r"malformed JSON|names no format"):
            read(tmp_path)


def test_sizes_are_checked_before_anything_is_built(tmp_path: Path) -> None:
    folder = saved(tmp_path / "t", "tree", "reassign")
    undigested(folder)
    for name, value in (("codebook_size", 10**9), ("codebook_size", 2.0), ("balanced", 1)):
        path = folder / "quantizer" / "config.json"
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), name: value}))
        with pytest.raises(CatalogError, match=f"{name} must be"):
            load_tokenizer(folder)
        path.write_text(text)
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1), dtype=np.float32))
    with (folder / "quantizer" / "vectors.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (10**15, 4)})
    with pytest.raises(CatalogError, match=r"vectors.npy: not a readable .npy file"):
        load_tokenizer(folder)
