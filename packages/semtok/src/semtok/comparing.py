"""The output of `semtok compare`: several tokenizers or files of codes in one table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.table import Table

from semtok.catalog import CatalogError
from semtok.coding import code_space
from semtok.health import CodeHealth
from semtok.inspecting import Inspection, inspected
from semtok.neighbours import neighbour_overlap
from semtok.page import write_comparison
from semtok.phrases import counted
from semtok.semantic_ids import SemanticIds
from semtok.verdict import Verdict, judged


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of the compared code tables.

    Attributes:
        name: The name of the file or folder; its path where several have the same name.
        health: The health of the codes.
        verdict: The verdict on the codes.
    """

    name: str
    health: CodeHealth
    verdict: Verdict


def compared(
    paths: Sequence[Path],
    *,
    item_ids: Sequence[str] | None = None,
    vectors: Float[np.ndarray, "vectors dim"] | None = None,
    trust: Collection[str] = (),
) -> list[Entry]:
    """Measures folders of tokenizers and files of codes.

    Args:
        paths: The folders and files.
        item_ids: The items of the vectors' rows.
        vectors: The vectors by which the neighbour agreement of all entries is measured. None
            takes what each tokenizer measured on its own vectors while it was fitted.
        trust: The packages whose code may run, if parts of tokenizers are from other packages.

    Raises:
        CatalogError: If a file is missing or broken, or the vectors lack an item.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    rows = None if item_ids is None else {name: row for row, name in enumerate(item_ids)}
    entries = []
    for name, path in zip(names, paths, strict=True):
        inspection = inspected(path, None, id_column="item_id", trust=trust)
        health = inspection.health
        if vectors is not None and rows is not None:
            overlap = _agreement(path, inspection, rows, vectors)
            health = replace(health, neighbour_overlap=overlap)
        verdict = judged(health, inspection.semantic_ids)
        entries.append(Entry(name=name, health=health, verdict=verdict))
    return entries


def comparison_rows(entries: Sequence[Entry]) -> list[list[str]]:
    """The table: a line for each measure, its name first, then a cell for each entry."""
    measures: dict[str, Callable[[CodeHealth], str]] = {
        "items": lambda health: f"{health.num_items:,}",
        "levels": lambda health: f"{len(health.levels)}",
        "codebook sizes": lambda health: _of_levels(health, "codebook_size", ",d"),
        "utilisation": lambda health: _of_levels(health, "utilisation", ".1%"),
        "perplexity": lambda health: _of_levels(health, "perplexity", ",.1f"),
        "entropy, bits": lambda health: _of_levels(health, "entropy", ".2f"),
        "collisions": lambda health: f"{health.collision_rate:.2%}",
        "once resolved": lambda health: f"{health.resolved_collision_rate:.2%}",
        "largest bucket": lambda health: f"{health.largest_bucket:,}",
        "reconstruction error": _reconstruction_error,
        "neighbour agreement": lambda health: _share(health.neighbour_overlap),
    }
    rows = [
        [name, *(measure(entry.health) for entry in entries)] for name, measure in measures.items()
    ]
    return [row for row in rows if any(row[1:])]


def notes(entries: Sequence[Entry], *, on_same_vectors: bool) -> list[str]:
    """What a reader has to know to understand the table."""
    lines = ["Several numbers in a cell are those of the levels, in order."]
    if any(_reconstruction_error(entry.health) for entry in entries):
        lines.append(
            "Reconstruction error: mean squared distance from a tokenizer's own vectors to what "
            "all their codes stand for; in a tree, where items are leaves, 0."
        )
    if any(entry.health.neighbour_overlap is not None for entry in entries):
        whose = "the vectors that were given" if on_same_vectors else "each tokenizer's own vectors"
        lines.append(
            f"Neighbour agreement: the share of an item's 10 nearest neighbours by {whose} that "
            "are also its nearest by codes."
        )
    sizes = {entry.health.num_items for entry in entries}
    if len(sizes) > 1:
        lines.append("The numbers of items differ, so the figures are not directly comparable.")
    return lines


def comparison_table(entries: Sequence[Entry]) -> Table:
    """The table for a terminal."""
    table = Table(title=f"{counted(len(entries), 'code table')} compared")
    table.add_column("")
    for entry in entries:
        table.add_column(entry.name, justify="right", overflow="fold")
    for row in comparison_rows(entries):
        table.add_row(*row)
    return table


def write_comparison_page(path: Path, entries: Sequence[Entry], *, on_same_vectors: bool) -> None:
    """Writes the comparison as a page."""
    write_comparison(
        path,
        names=[entry.name for entry in entries],
        verdicts=[entry.verdict for entry in entries],
        rows=comparison_rows(entries),
        notes=notes(entries, on_same_vectors=on_same_vectors),
    )


def comparison_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The comparison as plain JSON types."""
    return [
        {
            "name": entry.name,
            "is_good": entry.verdict.is_good,
            "verdict": entry.verdict.sentence,
            "health": entry.health.to_dict(),
        }
        for entry in entries
    ]


def _agreement(
    path: Path,
    inspection: Inspection,
    rows: dict[str, int],
    vectors: Float[np.ndarray, "vectors dim"],
) -> float | None:
    """The share of an item's neighbours by vectors that are also its neighbours by codes."""
    table: SemanticIds = inspection.semantic_ids
    missing = next((item_id for item_id in table.item_ids if item_id not in rows), None)
    if missing is not None:
        raise CatalogError(f"{path}: has item {missing!r}, which --vectors lacks")
    if len(table) < 2:
        return None
    codes, space = table.codes, "prefix"
    if inspection.tokenizer is not None:
        quantizer = inspection.tokenizer.quantizer
        codes, space = codes[:, : quantizer.num_levels], code_space(quantizer)
    x = vectors[[rows[item_id] for item_id in table.item_ids]]
    return neighbour_overlap(x, codes, space="hamming" if space == "hamming" else "prefix")


def _reconstruction_error(health: CodeHealth) -> str:
    measured = [level.distortion for level in health.levels if level.distortion is not None]
    return f"{measured[-1]:.4g}" if measured else ""


def _of_levels(health: CodeHealth, name: str, form: str) -> str:
    values = [format(getattr(level, name), form) for level in health.levels]
    return values[0] if len(set(values)) == 1 else "  ".join(values)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
