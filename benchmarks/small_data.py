"""Runs PRORec with its default configuration on small data, and compares it with the best floor.

    python benchmarks/small_data.py --work FOLDER
    python benchmarks/small_data.py --work FOLDER --data BEAUTY --data GAMES --only games-500

Slices: three synthetic shops, and from each native folder that you name the 500 and 2,000 most
popular items with their interactions. The validation users decide which system recommends, floors
included, so no system is better on them; the test users show how good this choice is. Runs stay in
the work folder, and a stopped run resumes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from evalrec import find_interactions, read_interactions, write_synthetic
from native_part import write_part
from semtok import find_catalog, read_catalog

from semrec.loading import load_run

APP = Path(__file__).resolve().parents[1] / "apps" / "prorec.py"
SYNTHETIC = {"shop-300": (300, 150), "shop-1000": (1000, 1000), "shop-3000": (3000, 4000)}
"""Items and users."""

MOST_HAD = (500, 2000)
LEAST = 3
"""Fewest interactions of a user in a slice: one for training, one for validation, one for test."""


def slices(work: Path, sources: list[Path]) -> Iterator[tuple[str, Path]]:
    """The name of each slice, and its native folder, which is made if it does not exist."""
    for name, (num_items, num_users) in SYNTHETIC.items():
        folder = work / "data" / name
        if not folder.exists():
            write_synthetic(folder, num_items=num_items, num_users=num_users)
        yield name, folder
    for source in sources:
        catalog = read_catalog(find_catalog(source))
        table = read_interactions(find_interactions(source), item_ids=catalog.item_ids)
        counts = np.bincount(table.items, minlength=table.num_items)  # [items]
        for size in MOST_HAD:
            name = f"{source.name.split('_')[-1]}-{size}"
            most_had = np.argsort(-counts, kind="stable")[:size]
            is_kept = np.isin(table.items, most_had)
            lengths = np.bincount(table.users[is_kept], minlength=table.num_users)  # [users]
            is_kept &= lengths[table.users] >= LEAST
            write_part(source, work / "data" / name, table, is_kept)
            yield name, work / "data" / name


def measured(name: str, data: Path, out: Path) -> dict[str, object]:
    """Completes a run and returns its metrics."""
    start = time.perf_counter()
    command = [sys.executable, str(APP), "run", "--data", str(data), "--out", str(out)]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    run = load_run(out)
    pipeline, reports = run.pipeline, run.reports
    facts = pipeline.joined.complete()
    noted = pipeline.floors.complete()["validation"]  # of all users, as many as small data have
    floors = {name: figures["ndcg@10"] for name, figures in noted.items()}
    best = max(floors, key=lambda name: floors[name])
    counts = json.loads((out / "metrics.json").read_text())["data"]

    def tested(row: str) -> float:
        return float(reports[row].per_user("ndcg@10", "unfiltered").mean())

    return {
        "slice": name,
        "items": len(run.item_ids),
        "interactions": counts["interactions"],
        "answers": facts["base"],
        "validation": facts["validation"],
        "best floor there": floors[best],
        "floor": best,
        "test": tested("PRORec, joined"),
        "that floor's test": tested(best),
        "seconds": round(seconds),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--data", type=Path, action="append", default=[], help="native folder")
    parser.add_argument("--only", action="append", help="name of a slice; default: all")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, data in slices(options.work, options.data):
        if options.only is None or name in options.only:
            rows.append(measured(name, data, options.work / "runs" / name))
            (options.work / "small_data.json").write_text(json.dumps(rows, indent=2) + "\n")
    columns = list(rows[0])
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|")
    for row in rows:
        cells = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in map(row.get, columns)]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
