"""Files of images: the file of each item, and its pixels (needs pillow to read them)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from jaxtyping import UInt8

from semtok.catalog import Catalog, CatalogError
from semtok.embedding.contract import first_line


def image_paths(catalog: Catalog, field: str = "image") -> list[Path]:
    """The path of each item's image.

    Args:
        catalog: The items.
        field: The field with the path: absolute, relative to the catalogue's folder, or a file://
            URL; of a list, the first path.

    Raises:
        CatalogError: If the field is absent, or an item has no path of an existing file.
    """
    paths = []
    for item_id, path in named_images(catalog, field):
        if path is None:
            raise CatalogError(f"item {item_id!r}: image must be the path of a file, got none")
        if not (catalog.folder / path).is_file():
            raise CatalogError(f"item {item_id!r}: image must be a local file, got {str(path)!r}")
        paths.append(catalog.folder / path)
    return paths


def named_images(catalog: Catalog, field: str) -> Iterator[tuple[str, Path | None]]:
    """Each item's id and the path in its field; None where the field is empty.

    It is not checked whether a file exists. Relative paths start at the catalogue's folder.

    Raises:
        CatalogError: If the field is absent, or holds a URL of the web or something else than a
            path.
    """
    if field not in catalog.fields:
        known = ", ".join(catalog.fields) or "none"
        raise CatalogError(f"image field {field!r} is not among the fields: {known}")
    for item_id, value in zip(catalog.item_ids, catalog.fields[field], strict=True):
        yield item_id, _path(value, item_id)


def read_image(path: str | Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of an image, upright, cropped to the central square and resized (bicubic).

    Args:
        path: A file that Pillow can read.
        size: Height and width of the result, in pixels.

    Returns:
        Red, green and blue from 0 to 255, in writable memory.

    Raises:
        CatalogError: If the file is absent or broken.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(_upright(image), (size, size), Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise many kinds of errors on broken bytes
        raise CatalogError(f"image {str(path)!r} cannot be read ({first_line(error)})") from None
    return np.array(square)


def decode_image(data: bytes) -> Any:
    """The image in a file's bytes: Pillow's `Image`, upright, with three channels.

    Raises:
        CatalogError: If the bytes are broken, or not an image that Pillow can read.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return _upright(image)
    except Exception as error:  # Pillow's decoders raise many kinds of errors on broken bytes
        raise CatalogError(f"image is broken ({first_line(error)})") from None


def _upright(image: Any) -> Any:
    """The image rotated as its camera recorded, as RGB."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _path(value: object, item_id: str) -> Path | None:
    """The path in a field's value; of a list, the first one."""
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
