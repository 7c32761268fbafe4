"""`study NAME`: compares variants of a run, which are trained and stored in the run's folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import typer
from evalrec import Comparison, Report, compare, comparison_table, systems_grid
from evalrec.page import Bars, Html, Panel, Section, bars, curves, table
from rich.console import Console

from semrec.shared.files import read_json, replacing, write_sealed, writing
from semrec.shared.run import Run
from semrec.shared.stage import Setting, Stage
from semrec.shared.text import visible

AnyPipeline = TypeVar("AnyPipeline", bound=Setting[Any])
Value = TypeVar("Value")
Study = Callable[[AnyPipeline, Sequence[int]], "Outcome"]
"""A function that trains the variants of a study for each seed and returns the outcome."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a study.

    Attributes:
        title: The heading in the report.
        note: What is compared, with the paper's table or figure.
        systems: The test reports of each variant, one per seed. The others are compared with the
            first variant.
        facts: Further columns: name and value, by variant.
        places: The position of each variant on the axis of a line chart, if the study varies a
            number; without it the chart has bars.
        axis: The label of that axis.
        figures: Further figures below the table.
        k: The cut-off of the table; the last cut-off of the reports if they lack it.
    """

    title: str
    note: str
    systems: Mapping[str, Sequence[Report]]
    facts: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    places: Mapping[str, float] = field(default_factory=dict)
    axis: str = ""
    figures: Sequence[Html] = ()
    k: int = 10


def tested(
    variants: Mapping[str, AnyPipeline],
    seeds: Sequence[int],
    test: Callable[[AnyPipeline], Stage[Report]],
) -> dict[str, list[Report]]:
    """Tests variants with each seed and prints the current one.

    Args:
        variants: The variants by their names in tables.
        seeds: The seeds of each variant.
        test: Returns the stage that tests a variant; it trains the variant first if needed.

    Returns:
        The reports by variant, one per seed.
    """
    for variant in variants.values():  # before the first is trained
        variant.config.check(variant.data)
    systems = {}
    for number, (name, variant) in enumerate(variants.items(), start=1):
        place = f" ({number} of {len(variants)})" if len(variants) > 1 else ""
        variant.run.screen.say(f"-- {name}{place}")
        systems[name] = [test(variant.varied(seed=seed)).result() for seed in seeds]
    return systems


def default_first(default: Value, values: Sequence[Value]) -> list[Value]:
    """The run's own value, with which the others are compared, followed by the others."""
    return [default, *(value for value in values if value != default)]


def mean_over_seeds(reports: Sequence[Report], metric: str, mode: str) -> float:
    """The mean of a metric over the reports of a system, one per seed."""
    return statistics.fmean(float(report.per_user(metric, mode).mean()) for report in reports)


def run_study(
    name: str,
    study: Study[AnyPipeline],
    pipeline: AnyPipeline,
    seeds: Sequence[int],
    run_stages: Callable[[AnyPipeline], object],
) -> None:
    """Completes a study and the run that it belongs to, and prints the result.

    Args:
        name: The name of the study.
        study: One of the app's studies.
        pipeline: The run.
        seeds: The seeds of each variant.
        run_stages: Completes the run and writes its report, with the study's card.
    """
    outcome = study(pipeline, seeds)
    comparison = keep_study(pipeline.run, name, outcome)
    run_stages(pipeline)
    typer.echo()
    Console().print(comparison_table(comparison))
    for line in pipeline.run.places:
        typer.echo(visible(line))


def keep_study(run: Run, name: str, outcome: Outcome) -> Comparison:
    """Stores a study's comparison in the run, for `study_sections` and as Markdown."""
    ks = next(iter(outcome.systems.values()))[0].ks
    k = outcome.k if outcome.k in ks else ks[-1]
    comparison = compare(outcome.systems, metrics=(f"recall@{k}", f"ndcg@{k}"))
    shown = {
        row: {
            name: f"{value:.4g}" if isinstance(value, float) else value
            for name, value in values.items()
        }
        for row, values in outcome.facts.items()
    }
    grid = systems_grid(comparison, intervals=False, p_values=True, facts=shown)
    folder = run.path / "studies"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    lines = [f"# {outcome.title}", "", outcome.note, "", grid.markdown()]
    with replacing(folder / f"{name}.md") as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_sealed(
        folder / f"{name}.json",
        {
            "title": outcome.title,
            "note": outcome.note,
            "comparison": comparison.to_json(),
            "facts": {row: dict(values) for row, values in outcome.facts.items()},
            "body": [table(grid.header, grid.rows), *_figures(comparison, outcome)],
        },
    )
    return comparison


def study_sections(run: Run) -> list[Section]:
    """The cards of all studies of a run."""
    paths = sorted((run.path / "studies").glob("*.json"))
    studies = [read_json(path, sealed=run.is_sealed) for path in paths]
    return [
        Section(
            title=f"Study: {study['title']}",
            body=[Html(part) for part in study["body"]],
            note=study["note"],
        )
        for study in studies
    ]


def _figures(comparison: Comparison, outcome: Outcome) -> list[Html]:
    """NDCG as bars with intervals over users, or as lines over a number."""
    metric = comparison.metrics[-1]
    shown = {"all items": "unfiltered", "seen filtered": "filtered"}
    if outcome.places:
        lines = {
            label: [
                (outcome.places[system.name], system.figures[mode, metric].mean)
                for system in comparison.systems
                if system.name in outcome.places
            ]
            for label, mode in shown.items()
        }
        lines = {label: sorted(points) for label, points in lines.items()}
        chart = curves([Panel(title=f"{metric}", lines=lines, x_label=outcome.axis, mark="max")])
    else:
        chart = bars(
            [
                Bars(
                    title=f"{metric}, {label}",
                    values={s.name: s.figures[mode, metric] for s in comparison.systems},
                )
                for label, mode in shown.items()
            ]
        )
    return [chart, *outcome.figures]
