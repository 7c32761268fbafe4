"""Image embeddings with a stand-in for the network; the real ones are tested in tests_image."""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semtok import Catalog, CatalogError
from semtok.embedding.chunks import embed_chunks
from semtok.embedding.contract import EmbeddingSource
from semtok.embedding.image import ImageEmbedding

if not all(map(importlib.util.find_spec, ("PIL", "torch"))):
    pytest.skip("needs pillow and torch", allow_module_level=True)

COLOURS = {"red.png": (255, 0, 0), "green.jpg": (0, 255, 0), "blue folder/blue.png": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "blue folder").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (9, 7), colour).save(tmp_path / name)
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def catalog(folder: Path, *paths: object) -> Catalog:
    ids = [f"i{row}" for row in range(len(paths))]
    return Catalog(item_ids=ids, fields={"image": list(paths)}, folder=folder)


def source(**options: Any) -> ImageEmbedding:
    """Embeds an image as its mean colour; remembers the batches that it saw."""
    import torch

    made = ImageEmbedding(model="mean", weights="none", batch_size=2, **options)
    model = torch.nn.Linear(1, 1)
    batches: list[int] = []

    def transform(image: Any) -> Any:
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).mean(dim=(0, 1))

    def encode(rows: Any) -> Any:
        batches.append(len(rows))
        return rows

    made.__dict__["_network"] = (model, encode, transform)
    made.__dict__["batches"] = batches
    return made


def test_images_are_found_in_every_way(folder: Path) -> None:
    url = (folder / "blue folder" / "blue.png").as_uri()
    assert "%20" in url
    paths = catalog(folder, "red.png", str(folder / "green.jpg"), url, [["red.png"], "absent.png"])
    calls: list[tuple[int, int]] = []
    made = source()
    assert isinstance(made, EmbeddingSource)
    x = made.embed(paths, progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_allclose(x, np.eye(3)[[0, 1, 2, 0]], atol=0.02)
    assert calls == [(2, 4), (4, 4)]
    assert made.dim == 3
    contents = made.contents(paths)
    assert contents[0] == contents[3] != contents[1]


def test_every_batch_is_full_and_neighbours_do_not_matter(folder: Path) -> None:
    made = source(missing="empty")
    paths = ["red.png", None, "green.jpg", "red.png", "", "blue folder/blue.png", []]
    x = made.embed(catalog(folder, *paths))
    assert made.__dict__["batches"] == [1, 2, 2, 2]  # 1 to learn the dimension
    np.testing.assert_allclose(x.sum(axis=1), [1, 0, 1, 1, 0, 1, 0], atol=0.02)
    assert made.contents(catalog(folder, *paths))[1] == b""
    in_chunks = embed_chunks(
        source(missing="empty"), [catalog(folder, path) for path in paths], cache=folder / "cache"
    )
    np.testing.assert_array_equal(in_chunks, x)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent.png", r"item 'i1': image 'absent.png' cannot be read \(No such file"),
        (None, "item 'i1': image cannot be read"),
        ("", "item 'i1': image cannot be read"),
        ("cut.png", "item 'i1': image is broken"),
        ("text.png", "item 'i1': image is broken"),
        ("a\0b.png", "item 'i1': image .* cannot be read"),
        ("blue folder", "item 'i1': image 'blue folder' cannot be read"),
    ],
)
def test_missing_and_broken_images(folder: Path, path: object, words: str) -> None:
    paths = catalog(folder, "red.png", path)
    with pytest.raises(CatalogError, match=words) as refusal:
        source().embed(paths)
    assert "\n" not in str(refusal.value)
    empty = source(missing="empty").embed(paths)
    assert empty[1].tolist() == [0, 0, 0]
    assert empty[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("missing", ["error", "empty"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("https://shop.example/a.png", "must be a local file, got https://.*download the images"),
        (3, "must be the path of a file, got int"),
        ({"large": "a.png"}, "must be the path of a file, got dict"),
    ],
)
def test_what_is_no_path_is_refused(folder: Path, path: object, words: str, missing: str) -> None:
    with pytest.raises(CatalogError, match=words):
        source(missing=missing).embed(catalog(folder, path))


def test_other_modes_are_read(folder: Path) -> None:
    from PIL import Image

    Image.new("L", (4, 4), 255).save(folder / "grey.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(folder / "alpha.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 255, 0])
    palette.save(folder / "palette.gif", transparency=0)
    x = source(normalize=False).embed(catalog(folder, "grey.png", "alpha.png", "palette.gif"))
    np.testing.assert_allclose(x, [[1, 1, 1], [1, 0, 0], [0, 1, 0]], atol=0.01)
    # A photograph that says that it lies on its side.
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(buffer, "jpeg", exif=exif)
    assert source()._decode(buffer.getvalue(), "a").size == (4, 8)


def test_options_and_round_trip(tmp_path: Path) -> None:
    made = ImageEmbedding(model="resnet50", missing="empty", batch_size=3, image_field="photo")
    made.save(tmp_path / "image")
    assert ImageEmbedding.load(tmp_path / "image") == made
    assert made.fields == ("photo",)
    with pytest.raises(ValueError, match="weights must be given for model 'RN50'"):
        ImageEmbedding(model="RN50")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ImageEmbedding(batch_size=0)
    with pytest.raises(ValueError, match=r"must be a .safetensors file, got w.pth: .*can run code"):
        ImageEmbedding(model="resnet50", weights="w.pth")
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        _ = ImageEmbedding(model="resnet50", weights=str(tmp_path / "w.safetensors")).dim
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match="device must be one that torch can use here, got 'abacus'"
    ):
        _ = ImageEmbedding(
            model="resnet50", weights=str(tmp_path / "w.safetensors"), device="abacus"
        ).dim
    with pytest.raises(CatalogError, match="image field 'image' is not among the fields: title"):
        ImageEmbedding().contents(Catalog(item_ids=["a"], fields={"title": ["x"]}))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kind=st.sampled_from(["png", "jpeg", "gif", "webp", "tiff", "bmp"]))
def test_any_bytes_are_an_image_or_broken(data: st.DataObject, kind: str) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((12, 9)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about broken metadata and large images
        image = source(missing="empty")._decode(bytes(content), "a")
        refusal = ""
        try:
            source()._decode(bytes(content), "a")
        except CatalogError as error:
            refusal = str(error)
    assert (image is None) == refusal.startswith("item 'a': image is broken (")
    assert "\n" not in refusal
    assert image is None or image.mode == "RGB"


def test_fingerprints_name_weights_and_options() -> None:
    made = source()
    again = replace(made)
    again.__dict__["_network"] = made.__dict__["_network"]
    assert made.fingerprint == again.fingerprint
    others = [source().fingerprint, source(missing="empty").fingerprint]  # weights are drawn anew
    assert len({made.fingerprint, *others}) == 3


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"pip install 'semtok\[image\]'"):
        _ = ImageEmbedding().dim
