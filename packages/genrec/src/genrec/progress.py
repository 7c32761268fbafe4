"""What training tells of itself while it goes on: to a callback, a progress bar or loggers."""

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
    """What a callback is told after each step and each epoch.

    Args:
        kind: "step", or "epoch" when one is over, validated and logged.
        epoch: The current epoch, counted from 1.
        epochs: Most epochs there can be.
        step: Steps done, with those before a resumption.
        total_steps: Most steps there can be.
        losses: Loss terms: of the last step whose are known, or their means over the epoch.
        metrics: What validation gave, if it ran in this epoch ("epoch" only).
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
    """What keeps curves of a training: a `lightning_fabric.loggers.Logger`, or what has its method.

    Each call names the optimizer steps done, and figures by their names:

    - after every 50th step "step/loss/NAME" for each loss term, "step/learning_rate",
      "step/gradient_norm" and "step/samples_per_second", that of the epoch so far; on several
      processes losses are those of the first;
    - after each epoch "loss/NAME", "validation/NAME", "learning_rate", "gradient_norm",
      "samples_per_second" and "epoch": the figures of its line of `log.jsonl`.
    """

    def log_metrics(self, metrics: dict[str, Any], step: int) -> object:
        """Keeps figures, all of them floats or whole numbers, of a training after `step` steps."""


class LoggerError(RuntimeError):
    """A logger failed, and with it the training that it was to keep the curves of."""


def log_figures(
    loggers: Sequence[MetricsLogger], figures: Mapping[str, float], step: int, *, save: bool
) -> None:
    """Tells loggers figures of a training.

    Args:
        loggers: Told one after the other.
        figures: By their names.
        step: Optimizer steps done.
        save: Whether those of Lightning Fabric write what they hold back.

    Raises:
        LoggerError: One of them fails, in whatever way.
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
                f"{name} could not log step {step}: {reason}; the same call goes on from its "
                "last checkpoint, with another logger or none"
            ) from error


@contextmanager
def rich_progress(description: str = "training") -> Iterator[Callable[[TrainingEvent], None]]:
    """Yields a callback for `fit` that draws a progress bar on the terminal.

    Args:
        description: Its title, drawn as it is: no markup, and escapes as text.
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
