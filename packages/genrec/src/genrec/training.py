"""The one way to train: `fit` makes a module minimise named loss terms over batches.

On Lightning Fabric, so that the same call runs on one CPU, on one GPU, and under `torchrun` on
several processes. It knows nothing of models and papers: it takes any module, a source of batches
and a function from the two to loss terms. The loop itself is in `genrec.loop`.
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
    """What became of a training.

    Args:
        epochs: Epochs done.
        steps: Optimizer steps done.
        best_epoch: The epoch whose weights the module now has, counted from 1.
        metrics: What validation gave for these weights; empty without validation.
        stopped_early: Whether patience ran out before the epochs did.
        log: One record an epoch, as in `log.jsonl`.
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
    """Trains `module` where it lies, until the epochs or the patience are used up.

    With a `folder`, the same call after a kill goes on from the last checkpoint and ends, on a CPU,
    with the very weights of a run that was not killed; when the training is complete it gives the
    module its final weights at once. SIGINT and SIGTERM save a checkpoint first. For this to hold,
    `loss` must draw from torch's default generator alone, which seed, step and place in it seed
    and which is put back at the end. "The very weights" holds on the same machine, with the same
    versions and the same number of threads (`torch.get_num_threads()`): other numbers of threads
    add up in another order, and so differ from the last bits on. A GPU adds up in an order of its
    own in each run.

    Args:
        module: What is trained: its parameters that require gradients, all on one device.
        batches: The batches of each epoch; a thread in the background goes through them. Under
            `torchrun`, process r of n takes those numbered r, r + n and so on. A step takes
            `config.accumulate` batches of each process: two processes with a batch each take the
            steps of one with two. A training that goes on keeps the batches of a step that it began
            with, whatever the number of processes is now, and so continues at the same example.
        loss: Named terms whose sum is minimised, scalar tensors, the same names for each batch;
            called in training mode, under autocast.
        config: How to train.
        validate: Named figures of the module; called in evaluation mode, without gradients, in
            full precision.
        folder: Where `log.jsonl` (one line an epoch) and the checkpoint go; None keeps neither. Of
            several processes the first alone reads and writes there.
        callback: Told after each step and each epoch.
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
