"""What the pages and metrics of the three apps have in common: results, curves, examples, times."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evalrec import Report
from genrec import Answer

from semrec.shared.data import Data, sample_queries
from semrec.shared.report.figures import Panel, curves, read_series
from semrec.shared.report.page import Example, Section, duration, examples_table, results_table
from semrec.shared.run import Run


def metrics(
    run: Run, data: Data, stages: Sequence[str], reports: Mapping[str, Report]
) -> dict[str, Any]:
    """What metrics.json holds: nothing that depends on when or how often the run was started."""
    return {
        "data": data.counts,
        "stages": {
            name: {key: value for key, value in stage.items() if key != "seconds"}
            for name, stage in run.complete(stages).items()
        },
        "test": {name: report.to_json(per_user=False) for name, report in reports.items()},
    }


def times(run: Run, stages: Sequence[str]) -> dict[str, str]:
    """How long each stage took, and all of them."""
    seconds = {name: facts["seconds"] for name, facts in run.complete(stages).items()}
    return {name: duration(value) for name, value in seconds.items()} | {
        "all": duration(sum(seconds.values()))
    }


def seconds_an_epoch(run: Run, stage: str) -> float:
    """How long an epoch of a training took on the average, validation left out."""
    lines = (run.path / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.fmean(json.loads(line)["seconds"] for line in lines)


def results_section(data: Data, reports: Mapping[str, Report], model: str) -> Section:
    """The test of the model and of what it is compared with; @5 where there is nothing else."""
    shown = tuple(f"@{k}" for k in reports[model].ks if k != 5) or ("@5",)
    results = {
        name: {
            mode: {
                metric: estimate.mean
                for metric, estimate in estimates.items()
                if not metric.startswith("mrr") and metric.endswith(shown)
            }
            for mode, estimates in report.metrics.items()
        }
        for name, report in reports.items()
    }
    return Section(
        title="Results",
        body=[results_table(results, model=model)],
        note=f"Test, all {data.counts['users']:,} users, ranking over all items, hits on "
        "items. Filtered: items of the user's history are struck out first. Rows below the "
        "models are floors, which need no training.",
    )


def training_section(run: Run, trainings: Mapping[str, tuple[str, Sequence[str]]]) -> Section:
    """The loss terms and the validation of each training.

    Args:
        run: The run.
        trainings: The stage of each, with its title and the names of its loss terms.
    """
    panels = []
    for stage, (title, terms) in trainings.items():
        log = run.path / stage / "log.jsonl"
        panels.append(
            Panel(title=f"{title}: loss", lines=read_series(log, {t: f"losses.{t}" for t in terms}))
        )
        ndcg = {"all items": "metrics.ndcg@10", "seen filtered": "metrics.ndcg@10 filtered"}
        panels.append(
            Panel(title=f"{title}: validation NDCG@10", lines=read_series(log, ndcg), mark="max")
        )
    return Section(title="Training", body=[curves(panels)])


def examples_section(
    data: Data, recommend: Callable[[list[list[str]]], list[Answer]], seed: int, count: int = 4
) -> Section:
    """A few users' histories, recommendations and targets."""
    titles, names = data.titles(), data.catalog.item_ids
    chosen = sample_queries(data.split.test, count, seed)
    row = {name: number for number, name in enumerate(names)}
    answers = recommend([[names[item] for item in history] for history in chosen.histories])
    examples = []
    for history, answer, target in zip(chosen.histories, answers, chosen.targets, strict=True):
        found = [row[item.item_id] for item in answer.items]
        examples.append(
            Example(
                history=[titles[item] for item in history[-8:]],
                recommended=[titles[item] for item in found],
                target=titles[target],
                hit=found.index(target) if target in found else None,
            )
        )
    return Section(title="Examples", body=[examples_table(examples)])
