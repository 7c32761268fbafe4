"""Files of a machine or of an object store, by their paths or URLs, as fsspec opens them.

A place is the absolute path of a file of this machine, or a URL such as s3://bucket/items.parquet.
Credentials and endpoints are what fsspec's file systems find in the environment, for s3://
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_ENDPOINT_URL`.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from glob import has_magic
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from semtok.catalog import CATALOG_SUFFIXES, CatalogError
from semtok.storage import replacing_file

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified")
_BUFFER = 1 << 20


def is_url(name: str | Path) -> bool:
    """Whether a name is a URL, rather than a path of this machine."""
    return isinstance(name, str) and "://" in name


def file_system(name: str | Path) -> tuple[Any, str]:
    """The file system that a name is of, and its path there.

    Raises:
        ImportError: If an extra is missing; the sentence says which.
        ValueError: If no file system is known by the scheme of a URL.
    """
    scheme = str(name).partition("://")[0] if is_url(name) else "file"
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(str(name) if is_url(name) else str(Path(name).absolute()))
    except ModuleNotFoundError as error:
        raise _missing(scheme, f"no module {error.name}") from None
    except ImportError as error:
        raise _missing(scheme, str(error)) from None
    except ValueError as error:
        raise ValueError(f"{name}: no such kind of place ({error})") from None
    system.invalidate_cache()  # another process may have changed what was there
    return system, path


def _missing(scheme: str, reason: str) -> ImportError:
    extra = _EXTRAS.get(scheme, "ray")
    return ImportError(f"{scheme}:// needs an extra ({reason}): pip install 'semtok[{extra}]'")


def is_local(system: Any) -> bool:
    """Whether a file system is this machine's."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def inside(place: str, name: str) -> str:
    """The place of a file in a folder."""
    return f"{place.rstrip('/')}/{name}"


def open_place(place: str) -> BufferedIOBase:
    """Opens a file to be read, from any byte on.

    Raises:
        CatalogError: If there is no such file.
        OSError: If it cannot be read.
    """
    system, path = file_system(place)
    try:
        return io.BufferedReader(system.open(path, "rb"), _BUFFER)
    except FileNotFoundError:
        raise CatalogError(f"{place}: no such file") from None


def version_of(place: str) -> dict[str, str]:
    """What changes when a file does: its size, and its tag or time."""
    system, path = file_system(place)
    info = system.info(path)
    tag = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return {"place": place, "size": str(info["size"]), "version": tag}


def put_file(file: Path, place: str) -> None:
    """Copies a file of this machine to a place, where it appears complete or not at all."""
    system, path = file_system(place)
    if is_local(system):
        with replacing_file(Path(path)) as beside:
            shutil.copyfile(file, beside)
    else:
        system.put_file(str(file), path)


def catalog_files(inputs: Sequence[str | Path]) -> list[str]:
    """The places that are meant: files as they are, the catalogues in folders, a pattern's matches.

    Raises:
        CatalogError: If an input stands for no file, or two for the same one.
        ImportError: As `file_system`.
        ValueError: As `file_system`.
    """
    places: list[str] = []
    for name in inputs:
        system, path = file_system(name)
        paths: list[str] = []
        if system.isdir(path):
            entries = system.ls(path, detail=True)
            files = [entry["name"] for entry in entries if entry["type"] == "file"]
            paths = sorted(file for file in files if file.lower().endswith(CATALOG_SUFFIXES))
        elif system.exists(path):
            paths = [path]
        elif has_magic(path):
            paths = sorted(system.glob(path))
        if not paths:
            raise CatalogError(f"{name}: no catalogue there")
        local = is_local(system)
        places += [path if local else system.unstrip_protocol(path) for path in paths]
    for first, second in zip(sorted_places := sorted(places), sorted_places[1:], strict=False):
        if first == second:
            raise CatalogError(f"{first}: is given twice")
    return places
