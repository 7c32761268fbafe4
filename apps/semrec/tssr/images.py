"""Images as TSSR's content: the networks, the files, and the encoder that is fine-tuned."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from semtok import Catalog, CatalogError
from torch import Tensor, nn

from semrec.tssr.encoders import ContentEncoder, Encoder

RANDOM = "random"
"""Names weights drawn at random, where an image network is wanted as it is before pretraining."""


@dataclass(frozen=True, kw_only=True)
class ImageNetwork:
    """A network that embeds images.

    Attributes:
        network: From [images, 3, height, width] to [images, feature_dim].
        layers: A vision transformer's layers, or a ResNet's four stages.
        mean: Of each channel, subtracted from pixels in [0, 1].
        scale: Of each channel, divides what is left.
    """

    network: nn.Module
    layers: list[nn.Module]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    scale: tuple[float, ...] = (0.229, 0.224, 0.225)


class ImageEncoder(ContentEncoder):
    """Images through a ResNet-50 or an open_clip model; files are decoded whenever they are used.

    Args:
        paths: One file an item.
        dim: Width of the vectors.
        model: "resnet50", or a name that open_clip knows.
        weights: As `image_network` takes them.
        options: What of it is trained, and how.

    Raises:
        CatalogError: An image cannot be read, or the weights do not fit the model.
        ImportError: torchvision or open_clip is not installed, or does not fit the torch at hand.
        OSError: The weights cannot be found or downloaded.
        ValueError: The model or its weights are unknown, or `options` does not fit it.
    """

    channel_mean: Tensor
    channel_scale: Tensor

    def __init__(
        self,
        paths: Sequence[Path],
        dim: int,
        *,
        model: str = "resnet50",
        weights: str = "",
        options: Encoder,
    ) -> None:
        found = image_network(model, weights, options.image_size)
        super().__init__(found.network, found.layers, torch.ones(len(paths)).long(), options)
        self.paths = list(paths)
        self.register_buffer("channel_mean", torch.tensor(found.mean), persistent=False)
        self.register_buffer("channel_scale", torch.tensor(found.scale), persistent=False)
        self._project(dim)

    def inputs(self, rows: Int[Tensor, " rows"]) -> tuple[UInt8[Tensor, "rows height width 3"]]:
        """Pixels, cut to a square in the middle and resized."""
        size = self.options.image_size
        pixels = torch.stack([read_image(self.paths[row], size) for row in rows.tolist()])
        return (pixels.to(rows.device),)

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """Pooled features."""
        pixels = (inputs[0] / 255 - self.channel_mean) / self.channel_scale
        found: Tensor = self.network(pixels.permute(0, 3, 1, 2).contiguous())
        return found


def image_network(model: str, weights: str, image_size: int) -> ImageNetwork:
    """A pretrained network for images of `image_size` pixels square.

    Args:
        model: "resnet50" of torchvision, whose 2,048 pooled features are the paper's; or the name
            of an open_clip model.
        weights: As torchvision or open_clip name them, "" for IMAGENET1K_V2 or an open_clip model's
            first; a .safetensors file with the state of the model; or "random".
        image_size: Must be the model's own for open_clip.

    Raises:
        CatalogError: The file is not the weights of this model.
        ImportError: torchvision or open_clip is not installed, or does not fit the torch at hand.
        OSError: The weights cannot be found or downloaded.
        ValueError: The model, its weights or its size are unknown.
    """
    if Path(weights).suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(f"image_weights must be a .safetensors file, got {weights}")
    local = Path(weights) if weights.endswith(".safetensors") else None
    if local is not None and not local.is_file():
        raise FileNotFoundError(f"{local}: no such file of weights")
    named = "" if local is not None or weights == RANDOM else weights
    build = _resnet50 if model == "resnet50" else _open_clip
    try:
        return build(model, named, local, image_size, pretrained=weights != RANDOM)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"weights of {model} cannot be loaded: {reason}") from None


def read_image(path: Path, size: int) -> UInt8[Tensor, "size size 3"]:
    """An image's pixels, cut to the square in its middle and resized.

    Raises:
        CatalogError: It cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P" and "transparency" in upright.info:
                upright = upright.convert("RGBA")
            square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except Exception as error:  # whatever one of Pillow's decoders makes of broken bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CatalogError(f"image {str(path)!r} cannot be read ({reason})") from None
    return torch.from_numpy(np.array(square))


