"""Image embeddings by open_clip models or a ResNet-50 (needs `semtok[image]`)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlparse

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog, CatalogError
from semtok.embedding.contract import Progress, check_device, digest, first_line
from semtok.storage import read_part, read_tensors, refusing, write_part

_WEIGHTS = {"ViT-B-32": "laion2b_s34b_b79k", "resnet50": "IMAGENET1K_V2"}


@dataclass(frozen=True, kw_only=True)
class ImageEmbedding:
    """Embeds the images whose paths a field of the catalogue holds.

    A path is absolute, relative to the catalogue's folder, or a file:// URL; of a list, the first
    is taken. Nothing is downloaded but the model's weights.

    Attributes:
        model: An open_clip model's name, or "resnet50" for the 2,048 pooled features of a
            ResNet-50 (TSSR).
        weights: The name of pretrained weights, as open_clip or torchvision know them, or a
            .safetensors file of the model's state; "" takes laion2b_s34b_b79k for ViT-B-32 and
            IMAGENET1K_V2 for resnet50.
        image_field: The field with the path.
        missing: What an item gets whose image is absent or cannot be read: an error that names
            it, or with "empty" a vector of zeros.
        normalize: Whether embeddings have length 1.
        batch_size: Images that are decoded and pass the model together.
        device: Where the model runs, as torch names it. Not saved.
    """

    kind: ClassVar[str] = "image"

    model: str = "ViT-B-32"
    weights: str = ""
    image_field: str = "image"
    missing: Literal["error", "empty"] = "error"
    normalize: bool = True
    batch_size: int = 32
    device: str = field(default="cpu", compare=False)

    def __post_init__(self) -> None:
        if not self.weights and self.model not in _WEIGHTS:
            raise ValueError(f"weights must be given for model {self.model!r}, got none")
        if self.missing not in ("error", "empty"):
            raise ValueError(f"missing must be error or empty, got {self.missing!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if Path(self.weights).suffix in (".pt", ".pth", ".bin", ".ckpt"):
            raise ValueError(
                f"weights must be a .safetensors file, got {self.weights}: such a file can run "
                "code when it is loaded; write its state with safetensors.torch.save_file"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read."""
        return (self.image_field,)

    @cached_property
    def fingerprint(self) -> str:
        """Names the model's weights and what becomes of missing images; loads the model."""
        model = self._network[0]
        parts: list[str | bytes | np.ndarray] = [self.model, self.missing, str(self.normalize)]
        for name, tensor in sorted(model.state_dict().items()):
            parts += [name, tensor.float().cpu().numpy()]
        return f"{self.kind}-{digest(*parts)}"

    @cached_property
    def dim(self) -> int:
        """Length of the embeddings; loads the model."""
        import torch
        from PIL import Image

        _, encode, transform = self._network
        with torch.inference_mode():
            image = transform(Image.new("RGB", (8, 8)))[None]
            return int(encode(image.to(self.device)).shape[1])

    def contents(self, catalog: Catalog) -> list[bytes]:
        """The digest of each image's file, nothing for a missing one."""
        return [
            b"" if data is None else blake2b(data, digest_size=32).digest()
            for data in self._files(catalog)
        ]

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's images.

        Every batch has `batch_size` images, the last filled up, so that an image's embedding does
        not depend on those beside it.

        Raises:
            CatalogError: If the field is absent, or holds what is no path, or a URL of the web;
                and, unless `missing` is "empty", if an image is missing or broken.
            ImportError: If `semtok[image]` is not installed, or does not fit the installed torch.
            OSError: If the weights cannot be found or downloaded.
        """
        embeddings = np.zeros((len(catalog), self.dim), dtype=np.float32)
        for start in range(0, len(catalog), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(catalog)))
            part = catalog.take(rows)
            images = [
                None if data is None else self._decode(data, item_id)
                for data, item_id in zip(self._files(part), part.item_ids, strict=True)
            ]
            there = [row for row, image in zip(rows, images, strict=True) if image is not None]
            if there:
                embeddings[there] = self._forward([image for image in images if image is not None])
            if progress is not None:
                progress(rows.stop, len(catalog))
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Writes config.json into a new folder: the weights' name, not the weights."""
        names = ("kind", "model", "weights", "image_field", "missing", "normalize", "batch_size")
        write_part(folder, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> ImageEmbedding:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, _ = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                model=str(config["model"]),
                weights=str(config["weights"]),
                image_field=str(config["image_field"]),
                missing=config["missing"],
                normalize=bool(config["normalize"]),
                batch_size=int(config["batch_size"]),
                device=device,
            )

    def _files(self, catalog: Catalog) -> Iterator[bytes | None]:
        """The bytes of each item's image."""
        if self.image_field not in catalog.fields:
            known = ", ".join(catalog.fields) or "none"
            raise CatalogError(f"image field {self.image_field!r} is not among the fields: {known}")
        for item_id, value in zip(catalog.item_ids, catalog.fields[self.image_field], strict=True):
            path = _path(value, item_id)
            try:
                if path is None:
                    raise FileNotFoundError("no path")
                data = (catalog.folder / path).read_bytes()
            except (OSError, ValueError) as error:  # ValueError: a null character in the path
                if self.missing == "error":
                    where = "" if path is None else f" {str(path)!r}"
                    reason = getattr(error, "strerror", None) or error
                    raise CatalogError(
                        f"item {item_id!r}: image{where} cannot be read ({reason})"
                    ) from None
                data = None
            yield data

    def _decode(self, data: bytes, item_id: str) -> Any:
        from PIL import Image, ImageOps

        try:
            with Image.open(io.BytesIO(data)) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.mode == "P" and "transparency" in upright.info:
                    upright = upright.convert("RGBA")
                return upright.convert("RGB")
        except Exception as error:  # whatever one of Pillow's decoders makes of broken bytes
            if self.missing == "error":
                raise CatalogError(
                    f"item {item_id!r}: image is broken ({first_line(error)})"
                ) from None
            return None

    def _forward(self, images: Sequence[Any]) -> np.ndarray:
        import torch

        _, encode, transform = self._network
        rows = torch.stack([transform(image) for image in images])
        batch = torch.zeros((self.batch_size, *rows.shape[1:]))
        batch[: len(rows)] = rows
        with torch.inference_mode():
            vectors = encode(batch.to(self.device))[: len(rows)].float()
            if self.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array

    @cached_property
    def _network(self) -> tuple[Any, Any, Any]:
        """The model, its method that embeds images, and what makes their input of them."""
        weights = self.weights or _WEIGHTS[self.model]
        local = Path(weights) if weights.endswith(".safetensors") else None
        if local is not None and not local.is_file():
            raise FileNotFoundError(f"{local}: no such file of weights")
        check_device(self.device)
        load = _resnet50 if self.model == "resnet50" else _open_clip
        model, transform = load(self.model, weights, local)
        model = model.to(self.device).eval()
        return model, getattr(model, "encode_image", model), transform


