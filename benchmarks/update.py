"""Times PRORec's update and a full retrain, and compares their metrics on the same users.

    python benchmarks/update.py --work FOLDER                       # synthetic data
    python benchmarks/update.py --data FOLDER --work FOLDER --device cuda

Each history is cut by position: its first part (nine tenths) is the old data, the whole history is
the new data. Items that are not in the first parts are new. So are `--launched` random items, whose
interactions are left out of the old data. There are four runs: PRORec on the old data, its update,
its update without training, and PRORec on the new data from the start. The target to predict is the
last item of each user with new interactions; none of the four was trained on it.

Times are the sums over the stages, without Python's start. Everything in the work folder is kept,
so a stopped run resumes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from evalrec import (
    Queries,
    evaluate,
    find_interactions,
    leave_one_out,
    read_interactions,
    write_synthetic,
)
from genrec import Answers
from native_part import write_part
from semtok import find_catalog, read_catalog

from semrec.loading import load_run

APP = Path(__file__).resolve().parents[1] / "apps" / "prorec.py"
TOP = 10
TARGETS = {"time of the first run": 0.2, "recall of the retrain": 0.98}


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The old data in a folder, and the queries.

    Attributes:
        folder: The old data.
        queries: For each user with new interactions, the last item as target.
        item_ids: The id of each item of the new data.
        is_new: Whether the item is not in the old data.
    """

    folder: Path
    queries: Queries
    item_ids: list[str]
    is_new: np.ndarray[Any, np.dtype[np.bool_]]


def cut(data: Path, folder: Path, share: float, launched: int, count: int) -> Cut:
    """Cuts each history after a share of it, rounded down, but not before its third item.

    Args:
        data: A native folder.
        folder: The folder for the old data, unless it exists.
        share: Share of each history in the old data.
        launched: Number of random items that are left out of the old data.
        count: Largest number of queries.
    """
    catalog = read_catalog(find_catalog(data))
    table = read_interactions(find_interactions(data), item_ids=catalog.item_ids)
    lengths = np.bincount(table.users, minlength=table.num_users)  # [users]
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(table)) - starts[table.users]
    is_old = place < np.maximum((share * lengths).astype(int), 3)[table.users]
    drawn = np.random.default_rng(0).choice(table.num_items, size=launched, replace=False)
    is_old &= ~np.isin(table.items, drawn)
    kept = write_part(data, folder, table, is_old)  # [items]
    test = leave_one_out(table).test
    assert test.users is not None
    has_new = np.bincount(table.users[~is_old], minlength=table.num_users)[test.users] > 0
    queries = np.flatnonzero(has_new)
    queries = Queries(
        histories=[test.histories[query] for query in queries],
        targets=test.targets[queries],
        num_items=test.num_items,
        cold=test.cold[queries],
        users=test.users[queries],
    ).sample(count, seed=0)
    return Cut(folder=folder, queries=queries, item_ids=catalog.item_ids, is_new=~kept)


def prorec(*arguments: object) -> None:
    """Runs a command of PRORec."""
    subprocess.run([sys.executable, str(APP), *map(str, arguments)], check=True)


def seconds(run: Path) -> float:
    """Seconds of a run's stages."""
    stages = [json.loads(path.read_text()) for path in run.glob("*/stage.json")]
    return sum(stage["seconds"] for stage in stages)


def figures(run: Path, cut: Cut) -> dict[str, float]:
    """The metrics of a run on the queries; it skips unknown items of a history."""
    rows = {item_id: row for row, item_id in enumerate(cut.item_ids)}
    recommender: Answers = load_run(run).recommender()
    histories = [[cut.item_ids[row] for row in history] for history in cut.queries.histories]
    ranked = np.full((len(histories), TOP), -1)
    for user, answer in enumerate(recommender.stream(histories, top_k=TOP)):
        best = [rows[item.item_id] for item in answer.items]
        ranked[user, : len(best)] = best
    report = evaluate(cut.queries, ranked, ks=(TOP,))
    is_hit = (ranked == cut.queries.targets[:, None]).any(axis=1)
    wants_new = cut.is_new[cut.queries.targets]
    return {
        "seconds": seconds(run),
        **{name: report.metrics["unfiltered"][f"{name}@{TOP}"].mean for name in ("recall", "ndcg")},
        "recall of new items": float(is_hit[wants_new].mean()) if wants_new.any() else 0.0,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the four runs, and evaluates them."""
    work: Path = options.work
    data = options.data or work / "now"
    if not data.exists():
        write_synthetic(data, num_items=options.items, num_users=options.users, seed=0)
    parts = cut(data, work / "last-week", options.share, options.launched, options.asked)
    config = ["--config", options.config] if options.config else []
    device = ["--device", options.device]
    settings = ["--config", options.update] if options.update else []
    runs = {name: work / name for name in ("first", "update", "grown", "retrain")}
    prorec("run", "--data", parts.folder, "--out", runs["first"], *config, *device)
    onwards = ["update", "--run", runs["first"], "--data", data]
    prorec(*onwards, "--out", runs["update"], *settings, *device)
    prorec(*onwards, "--out", runs["grown"], "--no-train", *device)
    prorec("run", "--data", data, "--out", runs["retrain"], *config, *device)
    return {
        "machine": f"{platform.machine()}, {platform.system()}, {options.device}",
        "date": date.today().isoformat(),
        "users asked": len(parts.queries),
        "items": len(parts.item_ids),
        "new items": int(parts.is_new.sum()),
        "new items among the targets": int(parts.is_new[parts.queries.targets].sum()),
        "runs": {name: figures(run, parts) for name, run in runs.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Prints a table, and whether the targets are reached."""
    runs = result["runs"]
    columns = list(runs["first"])
    print("|", " | ".join(["run", *columns]), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in runs.items():
        print("|", " | ".join([name, *(f"{row[column]:.4g}" for column in columns)]), "|")
    shares = {
        "time of the first run": runs["update"]["seconds"] / runs["first"]["seconds"],
        "recall of the retrain": runs["update"]["recall"] / runs["retrain"]["recall"],
    }
    for name, share in shares.items():
        bound = "at most" if name.startswith("time") else "at least"
        print(f"{name}: {share:.3f}; the target is {bound} {TARGETS[name]}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="native folder; synthetic data without it")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--config", type=Path, help="TOML of the runs from the start")
    parser.add_argument("--update", type=Path, help="TOML with the table [update]")
    parser.add_argument("--share", type=float, default=0.9, help="old share of each history")
    parser.add_argument("--launched", type=int, default=0, help="random items, made new")
    parser.add_argument("--asked", type=int, default=5000, help="largest number of queries")
    parser.add_argument("--items", type=int, default=600, help="items of synthetic data")
    parser.add_argument("--users", type=int, default=2000, help="users of synthetic data")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    result = measure(options)
    (options.work / "update.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
