"""What `semtok inspect` measures on a tokenizer or a file of codes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from semtok.artifact import load_tokenizer
from semtok.catalog import TEXT_FIELDS, stream_catalog
from semtok.health import CodeHealth, measure_health
from semtok.page import write_page
from semtok.semantic_ids import SemanticIds
from semtok.sequences import read_sequences
from semtok.tokenizer import Tokenizer
from semtok.verdict import balance_hint, codebook_hint


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A code table, its health and, if it was read from a tokenizer's folder, the tokenizer."""

    semantic_ids: SemanticIds
    health: CodeHealth
    tokenizer: Tokenizer | None


def inspected(
    path: Path, sequences: Path | None, *, id_column: str, trust: Collection[str] = ()
) -> Inspection:
    """Measures a tokenizer's folder or a file of codes.

    Args:
        path: The folder or the file.
        sequences: A file of interactions, or None.
        id_column: The column of that file with the item's id.
        trust: The packages whose code may run, if parts of the tokenizer are from other packages.

    Raises:
        CatalogError: If a file is missing or broken.
        ValueError: If the sequences do not fit the codes.
    """
    histories = None if sequences is None else read_sequences(sequences, id_column=id_column)
    if path.is_file() or str(path) == "-":
        table = SemanticIds.read(path, allow_collisions=True)
        health = measure_health(table, sequences=histories)
        return Inspection(semantic_ids=table, health=health, tokenizer=None)
    tokenizer = load_tokenizer(path, trust=trust)
    return Inspection(
        semantic_ids=tokenizer.semantic_ids,
        health=tokenizer_health(tokenizer, histories),
        tokenizer=tokenizer,
    )


def tokenizer_health(
    tokenizer: Tokenizer, sequences: Sequence[Sequence[str]] | None = None
) -> CodeHealth:
    """The health of a tokenizer's codes, with what was measured while it was fitted."""
    return measure_health(
        tokenizer.semantic_ids,
        collisions=tokenizer.collisions,
        distortion=tokenizer.distortion,
        neighbour_overlap=tokenizer.neighbour_overlap,
        sequences=sequences,
    )


def fitted_lines(tokenizer: Tokenizer) -> list[str]:
    """The lines that describe a tokenizer that was just fitted, besides its health."""
    collisions, quantizer = tokenizer.collisions, tokenizer.quantizer
    lines = [] if collisions is None or collisions.rate == 0 else [collisions.outcome]
    hints = (balance_hint(quantizer), codebook_hint(quantizer))
    return [*lines, *(hint for hint in hints if hint is not None)]


def write_inspection(
    html: Path, path: Path, inspection: Inspection, catalog: Path | None, *, id_column: str
) -> None:
    """Writes the page of an inspection.

    Raises:
        CatalogError: If the catalogue is missing or broken.
    """
    details: dict[str, object] = {}
    if inspection.tokenizer is not None:
        details = {
            "views": ", ".join(view.name for view in inspection.tokenizer.views),
            "collisions": inspection.tokenizer.policy,
            **inspection.tokenizer.info,
        }
    titles = None if catalog is None else _titles(catalog, inspection.semantic_ids, id_column)
    write_page(
        html,
        health=inspection.health,
        semantic_ids=inspection.semantic_ids,
        titles=titles,
        heading=f"Semantic IDs of {path.name}",
        details=details,
    )


def _titles(catalog: Path, table: SemanticIds, id_column: str) -> list[str | None]:
    """A title for each item of the table that the catalogue has, or its first text if untitled."""
    titles: list[str | None] = [None] * len(table)
    for chunk in stream_catalog(catalog, id_column=id_column):
        name = next((name for name in TEXT_FIELDS if name in chunk.fields), None)
        texts = [] if name is None else chunk.texts((name,))
        for item_id, text in zip(chunk.item_ids, texts, strict=False):
            if text and table.has(item_id):
                titles[table.row(item_id)] = text
    return titles
