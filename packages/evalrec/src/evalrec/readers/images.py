"""The images of items: URLs, or paths relative to a folder."""

from __future__ import annotations

import os
from pathlib import Path


def is_image_in(image: object, folder: Path) -> bool:
    """Whether a value is the path of a file, absolute or relative to a folder."""
    return isinstance(image, str) and image != "" and os.path.isfile(folder / image)


def image_from(image: str, folder: Path, out: Path) -> str:
    """The path of an image, relative to the folder that is written.

    Args:
        image: A URL or a path. URLs and absolute paths do not change.
        folder: The folder that a relative path starts from.
        out: The folder that is written.
    """
    if "://" in image or Path(image).is_absolute():
        return image
    return image_beside(str(folder / image), out)


def image_beside(image: str, out: Path) -> str:
    """A URL without change; a path of the working directory, made relative to the folder `out`."""
    return image if "://" in image else Path(os.path.relpath(image, out)).as_posix()