def image_paths(catalog: Catalog, field: str) -> list[Path]:
    """Where each item's image lies: absolute, relative to the catalogue, or a file:// URL.

    Raises:
        CatalogError: The field is absent, or holds no path of a file that is there.
    """
    if field not in catalog.fields:
        known = ", ".join(catalog.fields) or "none"
        raise CatalogError(f"image field {field!r} is not among the fields: {known}")
    paths = []
    for item_id, value in zip(catalog.item_ids, catalog.fields[field], strict=True):
        while isinstance(value, list | tuple):
            value = value[0] if value else None
        if not isinstance(value, str) or not value:
            raise CatalogError(f"item {item_id!r}: {field} must be the path of a file")
        url = urlparse(value)
        path = catalog.folder / (unquote(url.path) if url.scheme == "file" else value)
        if not path.is_file():
            raise CatalogError(f"item {item_id!r}: {field} must be a local file, got {value[:80]}")
        paths.append(path)
    return paths


def _resnet50(
    _: str, weights: str, local: Path | None, __: int, *, pretrained: bool
) -> ImageNetwork:
    models = _import("torchvision.models")
    known = models.ResNet50_Weights.__members__
    weights = weights or "IMAGENET1K_V2"
    if weights not in known:
        raise ValueError(
            f"image_weights of resnet50 must be one of {', '.join(known)}, {RANDOM} or a "
            f".safetensors file, got {weights!r}"
        )
    network = models.resnet50(weights=known[weights] if pretrained and local is None else None)
    if local is not None:
        _fill(network, local)
    network.fc = nn.Identity()
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    return ImageNetwork(network=network, layers=layers)


def _open_clip(
    name: str, weights: str, local: Path | None, image_size: int, *, pretrained: bool
) -> ImageNetwork:
    open_clip = _import("open_clip")
    if name not in open_clip.list_models():
        raise ValueError(
            f"image_embedding must be resnet50 or one that open_clip knows, got {name!r}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = None
    if pretrained and local is None:
        tag = weights or next(iter(tags), "")
        if tag not in tags:
            raise ValueError(
                f"image_weights of {name} must be one of {', '.join(tags) or 'none'}, {RANDOM} or "
                f"a .safetensors file, got {weights!r}"
            )
    model = open_clip.create_model(name, pretrained=tag)
    if local is not None:
        _fill(model, local)
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    if size != image_size:
        raise ValueError(f"image_size must be {size} for {name}, got {image_size}")
    if hasattr(visual, "layer4"):
        layers = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    else:
        layers = list(visual.transformer.resblocks)
    return ImageNetwork(
        network=visual,
        layers=layers,
        mean=tuple(visual.image_mean),
        scale=tuple(visual.image_std),
    )


def _import(module: str) -> Any:
    """A module of `semtok[image]`, or one sentence about what is wrong."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"image encoders need an extra (no module {error.name}): pip install 'semtok[image]'"
        ) from None
    except (RuntimeError, ImportError, AttributeError, OSError) as error:
        raise ImportError(
            f"{module} cannot be loaded beside torch {torch.__version__} ({error}): torch and "
            "torchvision must be of matching versions and builds, as https://pytorch.org gives them"
        ) from None


def _fill(model: nn.Module, path: Path) -> None:
    """Puts a file's tensors into a model."""
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise CatalogError(f"{path}: not the weights of this model ({reason[:200]})") from None
