"""Image embeddings by open_clip models or a ResNet-50 (needs `semtok[image]`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog, CatalogError
from semtok.embedding.contract import check_device, digest
from semtok.embedding.image_files import decode_image, named_images
from semtok.embedding.image_networks import RANDOM, ImageNetwork, image_network, weights_of
from semtok.parts import choice, flag, read_part, refusing, string, whole, write_part
from semtok.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ImageEmbedding:
    """Embeds the images whose paths a field of the catalogue holds.

    A path is absolute, relative to the catalogue's folder, or a file:// URL; of a list, the first
    path is used. Nothing is downloaded except the weights of the model.

    Attributes:
        model: An open_clip model's name, or "resnet50" for the 2,048 pooled features of a
            ResNet-50 (TSSR); see `image_network`.
        weights: The name of pretrained weights, as open_clip or torchvision know them, or a
            .safetensors file of the model's state; "" takes laion2b_s34b_b79k for ViT-B-32 and
            IMAGENET1K_V2 for resnet50.
        image_field: The field with the path.
        missing: "error" raises an error that names an item whose image is absent or cannot be
            read; "empty" gives it a vector of zeros.
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
        if weights_of(self.model, self.weights) == RANDOM:
            raise ValueError("weights must be pretrained to embed images, got 'random'")
        if self.missing not in ("error", "empty"):
            raise ValueError(f"missing must be error or empty, got {self.missing!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read."""
        return (self.image_field,)

    @cached_property
    def fingerprint(self) -> str:
        """A name for the network's weights and the rule for missing images; loads the network."""
        parts: list[str | bytes | np.ndarray] = [self.model, self.missing, str(self.normalize)]
        for name, tensor in sorted(self._network.network.state_dict().items()):
            parts += [name, tensor.float().cpu().numpy()]
        return f"{self.kind}-{digest(*parts)}"

    @cached_property
    def dim(self) -> int:
        """The length of the embeddings; loads the model."""
        import torch
        from PIL import Image

        with torch.inference_mode():
            image = self._network.transform(Image.new("RGB", (8, 8)))[None]
            return int(self._network.network(image.to(self.device)).shape[1])

    def contents(self, catalog: Catalog) -> list[bytes]:
        """The digest of each image's file; empty for a missing one."""
        return [
            b"" if data is None else blake2b(data, digest_size=32).digest()
            for data in self._files(catalog)
        ]

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's images.

        Every batch has `batch_size` images (the last one is filled up), so that the embedding of
        an image does not depend on the other images.

        Raises:
            CatalogError: If the field is absent, or holds a URL of the web or something else than
                a path; unless `missing` is "empty", also if an image is missing or broken.
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
            with_image = [row for row, image in zip(rows, images, strict=True) if image is not None]
            if with_image:
                known = [image for image in images if image is not None]
                embeddings[with_image] = self._forward(known)
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
                model=string(config, "model"),
                weights=string(config, "weights"),
                image_field=string(config, "image_field"),
                missing=choice(config, "missing", ("error", "empty")),
                normalize=flag(config, "normalize"),
                batch_size=whole(config, "batch_size", 1, 2**16),
                device=device,
            )

    def _files(self, catalog: Catalog) -> Iterator[bytes | None]:
        """The bytes of each item's image."""
        for item_id, path in named_images(catalog, self.image_field):
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
        try:
            return decode_image(data)
        except CatalogError as error:
            if self.missing == "error":
                raise CatalogError(f"item {item_id!r}: {error}") from None
            return None

    def _forward(self, images: Sequence[Any]) -> np.ndarray:
        import torch

        # [images, 3, height, width]
        pixels = torch.stack([self._network.transform(image) for image in images])
        batch = torch.zeros((self.batch_size, *pixels.shape[1:]))
        batch[: len(pixels)] = pixels
        with torch.inference_mode():
            # [images, dim]
            vectors = self._network.network(batch.to(self.device))[: len(pixels)].float()
            if self.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array

    @cached_property
    def _network(self) -> ImageNetwork:
        """The network, on its device."""
        check_device(self.device)
        loaded = image_network(self.model, self.weights)
        loaded.network.to(self.device).eval()
        return loaded
