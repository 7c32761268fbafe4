"""Image networks by name: a ResNet-50 and open_clip's models (needs `semtok[image]`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from semtok.catalog import CatalogError
from semtok.embedding.contract import first_line
from semtok.phrases import counted

RANDOM = "random"
"""The name of weights drawn at random, for a network without pretraining."""

_USUAL = {"ViT-B-32": "laion2b_s34b_b79k", "resnet50": "IMAGENET1K_V2"}


@dataclass(frozen=True, kw_only=True)
class ImageNetwork:
    """A network that embeds images.

    Attributes:
        network: A torch module, from float [images, 3, height, width] to [images, feature_dim].
        layers: Its layers from input to output: a vision transformer's blocks, or a ResNet's four
            stages; empty for other kinds of networks.
        transform: Computes the network's input, float [3, height, width], from a Pillow image.
        mean: The mean of each channel, subtracted from pixels in [0, 1]; a part of `transform`.
        scale: The scale of each channel, divides the difference; a part of `transform`.
    """

    network: Any
    layers: list[Any]
    transform: Callable[[Any], Any]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    scale: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __repr__(self) -> str:
        return f"ImageNetwork({type(self.network).__name__}, {counted(len(self.layers), 'layer')})"


def image_network(model: str, weights: str = "", image_size: int | None = None) -> ImageNetwork:
    """An image network by name, on the CPU.

    Args:
        model: "resnet50" of torchvision, whose output is its 2,048 pooled features (TSSR); or the
            name of an open_clip model, of which the image encoder is used.
        weights: As `weights_of` takes them, or "random", drawn from torch's global generator.
        image_size: The height and width of images, in pixels. For open_clip it must be the model's
            size. None takes the model's.

    Raises:
        CatalogError: If the file is not the weights of this model.
        ImportError: If `semtok[image]` is not installed, or does not fit the installed torch.
        OSError: If the weights cannot be found or downloaded.
        ValueError: If the model, its weights or its size are unknown.
    """
    weights = weights_of(model, weights)
    local = Path(weights) if weights.endswith(".safetensors") else None
    if local is not None and not local.is_file():
        raise FileNotFoundError(f"{local}: no such file of weights")
    if model == "resnet50":
        return _resnet50(weights, local)
    return _open_clip(model, weights, local, image_size)


def weights_of(model: str, weights: str) -> str:
    """The name of a model's weights.

    Args:
        model: As `image_network` takes it.
        weights: As open_clip or torchvision name pretrained weights; a .safetensors file of the
            model's state; or "" for laion2b_s34b_b79k of ViT-B-32 and IMAGENET1K_V2 of resnet50.

    Raises:
        ValueError: If `weights` is "" for another model, or a file that can run code.
    """
    if not weights and model not in _USUAL:
        raise ValueError(f"weights must be given for model {model!r}, got none")
    if Path(weights).suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(
            f"weights must be a .safetensors file, got {weights}: such a file can run "
            "code when it is loaded; write its state with safetensors.torch.save_file"
        )
    return weights or _USUAL[model]


def _resnet50(weights: str, local: Path | None) -> ImageNetwork:
    models = _import("torchvision.models")
    known = models.ResNet50_Weights.__members__
    if local is None and weights not in (*known, RANDOM):
        raise ValueError(
            f"weights of resnet50 must be one of {', '.join(known)}, {RANDOM} or a file, "
            f"got {weights!r}"
        )
    pretrained = known.get(weights)
    try:
        network = models.resnet50(weights=pretrained)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"weights {weights!r} cannot be loaded: {first_line(error)}") from None
    if local is not None:
        _fill(network, local)
    network.fc = _import("torch.nn").Identity()
    transform = (pretrained or known[_USUAL["resnet50"]]).transforms()
    return ImageNetwork(
        network=network,
        layers=[network.layer1, network.layer2, network.layer3, network.layer4],
        transform=transform,
        mean=tuple(transform.mean),
        scale=tuple(transform.std),
    )


def _open_clip(name: str, weights: str, local: Path | None, image_size: int | None) -> ImageNetwork:
    open_clip = _import("open_clip")
    if name not in open_clip.list_models():
        raise ValueError(f"model must be resnet50 or one that open_clip knows, got {name!r}")
    known = open_clip.list_pretrained_tags_by_model(name)
    if local is None and weights not in (*known, RANDOM):
        names = ", ".join([*known, RANDOM])
        raise ValueError(f"weights of {name} must be one of {names} or a file, got {weights!r}")
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=weights if weights in known else None
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"weights {weights!r} cannot be loaded: {first_line(error)}") from None
    if local is not None:
        _fill(model, local)
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    if image_size not in (None, size):
        raise ValueError(f"image_size must be {size} for {name}, got {image_size}")
    if getattr(visual, "output_tokens", False):  # CoCa returns tokens besides the embedding
        visual.output_tokens = False
    return ImageNetwork(
        network=visual,
        layers=_layers(visual),
        transform=transform,
        mean=tuple(visual.image_mean),
        scale=tuple(visual.image_std),
    )


def _layers(visual: Any) -> list[Any]:
    """The layers of open_clip's own networks; none for networks of other libraries."""
    if hasattr(visual, "layer4"):
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    return list(visual.transformer.resblocks) if hasattr(visual, "transformer") else []


def _import(module: str) -> Any:
    """Imports a module of `semtok[image]`; an error says in one sentence what is wrong."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"image models need an extra (no module {error.name}): pip install 'semtok[image]'"
        ) from None
    except (RuntimeError, ImportError, AttributeError, OSError) as error:
        import torch

        raise ImportError(
            f"{module} cannot be loaded beside torch {torch.__version__} ({error}): torch and "
            "torchvision must be of matching versions and builds, as https://pytorch.org gives them"
        ) from None


def _fill(model: Any, path: Path) -> None:
    """Loads a file's tensors into a model.

    Raises:
        CatalogError: If the file is broken, or its tensors are not those of the model.
    """
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CatalogError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise CatalogError(f"{path}: not the weights of this model ({reason[:200]})") from None
