"""Self-contained HTML pages: on one code table, with figures and a tree; or on several tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from semtok.code_numbers import number_rows
from semtok.health import CodeHealth, chance_overlap
from semtok.page import figures
from semtok.page.document import card, document, table, verdict_line
from semtok.page.markup import Html, facts, isolated, tag, text
from semtok.page.tree import make_tree, tree_json, tree_note
from semtok.phrases import counted, levels_of_codes
from semtok.semantic_ids import SemanticIds
from semtok.storage import replacing_file
from semtok.verdict import Verdict, judged

_MOST_BUCKET_CHARTS = 6


def write_page(
    path: str | Path,
    *,
    health: CodeHealth,
    semantic_ids: SemanticIds,
    titles: Sequence[str | None] | None = None,
    heading: str = "Semantic IDs",
    details: Mapping[str, object] | None = None,
    max_items: int = 20_000,
) -> None:
    """Writes the page, which appears complete or not at all and replaces an existing file.

    The page loads nothing: figures are inline, and its policy forbids all requests. The same input
    gives the same bytes.

    Args:
        path: The .html file.
        health: The health of `semantic_ids`.
        semantic_ids: The table that the tree shows.
        titles: One per item, row i for item i; None for an item without a title. None in place of
            the list shows ids only.
        heading: The page's heading, such as the tokenizer's name.
        details: Names and values of further facts, such as quantizer and embedding.
        max_items: How many items the tree lists at most. The counts are of all items, and the
            page says how many it leaves out.

    Raises:
        ValueError: If health or titles do not have as many items as the table, or `max_items` is
            below 1.
    """
    num_items = len(semantic_ids)
    if health.num_items != num_items or len(health.levels) != semantic_ids.num_levels:
        raise ValueError(
            f"health must be that of the {num_items} items in {semantic_ids.num_levels} levels, "
            f"got one of {health.num_items} items in {len(health.levels)} levels"
        )
    if titles is not None and len(titles) != num_items:
        raise ValueError(f"titles must be as many as items ({num_items}), got {len(titles)}")
    if max_items < 1:
        raise ValueError(f"max_items must be at least 1, got {max_items}")
    lead = f"{counted(num_items, 'item')}, {levels_of_codes(semantic_ids.codebook_sizes)}"
    body = [
        tag(
            "header",
            tag("h1", isolated(heading)),
            tag("p", text(lead), css="lead"),
            verdict_line(judged(health, semantic_ids)),
        ),
        _tiles(health),
        _levels_card(health, semantic_ids),
        _buckets_card(health, semantic_ids),
    ]
    if health.neighbour_overlap is not None or health.num_pairs is not None:
        body.append(_meaning_card(health))
    if num_items:
        body.append(_tree_card(semantic_ids, titles, max_items))
    if details:
        body.append(card("How they were made", facts(details)))
    path = Path(path)
    page = document(heading, body)
    with replacing_file(path) as beside:
        beside.write_text(page, encoding="utf-8", newline="\n")


def write_comparison(
    path: str | Path,
    *,
    names: Sequence[str],
    verdicts: Sequence[Verdict],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> None:
    """Writes a page on several code tables, as `write_page` does on one.

    Args:
        path: The .html file.
        names: The names of the tables.
        verdicts: The verdict on each table.
        rows: A line for each measure: its name, then a cell for each table.
        notes: What a reader has to know to understand the rows.
    """
    lines = [
        part
        for name, verdict in zip(names, verdicts, strict=True)
        for part in (tag("h3", isolated(name)), verdict_line(verdict))
    ]
    heading = f"{counted(len(names), 'code table')} compared"
    body = [
        tag("header", tag("h1", text(heading))),
        card("Verdicts", *lines),
        card("Measures", table(["", *names], rows), note=" ".join(notes)),
    ]
    with replacing_file(Path(path)) as beside:
        beside.write_text(document(heading, body), encoding="utf-8", newline="\n")


def _tiles(health: CodeHealth) -> Html:
    """The most important figures, at the top of the page."""
    first = health.levels[0]
    rate, bucket = health.collision_rate, health.largest_bucket
    resolved = (health.resolved_collision_rate, health.resolved_largest_bucket)
    after = "" if (rate, bucket) == resolved else f"; once resolved {resolved[0]:.2%}"
    singled = sum(health.depths[:-1])
    tiles = [
        (
            "first level",
            f"{first.used:,} of {first.codebook_size:,}",
            f"codes used, as evenly as {first.perplexity:,.1f} equal ones",
        ),
        ("collisions", f"{rate:.2%}", f"of items; largest bucket {bucket:,}{after}"),
    ]
    if health.neighbour_overlap is not None:
        chance = chance_overlap(health.num_items)
        tiles.append(
            ("neighbour overlap", f"{health.neighbour_overlap:.1%}", f"by chance {chance:.2%}")
        )
    if first.shared_prefix is not None and first.shared_by_chance is not None:
        note = f"share the first code; by chance {first.shared_by_chance:.1%}"
        tiles.append(("next items", f"{first.shared_prefix:.1%}", note))
    if len(health.levels) > 1 and health.num_items:
        share = singled / health.num_items
        tiles.append(("told apart early", f"{share:.1%}", "of items, before their last code"))
    blocks = [
        tag("div", tag("h3", text(n)), tag("b", text(v)), tag("p", text(note)), css="tile")
        for n, v, note in tiles
    ]
    return tag("section", *blocks, css="tiles")


def _levels_card(health: CodeHealth, semantic_ids: SemanticIds) -> Html:
    counts = [
        np.bincount(semantic_ids.codes[:, number], minlength=size)
        for number, size in enumerate(semantic_ids.codebook_sizes)
    ]
    charts = figures.frequencies(counts)
    distortion = [level.distortion for level in health.levels if level.distortion is not None]
    if distortion:
        charts.append(figures.distortion_bars(distortion))
    head = ["level", "codes", "used", "utilisation", "perplexity", "entropy"]
    if distortion:
        head.append("distortion")
    rows = []
    for number, level in enumerate(health.levels, start=1):
        cells = [
            f"{number}",
            f"{level.codebook_size:,}",
            f"{level.used:,}",
            f"{level.utilisation:.1%}",
            f"{level.perplexity:,.1f}",
            f"{level.entropy:.2f} bit",
        ]
        if distortion:
            cells.append("" if level.distortion is None else f"{level.distortion:.4g}")
        rows.append(cells)
    note = (
        "Perplexity: as many evenly used codes would be as hard to guess. A code that pads shorter "
        "paths counts as code 0."
    )
    return card(
        "Levels",
        table(head, rows),
        tag("div", *charts, css="grid"),
        note=note,
    )


def _buckets_card(health: CodeHealth, semantic_ids: SemanticIds) -> Html:
    last = semantic_ids.num_levels - 1
    levels = [*range(min(last, _MOST_BUCKET_CHARTS - 1)), last] if len(semantic_ids) else []
    sizes = {
        level: np.unique(number_rows(semantic_ids.codes[:, : level + 1]), return_counts=True)[1]
        for level in levels
    }
    charts = figures.bucket_bars(sizes, last=last)
    depths = ", ".join(f"{count:,} by {d}" for d, count in enumerate(health.depths, 1) if count)
    note = (
        f"A bucket holds the items that share these codes. Items told apart by their first codes: "
        f"{depths}."
    )
    return card("Buckets", tag("div", *charts, css="grid"), note=note)


def _meaning_card(health: CodeHealth) -> Html:
    body, notes = [], []
    if health.neighbour_overlap is not None:
        pair = (health.neighbour_overlap, chance_overlap(health.num_items))
        rows = {"10 nearest": pair}
        body.append(tag("h3", text("Neighbours in embedding space that are neighbours by codes")))
        body.append(figures.comparison(rows, names=("measured", "by chance")))
        notes.append(
            "Nearest by codes is by the longest common prefix; ties count by their expectation."
        )
    shared = {
        "first code" if number == 1 else f"first {number} codes": (
            level.shared_prefix,
            level.shared_by_chance,
        )
        for number, level in enumerate(health.levels, start=1)
        if level.shared_prefix is not None and level.shared_by_chance is not None
    }
    if shared:
        body.append(tag("h3", text("Items that follow each other and share a prefix")))
        body.append(figures.comparison(shared, names=("measured", "shuffled")))
        notes.append(f"Counted over {health.num_pairs:,} pairs of consecutive items.")
    return card("What codes know", *body, note=" ".join(notes))


def _tree_card(
    semantic_ids: SemanticIds, titles: Sequence[str | None] | None, max_items: int
) -> Html:
    tree = make_tree(semantic_ids, max_items=max_items)
    data = Html(tree_json(tree, semantic_ids, titles))
    what = "an item id or codes, as 17 203" if titles is None else "a title, an item id or codes"
    search = tag(
        "input",
        type="search",
        id="search",
        placeholder=f"Search {what}",
        aria_label=f"Search {what}",
        autocomplete="off",
        spellcheck="false",
    )
    return card(
        "Browse",
        tag("div", search, tag("span", id="found", css="muted"), css="search"),
        tag("div", id="results"),
        tag("div", id="tree"),
        tag("noscript", tag("p", text("The tree needs JavaScript."))),
        tag("script", data, type="application/json", id="data"),
        note=tree_note(tree, len(semantic_ids)),
    )
