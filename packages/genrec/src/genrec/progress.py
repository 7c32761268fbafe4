"""What training tells of itself while it goes on, and a progress bar that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

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
