"""Training: `fit` minimises named loss terms of a module over batches.

It uses Lightning Fabric, so the same call runs on one CPU, on one GPU, and under `torchrun` on
several processes. It does not depend on a model or a paper: it takes any module, a source of
batches and a function from these to loss terms. The loop itself is in `genrec.loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genrec.loop import TrainingLoop
from genrec.placement import Strategy
from genrec.process import Interrupts, isolated_randomness
from genrec.progress import LoggerError, MetricsLogger, TrainingEvent, rich_progress
from genrec.sequences import B, Batches
from genrec.shard_units import ShardUnits
from genrec.training_config import TrainingConfig

__all__ = [
    "Batches",
    "LoggerError",
    "MetricsLogger",
    "ShardUnits",
    "Strategy",
    "TrainingConfig",
    "TrainingEvent",
    "TrainingResult",
    "fit",
    "rich_progress",
]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a training.

    Args:
        epochs: Epochs done.
        steps: Optimizer steps done.
        best_epoch: The epoch whose weights the module now has, from 1.
        metrics: Validation metrics of these weights; empty without validation.
        stopped_early: Whether `patience` ended the training before the last epoch.
        log: One record per epoch, as in `log.jsonl`.
    """

    epochs: int
    steps: int
    best_epoch: int
    metrics: dict[str, float]
    stopped_early: bool
    log: list[dict[str, Any]]


# Above 50 lines for its docstring alone, which is the contract of training.
def fit(
    module: nn.Module,
    batches: Batches[B],
    loss: Callable[[Any, B], Mapping[str, Tensor]],
    config: TrainingConfig,
    *,
    validate: Callable[[Any], Mapping[str, float]] | None = None,
    folder: Path | str | None = None,
    callback: Callable[[TrainingEvent], None] | None = None,
    loggers: Sequence[MetricsLogger] = (),
    strategy: Strategy = "ddp",
) -> TrainingResult:
    """Trains `module` on its device, until the last epoch or until `patience` ends the training.

    With a `folder`, the same call after a kill resumes from the last checkpoint. On a CPU it ends
    with exactly the weights of a training without interruption. If the training is already
    complete, it only loads the final weights. SIGINT and SIGTERM save a checkpoint first. For exact
    weights, `loss` must draw random numbers only from torch's default generator, which is seeded by
    the seed, the step and the batch's place in it, and restored at the end. They also need the same
    machine, versions and number of threads (`torch.get_num_threads()`): another number of threads
    changes the order of sums, and so the last bits. On a GPU the order of sums changes in each run.

    Args:
        module: The module to train: its parameters that require gradients, all on one device.
        batches: The batches of each epoch; a background thread iterates over them. Under
            `torchrun`, process r of n uses the batches numbered r, r + n and so on. A step uses
            `config.accumulate` batches of each process: two processes with one batch each make the
            same steps as one with two. A resumed training keeps its number of batches per step,
            even with another number of processes, and resumes at the same example.
        loss: Returns named terms whose sum is minimised: scalar tensors, with the same names for
            each batch. Called in training mode, under autocast.
        config: The settings of the training.
        validate: Returns named metrics of the module. Called in evaluation mode, without gradients,
            in full precision.
        folder: Folder for `log.jsonl` (one line per epoch) and the checkpoint; None writes neither.
            Of several processes only the first reads and writes there.
        callback: Called after each step and each epoch.
        loggers: What keeps curves beside `log.jsonl`, as `MetricsLogger` says; those of Lightning
            Fabric are saved after each epoch, and all are left open. A step has the same number
            before and after a resumption: what is trained again after a kill, from the last
            checkpoint on, is logged again under the numbers that it had.
        strategy: Under `torchrun`, "ddp" has all weights in each process. "fsdp" shares weights,
            gradients and the optimizer out among them (FSDP2), for models too large for one
            device; its `folder` must be one that all processes see. Either goes on from the
            checkpoint of the other. `ShardUnits` says how a module is gathered in parts. After an
            error "fsdp" leaves the module without weights.

    Returns:
        What became of it. The module has the best weights, or the last ones where nothing is
        monitored, and is in evaluation mode.

    Raises:
        ValueError: `strategy` is "fsdp" without `torchrun`, or for a module that cannot be
            sharded; loss terms are not finite, or not those of `loss` above; the settings do not
            fit the arguments; `validate` lacks the monitored figure; or `folder` holds a training
            with other settings.
        ArtifactError: The checkpoint in `folder` is damaged, or of another model, or `log.jsonl` is
            not that of a training.
        BlockingIOError: Another training is going on in `folder`.
        OSError: The system refuses, as a full disk does; the last checkpoint stays.
        LoggerError: A logger failed; the checkpoint is saved, and the same call goes on, with
            another logger or none.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the checkpoint is saved.
    """
    if validate is None and (config.monitor is not None or config.validate_every != 1):
        raise ValueError("validate must be given when monitor or validate_every is set, got None")
    place = None if folder is None else Path(folder)
    loop = TrainingLoop(module, batches, loss, config, validate, place, callback, loggers, strategy)
    with loop.folder.alone():
        loop.resume()
        if not loop.state.finished:
            with isolated_randomness(loop.fabric.device), Interrupts() as interrupts:
                loop.run(interrupts)
    module.eval()
    state = loop.state
    return TrainingResult(
        epochs=state.epochs,
        steps=state.step,
        best_epoch=state.best_epoch if config.monitor is not None else state.epochs,
        metrics=state.metrics,
        stopped_early=loop.out_of_patience and state.epochs < config.epochs,
        log=loop.log,
    )
