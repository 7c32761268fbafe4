"""The state of a training, as the JSON of its checkpoint holds it, and its checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from genrec.reading import check_types
from genrec.training_config import TrainingConfig


@dataclass(frozen=True)
class Steps:
    """What the steps of a training are made of.

    Attributes:
        step_batches: How many batches of all processes together make a step.
        steps_per_epoch: The last step of an epoch may have fewer batches.
    """

    step_batches: int
    steps_per_epoch: int

    @classmethod
    def of(cls, batches: int, step_batches: int) -> Steps:
        """Returns the steps of epochs of so many batches."""
        return cls(step_batches=step_batches, steps_per_epoch=-(-batches // step_batches))


@dataclass
class State:
    """The state of a training without its tensors: the contents of the checkpoint's JSON."""

    step: int = 0
    epochs: int = 0
    finished: bool = False
    best_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the best epoch
    waited: int = 0  # validations since the best epoch
    log_bytes: int = 0
    # Sums over the current epoch.
    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    samples: int = 0
    seconds: float = 0.0


def checked_state(
    values: Mapping[str, Any], stems: Collection[str], config: TrainingConfig, steps_per_epoch: int
) -> State:
    """Returns the state that a checkpoint's JSON holds, checked.

    Args:
        values: The contents of the JSON.
        stems: The stems of the checkpoint's tensor files.
        config: The configuration of the training.
        steps_per_epoch: Optimizer steps of an epoch.

    Raises:
        TypeError: The values have wrong names or types.
        ValueError: The values do not fit this training or these files.
    """
    check_types(values, get_type_hints(State))
    state = State(**values)
    done = state.step - state.epochs * steps_per_epoch  # steps in the current epoch
    if not (0 <= state.epochs <= config.epochs and 0 <= done <= steps_per_epoch):
        raise ValueError(
            f"step and epochs must be within {steps_per_epoch * config.epochs} steps and "
            f"{config.epochs} epochs, got {state.step} and {state.epochs}"
        )
    if state.log_bytes < 0:
        raise ValueError(f"log_bytes must be at least 0, got {state.log_bytes}")
    expected = {"final" if state.finished else f"last-{state.step}"}
    if config.monitor is not None and state.best_epoch and not state.finished:
        expected.add(f"best-{state.best_epoch}")
    if set(stems) != expected:
        raise ValueError(f"files must be {sorted(expected)}, got {sorted(stems)}")
    return state