def _path(value: object, item_id: str) -> Path | None:
    """The path that a field's value names; of a list, the first."""
    while isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise CatalogError(
            f"item {item_id!r}: image must be the path of a file, got {type(value).__name__}"
        )
    scheme = urlparse(value).scheme
    if scheme in ("http", "https", "ftp", "s3", "gs", "data"):
        raise CatalogError(
            f"item {item_id!r}: image must be a local file, got {value[:80]}: download the images "
            "first and put their paths into the catalogue"
        )
    return Path(unquote(urlparse(value).path)) if scheme == "file" else Path(value)


def _import(module: str) -> Any:
    """A module of `semtok[image]`, or one sentence about what is wrong."""
    import importlib

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


def _open_clip(name: str, weights: str, local: Path | None) -> tuple[Any, Any]:
    open_clip = _import("open_clip")
    if name not in open_clip.list_models():
        raise ValueError(f"model must be resnet50 or one that open_clip knows, got {name!r}")
    if local is None and weights not in open_clip.list_pretrained_tags_by_model(name):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"weights of {name} must be one of {tags} or a file, got {weights!r}")
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=None if local is not None else weights
        )
    except (OSError, RuntimeError) as error:
        raise OSError(f"weights {weights!r} cannot be loaded: {first_line(error)}") from None
    if local is not None:
        _fill(model, local)
    return model, transform


def _resnet50(_: str, weights: str, local: Path | None) -> tuple[Any, Any]:
    models = _import("torchvision.models")
    known = models.ResNet50_Weights.__members__
    if local is None and weights not in known:
        raise ValueError(
            f"weights of resnet50 must be one of {', '.join(known)} or a file, got {weights!r}"
        )
    chosen = known[weights if local is None else "IMAGENET1K_V2"]
    try:
        model = models.resnet50(weights=chosen if local is None else None)
    except OSError as error:
        raise OSError(f"weights {weights!r} cannot be loaded: {first_line(error)}") from None
    if local is not None:
        _fill(model, local)
    import torch

    model.fc = torch.nn.Identity()
    return model, chosen.transforms()


def _fill(model: Any, path: Path) -> None:
    """Puts a file's tensors into a model.

    Raises:
        CatalogError: If they are not those of the model.
    """
    import torch

    state = {name: torch.from_numpy(array) for name, array in read_tensors(path).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise CatalogError(f"{path}: not the weights of this model ({reason[:200]})") from None
