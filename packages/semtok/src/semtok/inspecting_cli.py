"""The commands `semtok inspect` and `semtok compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semtok.console import Console
from semtok.destinations import check_page, keep_inputs
from semtok.options import refuse_without

TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE", help="Let the code of this package run, if a tokenizer uses it."
    ),
]

if TYPE_CHECKING:
    from semtok.inspecting import Inspection


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="TOKENIZER|CODES", help="A tokenizer's folder or a file of codes."),
    ],
    catalog: Annotated[
        Path | None, typer.Option(help="The file of items: their titles appear in the page's tree.")
    ] = None,
    sequences: Annotated[
        Path | None,
        typer.Option(
            help="Interactions (user_id, item_id, timestamp): to measure how often consecutive "
            "items share a prefix."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write one self-contained page with figures and a tree.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="The field with the item's id.")] = "item_id",
    trust: TrustOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the page.")] = False,
) -> None:
    """Show how good codes are: utilisation, collisions, distortion, neighbours, sequences."""
    if html is None:
        refuse_without("--html", {"--catalog": catalog, "--force": force})
    else:
        check_page(html, force)
        keep_inputs(html, [place for place in (path, catalog, sequences) if place], path)

    from semtok.inspecting import inspected, write_inspection

    inspection = inspected(path, sequences, id_column=id_column, trust=trust or ())
    if html is not None:
        write_inspection(html, path, inspection, catalog, id_column=id_column)
    if as_json:
        typer.echo(json.dumps(inspection.health.to_dict(), indent=2))
    else:
        _show(inspection, html)


def _show(inspection: Inspection, html: Path | None) -> None:
    """Prints what `inspect` measured, and where the page is."""
    console = Console()
    console.show(inspection.health)
    collisions = None if inspection.tokenizer is None else inspection.tokenizer.collisions
    if collisions is not None and collisions.rate > 0:
        console.say(collisions.outcome)
    if html is not None:
        console.say(f"wrote {html}")


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="TOKENIZER|CODES...", help="Folders of tokenizers, and files of codes."
        ),
    ],
    vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Vectors of all items, .npy, .safetensors or .parquet: the neighbour agreement "
            "of all entries is measured with these.",
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The ids of the vectors' rows, one per line."),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the table as a page.")] = None,
    id_column: Annotated[
        str, typer.Option(help="The id column of a .parquet file of vectors.")
    ] = "item_id",
    trust: TrustOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the page.")] = False,
) -> None:
    """Compare tokenizers and files of codes in one table: levels, use, collisions, neighbours."""
    if vectors is None:
        refuse_without("--vectors", {"--ids": ids})
    if page is None:
        refuse_without("--page", {"--force": force})
    else:
        check_page(page, force)
        read = [*paths, *(path for path in (vectors, ids) if path is not None)]
        for path in paths:
            keep_inputs(page, read, path)

    from semtok.comparing import (
        compared,
        comparison_json,
        comparison_table,
        notes,
        write_comparison_page,
    )
    from semtok.vector_files import read_vectors

    on_same_vectors = vectors is not None
    item_ids, x = None, None
    if vectors is not None:
        item_ids, x = read_vectors(vectors, ids, id_column=id_column)
    entries = compared(paths, item_ids=item_ids, vectors=x, trust=trust or ())
    if page is not None:
        write_comparison_page(page, entries, on_same_vectors=on_same_vectors)
    if as_json:
        typer.echo(json.dumps(comparison_json(entries), indent=2))
        return
    console = Console()
    console.print(comparison_table(entries))
    for line in notes(entries, on_same_vectors=on_same_vectors):
        console.say(line)
    for entry in entries:
        console.say(f"{entry.name}: {entry.verdict.sentence}")
    if page is not None:
        console.say(f"wrote {page}")
