"""The winner: compares the best model of a run with the best floor, on validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalrec import Estimate, Report, compare

from semrec.shared.pipeline import Pipeline, validation_key
from semrec.shared.stage import Stage
from semrec.shared.stages import floor_ndcg

MODES = {"unfiltered": "all items", "filtered": "seen items filtered"}
"""The texts for the modes of a report."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The best model and the best floor on the test.

    Attributes:
        model: Name of the best model.
        floor: Name of the best floor.
        metric: The metric of the comparison, such as "ndcg@10".
        mode: The mode of the metric: "unfiltered" or "filtered".
        figures: The mean of each, by name, with its interval over users.
        difference: The model's mean minus the floor's, paired by user, with its interval.
    """

    model: str
    floor: str
    metric: str
    mode: str
    figures: Mapping[str, Estimate]
    difference: Estimate

    @property
    def winner(self) -> str:
        """The name with the higher mean; of equals the floor, which costs less."""
        return self.model if self.difference.mean > 0 else self.floor

    @property
    def is_clear(self) -> bool:
        """Whether the difference is significant: zero is outside its interval."""
        return self.difference.low > 0 or self.difference.high < 0

    @property
    def headline(self) -> str:
        """The winner as a sentence."""
        if not self.is_clear:
            return f"No clear difference between {self.model} and the floor {self.floor}"
        return f"{self.model} wins" if self.winner == self.model else f"A floor wins: {self.floor}"

    @property
    def details(self) -> str:
        """The size of the difference as a sentence."""
        gap = self.difference
        return (
            f"{self.metric_label} on the test, {MODES[self.mode]}: "
            f"{self.model} {decimal(self.figures[self.model].mean)}, "
            f"best floor {decimal(self.figures[self.floor].mean)} ({self.floor}), "
            f"difference {gap.mean:+.4f} (95 % interval {gap.low:+.4f} to {gap.high:+.4f})."
        )

    @property
    def metric_label(self) -> str:
        """The metric as written in tables."""
        return self.metric.replace("ndcg", "NDCG")


def on_test(pipeline: Pipeline[Any], reports: Mapping[str, Report]) -> Verdict:
    """Compares the best model with the best floor on the test.

    Args:
        pipeline: The run, which knows the rows of models.
        reports: The test reports by their rows: models first, then floors.
    """
    ks = next(iter(reports.values())).ks
    mode, metric = pipeline.judged_mode, f"ndcg@{10 if 10 in ks else max(ks)}"
    means = {name: float(r.per_user(metric, mode).mean()) for name, r in reports.items()}
    models = list(pipeline.systems())
    model = max(models, key=lambda name: means[name])
    floor = max((name for name in reports if name not in models), key=lambda name: means[name])
    pair = compare({floor: [reports[floor]], model: [reports[model]]}, metrics=(metric,))
    (difference,) = (d.estimate for d in pair.differences if d.mode == mode)
    figures = {name: reports[name].metrics[mode][metric] for name in (model, floor)}
    return Verdict(
        model=model, floor=floor, metric=metric, mode=mode, figures=figures, difference=difference
    )


def on_validation(pipeline: Pipeline[Any]) -> str:
    """One line: the winner on the validation users, the difference, and what answers.

    Such as "PRORec, joined .612, best floor .591 (graph + text): NDCG@10 of ...".
    """
    if "validation" not in pipeline.floors.complete():
        return "an older version began the run and did not validate floors: see the test"
    mode = pipeline.judged_mode
    models = {
        name: figure
        for name, stage in pipeline.systems().items()
        if (figure := _validated(stage, validation_key(mode))) is not None
    }
    floors = floor_ndcg(pipeline, mode)
    model, floor = (max(each, key=lambda name: each[name]) for each in (models, floors))
    parts = [
        f"{model} {decimal(models[model])}",
        f"best floor {decimal(floors[floor])} ({floor})",
    ]
    if floors[floor] >= models[model]:
        parts = ["a floor wins", *reversed(parts)]
    users = f"{len(pipeline.validation):,} validation users, {MODES[mode]}"
    answers = f"; answers: {pipeline.answers_by}" if pipeline.answers_by else ""
    return f"{', '.join(parts)}: NDCG@10 of {users}{answers}"


def _validated(stage: Stage[Report], key: str) -> float | None:
    """The validation metric of a stage, or of the latest stage before it."""
    for near in (stage, *reversed(stage.before)):
        noted = near.complete().get("validation")
        if isinstance(noted, float):
            return noted
        if isinstance(noted, Mapping) and key in noted:
            return float(noted[key])
    return None


def decimal(value: float) -> str:
    """Four digits without the zero before the point, as usual in the field."""
    return f"{value:.4f}".removeprefix("0")
