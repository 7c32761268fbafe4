"""`export`: a complete run as ONNX, parquet, faiss and JSON for other systems."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
import typer
from evalrec import replacing_folder
from genrec import QueryState, StateBackbone
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

from semrec.shared.export_options import EXPORT_FILE, check_export
from semrec.shared.files import file_hash, write_json, writing
from semrec.shared.text import visible

if TYPE_CHECKING:
    from semrec.shared.pipeline import Pipeline

FORMAT = 1
"""The version of the folder's format; it changes with every change that affects readers."""


@dataclass(frozen=True, kw_only=True)
class ItemIndex:
    """Item vectors for a search by inner products, and what turns a history into a query.

    Attributes:
        vectors: One row per item.
        meaning: A description of the vectors.
        query: Turns histories into queries whose inner products are the model's scores; None if
            the model compares no state of a history with the vectors.
        history_length: Most items of a history that `query` reads; None without a query.
    """

    vectors: Float[Tensor, "items dim"]
    meaning: str
    query: QueryState | None
    history_length: int | None

    @classmethod
    @torch.no_grad()
    def of_model(
        cls,
        model: StateBackbone,
        meaning: str,
        history_length: int,
        *,
        inputs: Float[Tensor, "items dim"] | None = None,
    ) -> ItemIndex:
        """Returns the index of a model that compares a history's state with items.

        Args:
            model: The model, in eval mode, on the CPU.
            meaning: A description of the item vectors.
            history_length: Most items of a history that the model reads.
            inputs: The item vectors that the model reads, if they differ from those it ranks.
        """
        query = QueryState(model, inputs=inputs)
        return cls(
            vectors=query.rows(model.item_vectors()).detach().float().contiguous(),
            meaning=meaning,
            query=query,
            history_length=history_length,
        )

    @classmethod
    @torch.no_grad()
    def of_directions(cls, vectors: Float[Tensor, "items dim"], meaning: str) -> ItemIndex:
        """Returns the index of vectors that are compared with one another by their cosine."""
        unit = nn.functional.normalize(vectors.detach().float(), dim=1)
        return cls(vectors=unit.contiguous(), meaning=meaning, query=None, history_length=None)


def export(pipeline: Pipeline[Any], out: Path, *, force: bool) -> None:
    """Writes the export of a complete run.

    Args:
        pipeline: The run, on the CPU.
        out: The folder; it appears only when it is complete.
        force: Whether an existing export is replaced.

    Raises:
        ExperimentError: It cannot be written, or a file of the run is damaged.
    """
    with writing(out), replacing_folder(out) as folder:
        index = pipeline.item_index()
        write_items(folder / "items.parquet", pipeline, index)
        write_index(folder / "index.faiss", index.vectors)
        if index.query is not None and index.history_length is not None:
            write_query(folder / "query.onnx", index.query, index.history_length)
        facts = {
            "format": FORMAT,
            "app": pipeline.run.app,
            "num_items": len(pipeline.item_ids),
            "index": {
                "metric": "inner product",
                "vectors": index.meaning,
                "dim": index.vectors.shape[1],
                "query": None if index.query is None else "query.onnx",
                "history_length": index.history_length,
            },
            **pipeline.export_generator(folder),
        }
        files = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
        write_json(folder / EXPORT_FILE, {**facts, "sha256": files})
        check_export(
            out, run=pipeline.run.path, force=force
        )  # again: another process may have written there
    typer.echo(visible(f"{out}: {', '.join([*files, EXPORT_FILE])}"))


def write_items(path: Path, pipeline: Pipeline[Any], index: ItemIndex) -> None:
    """Writes one row per item: item_id, title, count, codes if the system has them, vector."""
    columns: dict[str, Any] = {
        "item_id": pipeline.item_ids,
        "title": list(pipeline.titles.values()),
        "count": pipeline.item_counts.numpy(),
    }
    codes = pipeline.codes()
    if codes is not None:
        columns["codes"] = pl.Series(codes.codes.astype(np.int32)).arr.to_list()
    columns["vector"] = pl.Series(index.vectors.numpy()).arr.to_list()
    pl.DataFrame(columns).write_parquet(path)


def write_index(path: Path, vectors: Float[Tensor, "items dim"]) -> None:
    """Writes an exact faiss index of inner products."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    faiss.write_index(index, str(path))


def write_query(path: Path, query: QueryState, history_length: int) -> None:
    """Writes the network that turns a history into a query as `query.onnx`."""
    history = torch.zeros(2, history_length, dtype=torch.long)
    shape: dict[int, Dim] = {0: Dim("batch", min=1)}
    if history_length > 1:
        shape[1] = Dim("length", min=1, max=history_length)
    write_onnx(path, query, (history,), shapes=(shape,), inputs=("history",), outputs=("query",))


@torch.no_grad()
def write_onnx(
    path: Path,
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    *,
    shapes: Sequence[dict[int, Dim]],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Writes a module as ONNX; weights beyond 2 GB go to a file beside it.

    Args:
        path: The file.
        module: The module, in eval mode, on the CPU.
        arguments: An example of its arguments.
        shapes: The axes of each argument whose sizes may vary.
        inputs: Names of the arguments.
        outputs: Names of the results.
    """
    with _quiet():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            dynamic_shapes=tuple(shapes),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
        assert program is not None
        program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the messages of the exporters about themselves and about missing packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
