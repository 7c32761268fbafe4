"""Loggers of `fit`: what they are told, after a resumption too, and what a failing one does."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from genrec import LoggerError, MetricsLogger, TrainingConfig, TrainingEvent, TrainingResult, fit
from genrec.optimization import learning_rate_at
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

NUM_BATCHES, EPOCHS = 40, 3  # 120 steps: two points of the curves of steps
CONFIG = TrainingConfig(
    epochs=EPOCHS, learning_rate=0.1, warmup_steps=10, schedule="linear", monitor="weight"
)
TIMED = {"samples_per_second", "step/samples_per_second"}


class Number:
    """A batch of two samples, both of one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __len__(self) -> int:
        return 2

    def to(self, device: torch.device) -> Number:
        return self


class Numbers:
    """Batches of the sines of their numbers, counted on from epoch to epoch."""

    def __len__(self) -> int:
        return NUM_BATCHES

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[Number]:
        assert (shard, shards) == (0, 1)
        return (Number(slope(epoch * NUM_BATCHES + place)) for place in range(start, NUM_BATCHES))


class Recorder:
    """A logger of no library."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.fails_at = fails_at

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("the tracker\ncannot be reached")
        self.told.append((step, metrics))


class Crash(BaseException):
    """Stands for a kill."""


def slope(number: int) -> float:
    return 2 + math.sin(number)


def loss(module: nn.Linear, batch: Number) -> dict[str, Tensor]:
    return {"slope": batch.value * module.weight.sum(), "offset": 1 + 0 * module.weight.sum()}


def train(
    *loggers: MetricsLogger,
    folder: Path | None = None,
    config: TrainingConfig = CONFIG,
    callback: Callable[[TrainingEvent], None] | None = None,
) -> TrainingResult:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    return fit(
        module,
        Numbers(),
        loss,
        config,
        validate=lambda module: {"weight": module.weight.item()},
        folder=folder,
        callback=callback,
        loggers=loggers,
    )


def flat(record: dict[str, Any]) -> dict[str, float]:
    """A line of log.jsonl as loggers are told it."""
    losses = {f"loss/{name}": value for name, value in record["losses"].items()}
    validation = {f"validation/{name}": value for name, value in record["metrics"].items()}
    names = ("learning_rate", "gradient_norm", "samples_per_second", "epoch")
    return {**losses, **validation, **{name: record[name] for name in names}}


def untimed(told: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    return [
        (step, {name: value for name, value in figures.items() if name not in TIMED})
        for step, figures in told
    ]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_loggers_are_told_the_log_and_every_50th_step(tmp_path: Path, clip: float | None) -> None:
    losses: dict[int, float] = {}

    def note(event: TrainingEvent) -> None:
        if event.kind == "step":
            losses[event.step] = event.losses["slope"]

    recorder, config = Recorder(), TrainingConfig(**{**vars(CONFIG), "gradient_clip": clip})
    train(recorder, folder=tmp_path, config=config, callback=note)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    epochs = [(step, figures) for step, figures in recorder.told if "epoch" in figures]
    assert epochs == [(record["step"], flat(record)) for record in lines]
    assert [step for step, _ in epochs] == [NUM_BATCHES, 2 * NUM_BATCHES, 3 * NUM_BATCHES]
    points = [(step, figures) for step, figures in recorder.told if "epoch" not in figures]
    assert [step for step, _ in points] == [50, 100]
    for step, figures in points:
        assert figures.keys() == {
            *("step/loss/slope", "step/loss/offset", "step/learning_rate"),
            *("step/gradient_norm", "step/samples_per_second"),
        }
        assert figures["step/loss/slope"] == losses[step]
        assert figures["step/gradient_norm"] == pytest.approx(slope(step - 1), rel=1e-6)
        rate = learning_rate_at(config, step - 1, NUM_BATCHES * EPOCHS)
        assert figures["step/learning_rate"] == rate
        assert figures["step/samples_per_second"] > 0


def test_loggers_change_nothing_of_a_training() -> None:
    told, alone = train(Recorder(), Recorder()), train()
    assert told.metrics == alone.metrics
    assert [r["losses"] for r in told.log] == [r["losses"] for r in alone.log]
    assert [r["gradient_norm"] for r in told.log] == [r["gradient_norm"] for r in alone.log]


@pytest.mark.parametrize("killed_at", [50, 63, 100, 110])
def test_a_step_keeps_its_number_through_a_resumption(tmp_path: Path, killed_at: int) -> None:
    def kill(event: TrainingEvent) -> None:
        if event.kind == "step" and event.step == killed_at:
            raise Crash

    whole, first, second = Recorder(), Recorder(), Recorder()
    train(whole)
    with pytest.raises(Crash):
        train(first, folder=tmp_path, callback=kill)
    train(second, folder=tmp_path)
    expected = untimed(whole.told)
    assert untimed(first.told) == expected[: len(first.told)]
    assert untimed(second.told) == expected[-len(second.told) :]
    assert len(first.told) + len(second.told) >= len(expected)
    assert min(step for step, _ in second.told) > killed_at // NUM_BATCHES * NUM_BATCHES
    again = Recorder()
    train(again, folder=tmp_path)
    assert again.told == []  # it is complete


@pytest.mark.parametrize("fails_at", [40, 50, 120])
def test_a_failing_logger_ends_the_training_in_a_sentence(tmp_path: Path, fails_at: int) -> None:
    words = (
        f"^Recorder could not log step {fails_at}: the tracker cannot be reached; the same call "
        "resumes from the last checkpoint, with another logger or none$"
    )
    with pytest.raises(LoggerError, match=words):
        train(Recorder(fails_at), folder=tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["state"]["step"] == fails_at
    steps: list[int] = []
    resumed = train(folder=tmp_path, callback=lambda event: steps.append(event.step))
    assert min(steps, default=fails_at + 1) == fails_at + 1
    expected = train()
    assert resumed.metrics == expected.metrics
    assert [r["losses"] for r in resumed.log] == [r["losses"] for r in expected.log]


def test_without_a_folder_a_failing_logger_ends_the_training_too() -> None:
    with pytest.raises(LoggerError, match="Recorder could not log step 80"):
        train(Recorder(80))


def test_what_fabric_s_loggers_write_is_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tables = CSVLogger(tmp_path / "csv", name="line", version="first")
    curves = TensorBoardLogger(tmp_path / "tensorboard", name="line", version="first")
    result = train(tables, curves)
    curves.finalize("success")
    with (tmp_path / "csv/line/first/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["epoch"]]
    events = EventAccumulator(str(tmp_path / "tensorboard/line/first"))
    events.Reload()
    names = ("loss/slope", "loss/offset", "validation/weight", "learning_rate", "gradient_norm")
    assert len(rows) == EPOCHS
    for name in names:
        expected = [flat(record)[name] for record in result.log]
        assert [float(row[name]) for row in rows] == expected
        scalars = events.Scalars(name)
        assert [scalar.value for scalar in scalars] == pytest.approx(expected, rel=1e-6)
        assert [scalar.step for scalar in scalars] == [record["step"] for record in result.log]
    assert [scalar.step for scalar in events.Scalars("step/loss/slope")] == [50, 100]
