"""From a file of items to a fitted tokenizer, and from a fitted tokenizer to codes, in chunks."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from semtok.catalog import TEXT_FIELDS, Catalog, stream_catalog
from semtok.drift import REFIT_ABOVE
from semtok.embedding.chunks import embed_chunks
from semtok.embedding.contract import EmbeddingSource
from semtok.embedding.kinds import embedding_source, is_stored, on_device
from semtok.embedding.stored import read_embeddings
from semtok.options import TEXT_KINDS, FitOptions, RunOptions
from semtok.quantizers.kinds import quantizer_kind
from semtok.storage import scratch, sweep
from semtok.tokenizer import Encoding, Tokenizer
from semtok.vector_files import (
    read_vectors,
    refuse_items_without_vectors,
    refuse_other_vectors,
)

if TYPE_CHECKING:
    from semtok.console import Console

_HELD_CELLS = 1 << 23
_HELD = 131_072  # items up to which a catalogue is kept in memory rather than read again


@dataclass(frozen=True, kw_only=True)
class Items:
    """A file of items that is read chunk by chunk, as often as needed.

    Attributes:
        item_ids: All ids, in order.
        fields: The names of all fields.
        path: The file; standard input is first copied to a file.
        id_column: The field with the id.
        folder: The folder from which relative paths in fields start.
        held: The chunks in memory, if there are few items.
        vectors: The vectors of the items, if the file holds vectors instead of fields.
    """

    item_ids: list[str]
    fields: tuple[str, ...]
    path: Path
    id_column: str
    folder: Path
    held: Sequence[Catalog] | None = None
    vectors: Float32[np.ndarray, "items dim"] | None = None

    @classmethod
    def read(cls, path: Path, *, id_column: str, work: Path, console: Console) -> Items:
        """Reads a file once, checking all of it."""
        console("reading", 0, 1)
        item_ids: list[str] = []
        fields: dict[str, None] = {}
        held: list[Catalog] | None = []
        cells = 0
        copy, folder = path, path.parent
        chunks = stream_catalog(path, id_column=id_column)
        if str(path) == "-":
            copy, folder = work / "items.jsonl", Path()
            chunks = _copied(chunks, copy, id_column)
        for chunk in chunks:
            item_ids += chunk.item_ids
            fields.update(dict.fromkeys(chunk.fields))
            cells += len(chunk) * (len(chunk.fields) + 1)
            if held is not None:
                held.append(chunk)
            if len(item_ids) > _HELD or cells > _HELD_CELLS:
                held = None
            console("reading", len(item_ids), 0)
        console("reading", len(item_ids), len(item_ids))
        return cls(
            item_ids=item_ids,
            fields=tuple(fields),
            path=copy,
            id_column=id_column,
            folder=folder,
            held=held,
        )

    @classmethod
    def read_vectors(cls, path: Path, run: RunOptions, console: Console) -> Items:
        """Maps a file of vectors, checking all of it, and reads the ids of its rows."""
        console("reading", 0, 1)
        item_ids, vectors = read_vectors(path, run.ids, id_column=run.id_column)
        console("reading", len(item_ids), len(item_ids))
        return cls(
            item_ids=item_ids,
            fields=(),
            path=path,
            id_column=run.id_column,
            folder=path.parent,
            vectors=vectors,
        )

    def chunks(self) -> Iterator[Catalog]:
        """The items, a chunk at a time, each with all fields."""
        for chunk in self.held or stream_catalog(self.path, id_column=self.id_column):
            absent = {name: [None] * len(chunk) for name in self.fields if name not in chunk.fields}
            yield replace(chunk, fields={**chunk.fields, **absent}, folder=self.folder)

    def require(self, fields: Sequence[str]) -> None:
        """Raises ValueError unless every one of `fields` is a field of some item."""
        Catalog(item_ids=["-"], fields={name: [None] for name in self.fields}).require_fields(
            fields
        )


@contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """A folder beside the output for arrays too large for memory; it is removed at the end.

    Folders that killed runs have left there are removed first.
    """
    is_stdout = str(output) == "-"
    place = Path(tempfile.gettempdir()) / "semtok" if is_stdout else output.absolute()
    sweep(place.parent)
    with scratch(place) as folder:
        yield folder


def fit_tokenizer(
    items: Items, options: FitOptions, run: RunOptions, *, work: Path, console: Console
) -> Tokenizer:
    """Fits a tokenizer as the options say, showing each of its steps."""
    options.check_capacity(len(items.item_ids), run)
    sources: dict[str, EmbeddingSource] = {}
    arrays: dict[str, np.ndarray] = {}
    if options.views is not None:
        items.require([name for name, spec in options.specs.items() if not is_stored(spec)])
    elif options.fields is not None:
        items.require(_split(options.fields))
    if items.vectors is not None:
        arrays["embedding"] = items.vectors
    for name, spec in options.specs.items() if items.vectors is None else ():
        if is_stored(spec):
            arrays[name] = read_embeddings(spec, items.item_ids, id_column=run.id_column)
            continue
        sources[name] = _source(name, spec, items, options, run, console)
        arrays[name] = _embed(name, sources[name], items, None, run, work, console)
    options.check_dims({name: array.shape for name, array in arrays.items()}, run)
    quantizer = quantizer_kind(options.quantizer, trust=run.trust or ())
    return Tokenizer.fit(
        Catalog(item_ids=items.item_ids, fields={}),
        source=sources,
        embeddings=arrays,
        fuse=options.fuse or len(arrays) == 1,
        pca_dim=options.pca,
        whiten=options.whiten,
        quantizer=partial(quantizer.fit, **options.quantizer_options(run)),
        policy=options.collisions or "reassign",
        info={"quantizer": options.quantizer, **options.quantizer_options(run)},
        workspace=work,
        progress=console,
    )


def encode_items(
    tokenizer: Tokenizer,
    items: Items,
    options: FitOptions,
    run: RunOptions,
    *,
    refit_above: float | None,
    work: Path,
    console: Console,
) -> Encoding:
    """The semantic IDs of all items: known items keep theirs."""
    tokenizer = _placed(tokenizer, run)
    threshold = REFIT_ABOVE if refit_above is None else refit_above
    if run.engine == "ray":
        return _encode_by_ray(tokenizer, items, run, threshold, work, console)
    known = tokenizer.semantic_ids
    arrays: dict[str, np.ndarray] = {}
    if items.vectors is not None:
        refuse_other_vectors(tokenizer, items.path, items.vectors)
        arrays[tokenizer.views[0].name] = items.vectors
    arrays |= {
        name: read_embeddings(file, items.item_ids, id_column=run.id_column)
        for name, file in options.files_for(tokenizer).items()
    }
    new_rows = [row for row, item_id in enumerate(items.item_ids) if not known.has(item_id)]
    if not new_rows:
        return Encoding(semantic_ids=known.take(items.item_ids))
    if any(view.source is None and view.name not in arrays for view in tokenizer.views):
        refuse_items_without_vectors(tokenizer, items.path, len(new_rows))
    arrays = {name: array[new_rows] for name, array in arrays.items()}
    for view in tokenizer.views:
        if view.source is not None:
            chunks = _new_items(items, tokenizer)
            arrays[view.name] = _embed(view.name, view.source, items, chunks, run, work, console)
    encoding = tokenizer.encode(
        Catalog(item_ids=[items.item_ids[row] for row in new_rows], fields={}),
        embeddings=arrays,
        refit_above=threshold,
        workspace=work,
        progress=console,
    )
    table = tokenizer.extended(encoding.semantic_ids).semantic_ids
    return replace(encoding, semantic_ids=table.take(items.item_ids))


def _encode_by_ray(
    tokenizer: Tokenizer,
    items: Items,
    run: RunOptions,
    refit_above: float,
    work: Path,
    console: Console,
) -> Encoding:
    """The result of `encode_items`, computed by the workers of a Ray cluster."""
    from semtok.ray_engine import RayOptions, encode_files

    console("embedding and encoding", 0, 1)
    return encode_files(
        tokenizer,
        [items.path],
        workspace=work,
        id_column=run.id_column,
        refit_above=refit_above,
        options=RayOptions(device=run.device or "cpu"),
        progress=partial(console, "embedding and encoding"),
    )


def _placed(tokenizer: Tokenizer, run: RunOptions) -> Tokenizer:
    """The tokenizer with its models on the device of `run`."""
    if run.device is None:
        return tokenizer
    views = [
        view if view.source is None else replace(view, source=on_device(view.source, run.device))
        for view in tokenizer.views
    ]
    return replace(tokenizer, views=tuple(views))


def _new_items(items: Items, tokenizer: Tokenizer) -> Iterator[Catalog]:
    """The chunks of items, without items that the tokenizer knows."""
    for chunk in items.chunks():
        known = tokenizer.semantic_ids
        rows = [row for row, item_id in enumerate(chunk.item_ids) if not known.has(item_id)]
        if rows:
            yield chunk.take(rows)


def _source(
    name: str, spec: str, items: Items, options: FitOptions, run: RunOptions, console: Console
) -> EmbeddingSource:
    """The embedding source of a view."""
    fields: tuple[str, ...] = TEXT_FIELDS
    if options.views is not None or options.kinds[name] == "image":
        fields = (name,)
    elif options.fields is not None:
        fields = _split(options.fields)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    learning = "fitting the embedding" if options.kinds[name] == "plugin" else "learning words"
    stage = learning if options.views is None else f"{learning} of {name}"
    return embedding_source(
        spec,
        catalog=items.chunks(),
        fields=fields,
        device=run.device or "cpu",
        seed=options.seed or 0,
        precision=options.precision or "fp32",
        prompt=options.prompt,
        truncate_dim=options.truncate_dim,
        fix_text=options.fix_text and options.kinds[name] in TEXT_KINDS,
        missing_images=options.missing_images or "error",
        trust=run.trust or (),
        progress=partial(console, stage),
    )


def _embed(
    name: str,
    source: EmbeddingSource,
    items: Items,
    chunks: Iterator[Catalog] | None,
    run: RunOptions,
    work: Path,
    console: Console,
) -> np.ndarray:
    """The embeddings of a view, in a file of the workspace: of some chunks, or of all items."""
    stage = "embedding" if name == "embedding" else f"embedding {name}"
    console(stage, 0, 1)
    path = work / f"view{len(list(work.glob('view*.npy')))}.npy"
    progress = partial(console, stage)
    if run.engine == "ray" and chunks is None:
        from semtok.ray_engine import RayOptions, embed_files

        device = RayOptions(device=run.device or "cpu")
        item_ids, array = embed_files(
            source, [items.path], path, id_column=run.id_column, options=device, progress=progress
        )
        assert item_ids == items.item_ids, "the engine keeps the order"
        return array
    return embed_chunks(
        source,
        items.chunks() if chunks is None else chunks,
        path=path,
        cache=run.cache,
        total=len(items.item_ids) if chunks is None else None,
        progress=progress,
    )


def _copied(chunks: Iterator[Catalog], path: Path, id_column: str) -> Iterator[Catalog]:
    """The chunks, each also appended to a JSONL file."""
    import json

    with path.open("w", encoding="utf-8") as file:
        for chunk in chunks:
            for row, item_id in enumerate(chunk.item_ids):
                values = {name: column[row] for name, column in chunk.fields.items()}
                file.write(json.dumps({id_column: item_id, **values}) + "\n")
            yield chunk


def _split(fields: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in fields.split(","))
