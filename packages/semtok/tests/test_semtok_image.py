"""Image embeddings with a stand-in for the network; the real ones are tested in tests_image."""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semtok import (
    Catalog,
    CatalogError,
    EmbeddingSource,
    ImageEmbedding,
    ImageNetwork,
    embed_chunks,
    image_network,
    image_paths,
    read_image,
)
from semtok.embedding.image_files import decode_image

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


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Puts a network that gives each image's mean colour in every network's place.

    Returns:
        The sizes of the batches that pass such networks.
    """
    import torch

    sizes: list[int] = []

    class MeanColour(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Linear(1, 1)  # weights, drawn for each network

        def forward(self, colours: torch.Tensor) -> torch.Tensor:
            sizes.append(len(colours))
            return colours

    def transform(image: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).mean(dim=(0, 1))

    def network(*_: object) -> ImageNetwork:
        return ImageNetwork(network=MeanColour(), layers=[], transform=transform)

    monkeypatch.setattr("semtok.embedding.image.image_network", network)
    return sizes


def source(**options: Any) -> ImageEmbedding:
    return ImageEmbedding(model="mean", weights="none", batch_size=2, **options)


@pytest.mark.usefixtures("batches")
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


def test_every_batch_is_full_and_neighbours_do_not_matter(folder: Path, batches: list[int]) -> None:
    made = source(missing="empty")
    paths = ["red.png", None, "green.jpg", "red.png", "", "blue folder/blue.png", []]
    x = made.embed(catalog(folder, *paths))
    assert batches == [1, 2, 2, 2]  # 1 to learn the dimension
    np.testing.assert_allclose(x.sum(axis=1), [1, 0, 1, 1, 0, 1, 0], atol=0.02)
    assert made.contents(catalog(folder, *paths))[1] == b""
    in_chunks = embed_chunks(
        source(missing="empty"), [catalog(folder, path) for path in paths], cache=folder / "cache"
    )
    np.testing.assert_array_equal(in_chunks, x)


@pytest.mark.usefixtures("batches")
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


@pytest.mark.usefixtures("batches")
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


@pytest.mark.usefixtures("batches")
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
    assert decode_image(buffer.getvalue()).size == (4, 8)
    (folder / "photo.jpg").write_bytes(buffer.getvalue())
    assert read_image(folder / "photo.jpg", 6).shape == (6, 6, 3)


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
    with pytest.raises(
        ValueError, match="weights must be pretrained to embed images, got 'random'"
    ):
        ImageEmbedding(model="resnet50", weights="random")
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
        try:
            mode, refusal = decode_image(bytes(content)).mode, ""
        except CatalogError as error:
            mode, refusal = None, str(error)
    assert (mode is None) == refusal.startswith("image is broken (")
    assert "\n" not in refusal
    assert mode in ("RGB", None)


@pytest.mark.usefixtures("batches")
def test_fingerprints_name_weights_and_options() -> None:
    import torch

    def fingerprint(seed: int, **options: Any) -> str:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return source(**options).fingerprint

    assert fingerprint(0) == fingerprint(0)
    assert len({fingerprint(0), fingerprint(1), fingerprint(0, missing="empty")}) == 3


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"pip install 'semtok\[image\]'"):
        _ = ImageEmbedding().dim
    with pytest.raises(ImportError, match=r"pip install 'semtok\[image\]'"):
        image_network("ViT-B-32")


def test_paths_of_images_are_joined_to_their_folder(folder: Path) -> None:
    url = (folder / "blue folder" / "blue.png").as_uri()
    absolute = str(folder / "green.jpg")
    assert image_paths(catalog(folder, "red.png", absolute, url, [["red.png"], "absent.png"])) == [
        folder / "red.png",
        folder / "green.jpg",
        folder / "blue folder" / "blue.png",
        folder / "red.png",
    ]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (None, "item 'i1': image must be the path of a file, got none"),
        (3, "item 'i1': image must be the path of a file, got int"),
        ("absent.png", "item 'i1': image must be a local file, got 'absent.png'"),
        ("blue folder", "item 'i1': image must be a local file, got 'blue folder'"),
        ("a\0b.png", "item 'i1': image must be a local file, got "),
        ("https://a.example/a.png", "item 'i1': image must be a local file, got https://a.ex"),
    ],
)
def test_paths_of_no_image_are_refused(folder: Path, path: object, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        image_paths(catalog(folder, "red.png", path))
    with pytest.raises(CatalogError, match="image field 'photo' is not among the fields: image"):
        image_paths(catalog(folder, "red.png"), "photo")


def test_images_are_cut_to_the_square_in_their_middle(folder: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "wide.png")
    square = read_image(folder / "wide.png", 40)
    np.testing.assert_array_equal(square, pixels[:, 5:45])
    assert square.flags.writeable
    half = Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC, (5, 0, 45, 40))
    np.testing.assert_array_equal(read_image(folder / "wide.png", 20), np.asarray(half))
    for name in ("cut.png", "text.png", "absent.png", "blue folder"):
        with pytest.raises(CatalogError, match=rf"{name}' cannot be read \(") as refusal:
            read_image(folder / name, 8)
        assert "\n" not in str(refusal.value)


def test_networks_of_images_refuse_weights_that_they_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights must be given for model 'RN50', got none"):
        image_network("RN50")
    with pytest.raises(ValueError, match=r"weights must be a .safetensors file, got w.pth: .*can"):
        image_network("resnet50", "w.pth")
    with pytest.raises(FileNotFoundError, match=r"w.safetensors: no such file of weights"):
        image_network("resnet50", str(tmp_path / "w.safetensors"))
