"""Checks of the files that commands write, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from semtok.storage import alone_with, check_parent, check_regular, sweep


def alone_with_tokenizer(tokenizer: Path | None) -> AbstractContextManager[None]:
    """Locks a tokenizer that will be replaced, so that no other run changes it; None: no lock."""
    if tokenizer is None:
        return nullcontext()
    from semtok.artifact import check_replaceable

    sweep(tokenizer.absolute().parent)
    check_replaceable(tokenizer)
    return alone_with(tokenizer)


def check_cache(cache: Path | None) -> None:
    """Refuses a cache that is not a folder."""
    if cache is not None and cache.exists() and not cache.is_dir():
        raise NotADirectoryError(f"{cache}: --cache must be a folder, and is a file")


def keep_inputs(output: Path, inputs: Iterable[Path], folder: Path | None) -> None:
    """Refuses to write over a file that is read, or into a tokenizer's folder."""
    if str(output) == "-":
        return
    place = output.resolve()
    for path in inputs:
        if path.exists() and output.exists() and output.samefile(path):
            raise FileExistsError(f"{output}: is read by this command, so it is not replaced")
    if folder is not None and folder.is_dir() and folder.resolve() in place.parents:
        raise FileExistsError(f"{output}: lies in the tokenizer's folder, which is its alone")


def codes_path(catalog: Path, output: Path | None, force: bool) -> Path:
    """The file or folder of the codes; raises if it cannot be written."""
    from semtok.catalog import catalog_suffix
    from semtok.code_files import code_suffix
    from semtok.embedding.stored import ARRAY_SUFFIXES

    is_stdin = str(catalog) == "-"
    if is_stdin or catalog.suffix in ARRAY_SUFFIXES:
        suffix = catalog.suffix
    else:
        suffix = catalog_suffix(catalog)
    if output is None:
        if is_stdin:
            return Path("-")
        output = catalog.with_name(catalog.name[: -len(suffix)] + ".codes.jsonl")
    if str(output) == "-":
        return output
    code_suffix(output)
    check_regular(output)
    if output.exists() and catalog.exists() and output.samefile(catalog):
        raise FileExistsError(f"{output}: is the catalogue itself")
    if output.exists() and not force:
        raise FileExistsError(f"{output}: exists already; --force replaces it")
    check_parent(output)
    return output


def check_page(html: Path, force: bool) -> None:
    """Refuses a path that cannot be a page, and an existing page without `force`."""
    if html.suffix not in (".html", ".htm"):
        raise ValueError(f"{html}: must end in .html")
    check_regular(html)
    if html.exists() and not force:
        raise FileExistsError(f"{html}: exists already; --force replaces it")
    check_parent(html)
    sweep(html.absolute().parent)
