"""Files of vectors used as a catalogue: their rows, and the ids of their items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from jaxtyping import Float32

from semtok.catalog import TEXT_FIELDS, CatalogError, item_id_of
from semtok.embedding.stored import ARRAY_SUFFIXES, StoredEmbedding
from semtok.options import FitOptions, RunOptions
from semtok.tokenizer import Tokenizer


def is_of_vectors(
    path: Path, options: FitOptions, run: RunOptions, tokenizer: Tokenizer | None
) -> bool:
    """Whether a command's catalogue is a file of vectors; also checks the options that go with it.

    A parquet file may be read as either. It is read as items if an option says which fields to
    embed, or if a fitted tokenizer embeds items itself.

    Raises:
        BadParameter: If an option has no effect.
    """
    embeds = (options.embedding, options.fields, options.views) != (None, None, None)
    if tokenizer is not None:
        embeds = any(view.source is not None for view in tokenizer.views)
    if path.suffix in ARRAY_SUFFIXES or (not embeds and holds_vectors(path)):
        _refuse_beside_vectors(options, run)
        return True
    if run.ids is not None:
        raise typer.BadParameter(
            f"has no effect: the items of {path} have ids of their own", param_hint="--ids"
        )
    return False


def holds_vectors(path: Path) -> bool:
    """Whether a parquet file holds vectors rather than fields of items.

    It holds vectors if, besides an id, it has only floats or one column of lists of numbers, and
    none of the fields that make an item's text.
    """
    if path.suffix != ".parquet" or not path.is_file():
        return False
    import polars as pl

    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return False  # the reader of catalogues has a better message for this
    if set(TEXT_FIELDS) & set(schema):
        return False
    lists = [
        dtype
        for dtype in schema.values()
        if isinstance(dtype, pl.List | pl.Array) and dtype.inner.is_numeric()
    ]
    numbers = [dtype for dtype in schema.values() if dtype.is_float()]
    return (len(lists) == 1 and len(schema) == 2) or (
        not lists and len(numbers) == len(schema) - 1 > 0
    )


def read_vectors(
    path: Path, ids: Path | None, *, id_column: str
) -> tuple[list[str], Float32[np.ndarray, "items dim"]]:
    """The ids of items, and their vectors, [items, dim].

    Args:
        path: A .npy or .safetensors file, or a .parquet file with an id column; see
            `semtok.read_embeddings`.
        ids: A text file with one id per line: the ids of the rows of a file without ids.
        id_column: The id column of a .parquet file.

    Raises:
        CatalogError: If a file is missing or broken, or there are not as many ids as rows.
        BadParameter: If ids are missing, or have no effect.
    """
    if path.suffix == ".parquet":
        if ids is not None:
            raise typer.BadParameter(
                f"has no effect: {path} has ids of its own", param_hint="--ids"
            )
        stored = StoredEmbedding.open(path, id_column=id_column)
        return list(stored.item_ids), stored.vectors
    if ids is None:
        raise typer.BadParameter(
            f"is needed: the rows of {path} have no ids; give a text file with one id per line",
            param_hint="--ids",
        )
    item_ids = read_ids(ids)
    return item_ids, StoredEmbedding.open(path, item_ids=item_ids).vectors


def read_ids(path: Path) -> list[str]:
    """The ids of a text file, one per line.

    Raises:
        CatalogError: If the file is missing, empty or not UTF-8, or a line is blank or repeats an
            id; the message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise CatalogError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise CatalogError(f"{path}: must be text in UTF-8, one id per line") from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise CatalogError(f"{path}: holds no ids")
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        item_id = item_id_of({"id": line.removesuffix("\r")}, "id", f"{path}, line {number}")
        if numbers.setdefault(item_id, number) != number:
            raise CatalogError(
                f"{path}, line {number}: item id {item_id!r} is already that of line "
                f"{numbers[item_id]}"
            )
    return list(numbers)


def _refuse_beside_vectors(options: FitOptions, run: RunOptions) -> None:
    """Raises BadParameter if an option says how to embed although the catalogue holds vectors."""
    flags = {
        "--embedding": options.embedding,
        "--fields": options.fields,
        "--views": options.views,
        "--cache": run.cache,
        "--engine": run.engine == "ray",
    }
    for flag, value in flags.items():
        if value:
            raise typer.BadParameter(
                "has no effect: the catalogue is vectors, which are not embedded again",
                param_hint=flag,
            )


def refuse_other_vectors(tokenizer: Tokenizer, path: Path, vectors: np.ndarray) -> None:
    """Refuses vectors that do not fit the tokenizer.

    Raises:
        CatalogError: If the tokenizer embeds items itself, has several views, or was fitted on
            vectors of another length.
    """
    embedding = [view.name for view in tokenizer.views if view.source is not None]
    if embedding:
        raise CatalogError(
            f"{path}: holds vectors, but the tokenizer embeds {_listed(embedding)} itself: give "
            "it a catalogue of items"
        )
    if len(tokenizer.views) > 1:
        names = [view.name for view in tokenizer.views]
        files = ",".join(f"{name}=FILE" for name in names)
        raise CatalogError(
            f"{path}: holds vectors of one view, but the tokenizer has {_listed(names)}: give it "
            f"a catalogue and --views {files}"
        )
    reduction = tokenizer.views[0].reduction
    dim = tokenizer.quantizer.dim if reduction is None else len(reduction.mean)
    if vectors.shape[1] != dim:
        raise CatalogError(
            f"{path}: must hold vectors of {dim} numbers, as those that the tokenizer was fitted "
            f"on, got {vectors.shape[1]}"
        )


def refuse_items_without_vectors(tokenizer: Tokenizer, path: Path, num_new: int) -> None:
    """Refuses a catalogue of items if the tokenizer takes vectors that are made elsewhere.

    Raises:
        CatalogError: Always.
    """
    if len(tokenizer.views) > 1:
        raise CatalogError(
            f"{path}: the vectors of {num_new:,} new items are missing, which the tokenizer does "
            "not make itself: give them by --views NAME=FILE"
        )
    raise CatalogError(
        f"{path}: holds {num_new:,} new items without vectors, but the tokenizer was fitted on "
        "vectors: give a file of their vectors instead, with --ids, or in addition, by --embedding"
    )


def _listed(names: Sequence[str]) -> str:
    views = "view" if len(names) == 1 else "views"
    return f"the {views} {', '.join(map(repr, names))}"
