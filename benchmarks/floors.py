"""The floors on a native folder, compared with reference values on Amazon Beauty.

    .venv/bin/python benchmarks/floors.py --data ../shared/data/amazon14_beauty

Prints the parameters chosen on validation, the test metrics with and without seen items, and the
times of fitting and testing. If the data is Amazon Beauty (by its counts), every metric is compared
with a reference that was measured independently, and the exit status is 1 if one differs by more
than 3 %. Popularity's reference ranks the target before equally popular items. evalrec always ranks
it last among them, so popularity is measured in both ways.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from evalrec import (
    DataError,
    PopularityFloor,
    Report,
    Split,
    evaluate,
    find_interactions,
    fit_floors,
    leave_one_out,
    read_interactions,
    reports_table,
)
from rich.console import Console
from rich.table import Table

BEAUTY = (22_363, 12_101, 198_502)
FLATTERED = "popularity, ties for the target"
REFERENCE = {
    (FLATTERED, "unfiltered"): (0.0120, 0.0055),
    ("markov", "filtered"): (0.0652, 0.0425),
    ("graph", "unfiltered"): (0.0777, 0.0468),
    ("graph", "filtered"): (0.0825, 0.0514),
    ("graph + text", "unfiltered"): (0.0964, 0.0573),
    ("graph + text", "filtered"): (0.1015, 0.0626),
}
TOLERANCE = 0.03


def read_items(folder: Path) -> tuple[list[str], list[str]]:
    """The keys and the texts, title and categories, of items.jsonl or items.jsonl.gz."""
    path = folder / "items.jsonl"
    opener = open
    if not path.exists():
        path, opener = folder / "items.jsonl.gz", gzip.open
    with opener(path, "rt", encoding="utf-8") as stream:
        items = [json.loads(line) for line in stream]
    words = ([item.get("title") or "", *(item.get("categories") or [])] for item in items)
    return [item["item_id"] for item in items], [html.unescape(" ".join(text)) for text in words]


def reference_table(reports: dict[str, Report]) -> tuple[Table, bool]:
    """A table of measured values and references, and whether all are within the tolerance."""
    table = Table(title=f"Amazon Beauty: measured / reference, tolerance {TOLERANCE:.0%}")
    for column in ("floor", "seen items", "Recall@10", "NDCG@10", "off by"):
        table.add_column(column)
    good = True
    for (name, mode), reference in REFERENCE.items():
        metrics = reports[name].metrics[mode]
        measured = (metrics["recall@10"].mean, metrics["ndcg@10"].mean)
        off = [have / want - 1 for have, want in zip(measured, reference, strict=True)]
        good = good and max(map(abs, off)) <= TOLERANCE
        cells = (f"{have:.4f} / {want:.4f}" for have, want in zip(measured, reference, strict=True))
        seen = "kept in" if mode == "unfiltered" else "removed"
        table.add_row(name, seen, *cells, ", ".join(f"{value:+.1%}" for value in off))
    return table, good


def flattered_popularity(split: Split, report: Report) -> Report:
    """Popularity with the target ranked before equally popular items, seen items included."""
    counts = PopularityFloor.fit(split.train, split.num_items).counts
    above = np.sort(-counts)
    ranks = np.searchsorted(above, -counts[split.test.targets]) + 1
    return replace(report, ranks={mode: ranks for mode in report.ranks})


def main() -> int:
    """Fits, tests and prints; returns 1 if a reference is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a native folder")
    folder = parser.parse_args().data
    console = Console()
    try:
        item_ids, texts = read_items(folder)
        interactions = read_interactions(find_interactions(folder), item_ids=item_ids)
        split = leave_one_out(interactions)
    except (DataError, OSError) as error:
        sys.exit(str(error))
    start, start_cpu = time.perf_counter(), time.process_time()
    with console.status("fitting") as status:
        floors = fit_floors(
            split, texts, progress=lambda done, of: status.update(f"setting {done} of {of}")
        )
    fitted, fitted_cpu = time.perf_counter(), time.process_time()
    reports = {name: evaluate(split.test, floor.score) for name, floor in floors.items()}
    for report in reports.values():
        report.metrics  # noqa: B018  (the intervals are part of the time)
    tested, tested_cpu = time.perf_counter(), time.process_time()
    for name, floor in floors.items():
        chosen = ", ".join(f"{key} {value}" for key, value in floor.parameters.items())
        console.print(f"{name}: {chosen or 'nothing to choose'}")
    console.print(reports_table(reports, title=f"Floors, test, {folder.name}"))
    console.print(
        f"fitted in {fitted - start:.1f} s ({fitted_cpu - start_cpu:.1f} s of CPU), "
        f"tested in {tested - fitted:.1f} s ({tested_cpu - fitted_cpu:.1f} s of CPU)"
    )
    good = True
    if (interactions.num_users, interactions.num_items, len(interactions)) == BEAUTY:
        reports[FLATTERED] = flattered_popularity(split, reports["popularity"])
        table, good = reference_table(reports)
        console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
