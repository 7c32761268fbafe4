"""Files on this machine or in an object store, opened by fsspec.

A place is the absolute path of a local file, or a URL such as s3://bucket/items.parquet. fsspec
reads credentials and endpoints from the environment, for example `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY` and `AWS_ENDPOINT_URL` for s3://.
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

_S3, _GS = "pip install 'semtok[s3]'", "pip install 'semtok[gs]'"
_INSTALL = {"s3": _S3, "s3a": _S3, "gs": _GS, "gcs": _GS, "hf": "pip install 'semtok[hf]'"}
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified")
_BUFFER = 1 << 20


def is_url(name: str | Path) -> bool:
    """Whether a name is a URL and not a local path."""
    return isinstance(name, str) and "://" in name


def file_system(name: str | Path) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        ImportError: If an extra is missing; the message names it.
        ValueError: If the scheme of a URL is unknown.
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
    command = _INSTALL.get(scheme, "pip install 'semtok[ray]'")
    return ImportError(f"{scheme}:// needs an extra ({reason}): {command}")


def is_local(system: Any) -> bool:
    """Whether a file system is the local one."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def inside(place: str, name: str) -> str:
    """The place of a file in a folder."""
    return f"{place.rstrip('/')}/{name}"


def open_place(place: str) -> BufferedIOBase:
    """Opens a file for reading, from any byte.

    Raises:
        CatalogError: If the file does not exist.
        OSError: If the file cannot be read.
    """
    system, path = file_system(place)
    try:
        return io.BufferedReader(system.open(path, "rb"), _BUFFER)
    except FileNotFoundError:
        raise CatalogError(f"{place}: no such file") from None


def version_of(place: str) -> dict[str, str]:
    """The size of a file and its tag or time, which differ if the file has changed."""
    system, path = file_system(place)
    info = system.info(path)
    tag = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return {"place": place, "size": str(info["size"]), "version": tag}


def put_file(file: Path, place: str) -> None:
    """Copies a local file to a place. The copy appears complete or not at all."""
    system, path = file_system(place)
    if is_local(system):
        with replacing_file(Path(path)) as beside:
            shutil.copyfile(file, beside)
    else:
        system.put_file(str(file), path)


def catalog_files(inputs: Sequence[str | Path]) -> list[str]:
    """The places of the inputs: files, the catalogues in folders, and the matches of patterns.

    Raises:
        CatalogError: If an input matches no file, or if a file occurs twice.
        ImportError: As for `file_system`.
        ValueError: As for `file_system`.
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
