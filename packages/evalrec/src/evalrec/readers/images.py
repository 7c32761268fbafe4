"""The images of items: addresses of the web, or paths as a folder sees them."""

from __future__ import annotations

import os
from pathlib import Path


def is_image_in(image: object, folder: Path) -> bool:
    """Whether a value is the path of a file, absolute or from a folder; texts of any length."""
    return isinstance(image, str) and image != "" and os.path.isfile(folder / image)


def image_from(image: str, folder: Path, out: Path) -> str:
    """The path of an image, from the folder that is written.

    Args:
        image: An address, which stays, an absolute path, which stays too, or a relative one.
        folder: Where a relative path starts.
        out: The folder that is written.
    """
    if "://" in image or Path(image).is_absolute():
        return image
    return image_beside(str(folder / image), out)


def image_beside(image: str, out: Path) -> str:
    """An address as it is; a path, as the working directory sees it, from a folder on."""
    return image if "://" in image else Path(os.path.relpath(image, out)).as_posix()
