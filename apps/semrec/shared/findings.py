"""The shared parts of all apps' reports and metrics: results, curves, examples, times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evalrec import Report
from evalrec.page import (
    Bars,
    Example,
    Panel,
    Section,
    bars,
    curves,
    examples_table,
    read_series,
    results_table,
    tag,
    text,
    write_page,
)
from genrec import Answer

from semrec.shared import processes
from semrec.shared.data import Data
from semrec.shared.environment import made_by
from semrec.shared.files import read_json_lines, write_json
from semrec.shared.pipeline import Pipeline
from semrec.shared.screen import duration
from semrec.shared.stage import Stage
from semrec.shared.studies import study_sections
from semrec.shared.verdict import MODES, Verdict, on_test

AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline[Any])


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The parts of a run's report beside the test.

    Attributes:
        lead: One sentence under the page's heading.
        choices: The configuration values that a reader wants to know first.
        trainings: The trainings to show: stage, title, names of the loss terms.
        cards: The cards of the page between the trainings and the studies.
        metrics: The entries of metrics.json beside the data, the stages and the test.
    """

    lead: str
    choices: Mapping[str, object]
    trainings: Sequence[tuple[Stage[Any], str, Sequence[str]]]
    cards: Sequence[Section]
    metrics: dict[str, Any]


def complete_run(
    title: str, pipeline: AnyPipeline, find: Callable[[AnyPipeline], Findings]
) -> dict[str, Report]:
    """Completes a run's stages, and writes metrics and report.

    Of several processes only the first returns; the others end when the stages are complete.

    Args:
        title: The model's name.
        pipeline: The run.
        find: Returns the parts of the report beside the test.

    Returns:
        The test reports: the model, the models it is compared with, the floors.
    """
    kept: list[Stage[Any]] = [pipeline.items, pipeline.users, pipeline.catalogue]
    for stage in (*kept, *pipeline.stages()):
        stage.complete()
    processes.part()
    reports, findings = pipeline.reports(), find(pipeline)
    write_json(pipeline.run.path / "metrics.json", metrics(pipeline, reports) | findings.metrics)
    write_report(title, pipeline, reports, findings)
    return reports


def metrics(pipeline: Pipeline[Any], reports: Mapping[str, Report]) -> dict[str, Any]:
    """The content of metrics.json; it does not depend on when or how often the run was started."""
    return {
        "data": pipeline.data.counts,
        "stages": {
            stage.folder_name: {
                key: value for key, value in stage.complete().items() if key != "seconds"
            }
            for stage in pipeline.stages()
        },
        "test": {name: report.to_json(per_user=False) for name, report in reports.items()},
    }


def write_report(
    title: str, pipeline: Pipeline[Any], reports: Mapping[str, Report], findings: Findings
) -> None:
    """Writes report.html from the results of the stages."""
    run, data = pipeline.run, pipeline.data
    verdict, begun = on_test(pipeline, reports), made_by(run)
    write_page(
        run.path / "report.html",
        title=title,
        lead=f"{findings.lead}, {run.path.name}",
        opening=verdict_section(verdict, pipeline.answers_by),
        summary={
            "Data": data.counts,
            "Choices": findings.choices,
            "Time": times(pipeline.stages()),
            **({"Made by": begun} if begun else {}),
        },
        sections=[
            results_section(len(data.split.test), reports, verdict.winner),
            *([training_section(findings.trainings)] if findings.trainings else []),
            *findings.cards,
            *study_sections(run),
            examples_section(data, pipeline.recommender().recommend, pipeline.config.seed),
        ],
    )


def times(stages: Sequence[Stage[Any]]) -> dict[str, str]:
    """The time of each stage and of all stages together."""
    seconds = {stage.folder_name: stage.complete()["seconds"] for stage in stages}
    return {name: duration(value) for name, value in seconds.items()} | {
        "all": duration(sum(seconds.values()))
    }


def seconds_an_epoch(training: Stage[Any]) -> float:
    """The mean seconds of a training epoch, without validation."""
    epochs = read_json_lines(training.file("log.jsonl"))
    return statistics.fmean(epoch["seconds"] for epoch in epochs)


def verdict_section(verdict: Verdict, answers_by: str | None) -> Section:
    """The winner on the test, as a sentence and a chart.

    Args:
        verdict: The best model and the best floor.
        answers_by: The row that `recommend` answers by, if that can be a floor.
    """
    names = (verdict.model, verdict.floor)
    chart = bars(
        [
            Bars(
                title=f"{verdict.metric_label}, {MODES[verdict.mode]}, 95 % intervals over users",
                values={name: verdict.figures[name] for name in names},
                highlighted=names.index(verdict.winner),
            )
        ]
    )
    answers = f" The command recommend answers by {answers_by}." if answers_by else ""
    return Section(
        title=verdict.headline,
        body=[tag("p", text(verdict.details)), chart],
        note=f"The best model and the best floor on the test.{answers}",
    )


def results_section(num_users: int, reports: Mapping[str, Report], winner: str) -> Section:
    """The test results of all rows; at 5 if the reports have no other cut-off.

    Args:
        num_users: Users of the test.
        reports: The test reports by their rows.
        winner: The row to mark.
    """
    shown = tuple(f"@{k}" for k in reports[winner].ks if k != 5) or ("@5",)
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
        body=[results_table(results, model=winner)],
        note=f"Test, {num_users:,} users, ranking over all items; a hit is the exact item. "
        "Filtered: the items of the user's history are removed first. Rows below the models are "
        "floors, which need no training. The tinted row won.",
    )


def training_section(trainings: Sequence[tuple[Stage[Any], str, Sequence[str]]]) -> Section:
    """The curves of each training's loss terms and validation metric."""
    panels = []
    for stage, title, terms in trainings:
        log = stage.file("log.jsonl")
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
    chosen = data.split.test.sample(count, seed=seed)
    row = {name: number for number, name in enumerate(names)}
    answers = recommend([[names[item] for item in history] for history in chosen.histories])
    examples = []
    for history, answer, target in zip(chosen.histories, answers, chosen.targets, strict=True):
        answered = [row[item.item_id] for item in answer.items]
        examples.append(
            Example(
                history=[titles[item] for item in history[-8:]],
                recommended=[titles[item] for item in answered],
                target=titles[target],
                hit=answered.index(target) if target in answered else None,
            )
        )
    return Section(title="Examples", body=[examples_table(examples)])
