# ruff: noqa: D103
"""Image embeddings by real models, with weights drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from semtok import (
    Catalog,
    CatalogError,
    ImageEmbedding,
    embed_chunks,
    image_network,
    read_image,
)
from semtok.embedding.kinds import load_source

NAME = "tiny-clip"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, and the weights of a tiny CLIP and of a ResNet-50, drawn at random."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{NAME}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(state(open_clip.create_model(NAME)), folder / "clip.safetensors")
        save_file(state(torchvision.models.resnet50()), folder / "resnet.safetensors")
    return folder


def catalog(folder: Path, numbers: list[int]) -> Catalog:
    paths = [f"{number}.png" for number in numbers]
    return Catalog(item_ids=paths, fields={"image": paths}, folder=folder)


def clip(folder: Path, **options: Any) -> ImageEmbedding:
    return ImageEmbedding(model=NAME, weights=str(folder / "clip.safetensors"), **options)


def test_open_clip_embeds_as_open_clip_does(folder: Path, tmp_path: Path) -> None:
    model, _, transform = open_clip.create_model_and_transforms(NAME)
    model.load_state_dict(load_file(folder / "clip.safetensors"))
    batch = torch.stack([transform(Image.open(folder / f"{row}.png")) for row in range(5)])
    with torch.inference_mode():
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    source = clip(folder, batch_size=2)
    x = source.embed(catalog(folder, [0, 1, 2, 3, 4]))
    assert x.shape == (5, 16)
    assert source.dim == 16
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert np.abs(x[0] - x[1]).max() > 1e-3
    source.save(tmp_path / "source")
    again = load_source(tmp_path / "source")
    assert again.fingerprint == source.fingerprint
    np.testing.assert_array_equal(again.embed(catalog(folder, [3])), x[3:4])


def test_neither_batch_nor_chunk_matters(folder: Path) -> None:
    x = clip(folder, batch_size=3).embed(catalog(folder, [0, 1, 2, 3, 4]))
    for size in (1, 2, 4):
        chunks = [
            catalog(folder, list(range(start, min(start + size, 5)))) for start in range(0, 5, size)
        ]
        np.testing.assert_array_equal(embed_chunks(clip(folder, batch_size=3), chunks), x)
    order = [4, 2, 0, 3, 1]
    np.testing.assert_array_equal(
        clip(folder, batch_size=3).embed(catalog(folder, order)), x[order]
    )


def test_resnet_gives_its_pooled_features(folder: Path) -> None:
    source = ImageEmbedding(
        model="resnet50",
        weights=str(folder / "resnet.safetensors"),
        normalize=False,
        batch_size=2,
    )
    x = source.embed(catalog(folder, [0, 1]))
    assert x.shape == (2, 2048)
    model = torchvision.models.resnet50()
    model.load_state_dict(load_file(folder / "resnet.safetensors"))
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    pooled: list[torch.Tensor] = []
    model.avgpool.register_forward_hook(lambda *call: pooled.append(call[2].flatten(1)))
    with torch.inference_mode():
        model.eval()(torch.stack([transform(Image.open(folder / f"{row}.png")) for row in (0, 1)]))
    np.testing.assert_allclose(x, pooled[0].numpy(), rtol=1e-3, atol=1e-4)


def test_wrong_models_and_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    for options, error, words in (
        ({"model": "no-such", "weights": "x"}, ValueError, "one that open_clip knows, got 'no-s"),
        ({"model": "ViT-B-32", "weights": "x"}, ValueError, "weights of ViT-B-32 must be one of"),
        ({"model": "resnet50", "weights": "x"}, ValueError, "must be one of IMAGENET1K_V1, IMA"),
        (
            {"model": NAME, "weights": str(folder / "resnet.safetensors")},
            CatalogError,
            "not the weights of this model",
        ),
    ):
        with pytest.raises(error, match=words) as refusal:
            _ = ImageEmbedding(**options).dim
        assert "\n" not in str(refusal.value)
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    with pytest.raises(CatalogError, match="not a readable safetensors file"):
        _ = ImageEmbedding(model=NAME, weights=str(tmp_path / "cut.safetensors")).dim


def test_networks_have_layers_and_embed_what_their_transform_makes(folder: Path) -> None:
    for name, file, layers, width in (
        (NAME, "clip", 2, 16),
        ("resnet50", "resnet", 4, 2048),
    ):
        loaded = image_network(name, str(folder / f"{file}.safetensors"), 32)
        assert len(loaded.layers) == layers
        state_of_layers = {id(p) for layer in loaded.layers for p in layer.parameters()}
        assert state_of_layers < {id(p) for p in loaded.network.parameters()}
        pixels = loaded.transform(Image.open(folder / "0.png"))
        with torch.inference_mode():
            vectors = loaded.network.eval()(pixels[None])
        assert vectors.shape == (1, width)
        source = ImageEmbedding(
            model=name, weights=str(folder / f"{file}.safetensors"), normalize=False
        )
        np.testing.assert_allclose(
            source.embed(catalog(folder, [0])), vectors.numpy(), rtol=1e-4, atol=1e-4
        )


def test_mean_and_scale_are_those_of_the_transform(folder: Path) -> None:
    for name, file in ((NAME, "clip"), ("resnet50", "resnet")):
        loaded = image_network(name, str(folder / f"{file}.safetensors"))
        grey = Image.new("RGB", (64, 64), (10, 100, 200))
        expected = (np.array([10, 100, 200]) / 255 - loaded.mean) / loaded.scale
        pixels = loaded.transform(grey)
        np.testing.assert_allclose(pixels.mean(dim=(1, 2)).numpy(), expected, atol=1e-5)


def test_random_weights_come_from_the_global_generator(folder: Path) -> None:
    pixels = torch.from_numpy(read_image(folder / "0.png", 32)).permute(2, 0, 1)[None] / 255

    def vectors(seed: int) -> torch.Tensor:
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            vectors: torch.Tensor = image_network(NAME, "random", 32).network.eval()(pixels)
            return vectors

    assert torch.equal(vectors(0), vectors(0))
    assert not torch.equal(vectors(0), vectors(1))


def test_coca_embeds_as_open_clip_does(folder: Path) -> None:
    config = {
        **CONFIG,
        "vision_cfg": {**CONFIG["vision_cfg"], "attentional_pool": True, "output_tokens": True},
        "text_cfg": {**CONFIG["text_cfg"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {
            "context_length": 8,
            "vocab_size": 64,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
        "custom_text": True,
    }
    (folder / "tiny-coca.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-coca.json")
    model, _, transform = open_clip.create_model_and_transforms("tiny-coca")
    save_file(state(model), folder / "coca.safetensors")
    with torch.inference_mode():
        batch = torch.stack([transform(Image.open(folder / f"{row}.png")) for row in range(2)])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    source = ImageEmbedding(model="tiny-coca", weights=str(folder / "coca.safetensors"))
    np.testing.assert_allclose(source.embed(catalog(folder, [0, 1])), expected, atol=1e-5)


def test_wrong_sizes_and_broken_downloads_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="image_size must be 32 for tiny-clip, got 64"):
        image_network(NAME, str(folder / "clip.safetensors"), 64)

    def broken(*_: object, **__: object) -> None:
        raise SafetensorError("Error while deserializing header: header too large")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", broken)
    monkeypatch.setattr(torchvision.models, "resnet50", broken)
    for name in ("ViT-B-32", "resnet50"):
        with pytest.raises(OSError, match=r"weights '.*' cannot be loaded: Error while deserial"):
            image_network(name)
