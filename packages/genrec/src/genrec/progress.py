"""Progress of a training: events for a callback, a progress bar, and loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from rich.markup import escape
from rich.progress import Progress, TimeRemainingColumn

from genrec.errors import printable


@dataclass(frozen=True, kw_only=True)
class TrainingEvent:
    """The argument of a callback, after each step and each epoch.

    Args:
        kind: "step", or "epoch" after an epoch is complete, validated and logged.
        epoch: Number of the current epoch, from 1.
        epochs: Largest number of epochs.
        step: Steps done, including those before a resumption.
        total_steps: Largest number of steps.
        losses: Loss terms of the latest step whose losses are known, or means over the epoch.
        metrics: Validation metrics, if validation ran in this epoch ("epoch" only).
    """

    kind: Literal["step", "epoch"]
    epoch: int
    epochs: int
    step: int
    total_steps: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]


@runtime_checkable
class MetricsLogger(Protocol):
    """A logger of training curves: `lightning_fabric.loggers.Logger`, or a class with its method.

    Each call has the number of optimizer steps done, and values by name:

    - after every 50th step "step/loss/NAME" for each loss term, "step/learning_rate",
      "step/gradient_norm" and "step/samples_per_second" (the mean over the epoch so far); with
      several processes, losses are those of the first process;
    - after each epoch "loss/NAME", "validation/NAME", "learning_rate", "gradient_norm",
      "samples_per_second" and "epoch": the values in its line of `log.jsonl`.
    """

    def log_metrics(self, metrics: dict[str, Any], step: int) -> object:
        """Logs values, all floats or whole numbers, of a training after `step` steps."""


class LoggerError(RuntimeError):
    """A logger failed, so the training was stopped."""


def log_figures(
    loggers: Sequence[MetricsLogger], figures: Mapping[str, float], step: int, *, save: bool
) -> None:
    """Sends values of a training to loggers.

    Args:
        loggers: Called one after the other.
        figures: Values by name.
        step: Optimizer steps done.
        save: Whether loggers of Lightning Fabric write their buffered values.

    Raises:
        LoggerError: A logger raises any exception.
    """
    from lightning_fabric.loggers.logger import Logger

    for metrics_logger in loggers:
        try:
            metrics_logger.log_metrics(dict(figures), step=step)
            if save and isinstance(metrics_logger, Logger):
                metrics_logger.save()
        except Exception as error:
            name = type(metrics_logger).__name__
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LoggerError(
                f"{name} could not log step {step}: {reason}; the same call resumes from the "
                "last checkpoint, with another logger or none"
            ) from error


@contextmanager
def rich_progress(description: str = "training") -> Iterator[Callable[[TrainingEvent], None]]:
    """Yields a callback for `fit` that draws a progress bar on the terminal.

    Args:
        description: Its title; markup and escape sequences are shown as text.
    """
    title = printable(description)
    with Progress(*Progress.get_default_columns()[:3], TimeRemainingColumn()) as progress:
        task = progress.add_task(escape(title), total=None)

        def draw(event: TrainingEvent) -> None:
            shown = {**event.losses, **event.metrics}
            figures = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
            progress.update(
                task,
                completed=event.step,
                total=event.total_steps,
                description=escape(f"{title} {event.epoch}/{event.epochs}  {figures}"),
            )

        yield draw
