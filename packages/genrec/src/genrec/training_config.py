"""The settings of training; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of `genrec.training.fit`.

    Args:
        epochs: Largest number of passes over the batches.
        learning_rate: The learning rate after the warm-up.
        weight_decay: Weight decay; "adam" adds it to the gradients, "adamw" applies it separately.
        optimizer: "adam" or "adamw".
        warmup_steps: Steps in which the rate rises linearly to `learning_rate`.
        schedule: The rate after the warm-up: "constant", or "cosine" or "linear" down to 0 at the
            last step.
        gradient_clip: Largest norm of the gradients; None does not clip.
        precision: "32", or "bf16" for autocast. On a CPU, bf16 is faster only if the hardware
            multiplies it (AMX, avx512_bf16); otherwise it is many times slower.
        compile: Whether `torch.compile` compiles the loss, with the forward pass in it. This takes
            a C++ compiler and minutes before the first step: for long trainings on a GPU, and not
            with strategy "fsdp". Dropout draws other numbers than without it.
        accumulate: Batches of each process in a step. The step's loss is the mean of their losses,
            weighted by their numbers of samples: if a loss is a mean over samples, the step equals
            that of one large batch. The last step of an epoch may have fewer batches.
        monitor: The metric of `validate` that selects the best weights. None keeps the last
            weights.
        monitor_mode: Whether the "max" or the "min" of the metric is best.
        patience: Validations without a better `monitor` before training stops; None never stops.
        validate_every: Epochs between validations; the last epoch is always validated.
        checkpoint_every: Epochs between checkpoints, if there is a folder.
        ema_decay: Decay of an exponential moving average of the weights. This average is then
            validated, kept as best and returned; with None, the weights themselves.
        seed: Together with the step, the seed of torch's default generator, for dropout and for
            negatives whose `generator` is None. The order of the batches has its own seed.

    Raises:
        ValueError: A setting is out of range, or has no effect beside the others.
    """

    epochs: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    optimizer: Literal["adam", "adamw"] = "adam"
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    gradient_clip: float | None = None
    precision: Literal["32", "bf16"] = "32"
    compile: bool = False
    accumulate: int = 1
    monitor: str | None = None
    monitor_mode: Literal["max", "min"] = "max"
    patience: int | None = None
    validate_every: int = 1
    checkpoint_every: int = 1
    ema_decay: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "validate_every", "checkpoint_every"):
            _check(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        for name in ("warmup_steps", "weight_decay", "seed"):
            _check(name, getattr(self, name) >= 0, "at least 0", getattr(self, name))
        _check("learning_rate", self.learning_rate > 0, "positive", self.learning_rate)
        if self.gradient_clip is not None:
            _check("gradient_clip", self.gradient_clip > 0, "positive", self.gradient_clip)
        if self.patience is not None:
            _check("patience", self.patience >= 1, "at least 1", self.patience)
            _check("monitor", self.monitor is not None, "named when patience is given", None)
        if self.monitor_mode == "min":
            _check("monitor", self.monitor is not None, "named when monitor_mode is 'min'", None)
        if self.ema_decay is not None:
            _check("ema_decay", 0 < self.ema_decay < 1, "between 0 and 1", self.ema_decay)
        for name, known in (
            ("optimizer", ("adam", "adamw")),
            ("schedule", ("constant", "cosine", "linear")),
            ("precision", ("32", "bf16")),
            ("monitor_mode", ("max", "min")),
        ):
            value = getattr(self, name)
            _check(name, value in known, " or ".join(map(repr, known)), repr(value))


def _check(name: str, holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")
