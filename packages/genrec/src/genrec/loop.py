"""The training loop behind `genrec.training.fit`."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrec.checkpoint import (
    LOG_FILE,
    STATE_FILE,
    anew,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    resume_log,
    save_checkpoint,
    sweep,
)
from genrec.config_checks import check_positive
from genrec.errors import printable
from genrec.feed import made_ahead
from genrec.objective import Objective, Sealed
from genrec.optimization import WeightAverage, build_optimizer, learning_rate_at
from genrec.process import Interrupts, fabric_on, peak_memory_mib, seed_default_generators
from genrec.progress import LoggerError, MetricsLogger, TrainingEvent, log_figures
from genrec.reading import check_types, refusing, restore_module
from genrec.sequences import Batches, PinnedBatch
from genrec.storage import alone_with, naming
from genrec.training_config import TrainingConfig
from genrec.training_state import State, checked_state

# Steps between two questions whether any of several processes has had a signal.
_ASK_EVERY = 20
# Steps between two points of the curves of steps, where there are loggers.
_LOG_EVERY = 50

logger = logging.getLogger("genrec.training")


class TrainingLoop:
    """A running training; the arguments are those of `genrec.training.fit`."""

    def __init__(
        self,
        module: nn.Module,
        batches: Batches[Any],
        loss: Callable[[nn.Module, Any], Mapping[str, Tensor]],
        config: TrainingConfig,
        validate: Callable[[nn.Module], Mapping[str, float]] | None,
        folder: Path | None,
        callback: Callable[[TrainingEvent], None] | None,
        loggers: Sequence[MetricsLogger],
    ) -> None:
        self.module, self.batches, self.config = module, batches, config
        self.validate, self.folder, self.callback = validate, folder, callback
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("module must have parameters that require gradients, got none")
        self.fabric = fabric_on(self.parameters[0].device, config.precision)
        self.loggers = tuple(loggers) if self.fabric.is_global_zero else ()
        if len(batches) < self.fabric.world_size:
            raise ValueError(f"batches must hold one or more a process, got {len(batches)}")
        self._set_steps(config.accumulate * self.fabric.world_size)
        if config.warmup_steps > self.total_steps and self.fabric.is_global_zero:
            message = "warmup_steps are %d of %d steps in all: the rate never gets to learning_rate"
            logger.warning(message, config.warmup_steps, self.total_steps)
        if self.fabric.world_size > 1:
            for parameter in module.parameters():  # all begin with the weights of the first
                torch.distributed.broadcast(parameter.data, 0)
        self.objective = Objective(module, loss)
        self.optimizer = build_optimizer(self.parameters, config)
        self.forward, self.fabric_optimizer = self.fabric.setup(self.objective, self.optimizer)
        self.average: WeightAverage | None = None
        if config.ema_decay is not None:
            self.average = WeightAverage(self.parameters, config.ema_decay)
        # A CPU's losses can be read at once; reading a GPU's would make it wait at each step.
        self.read_every = 1 if self.fabric.device.type == "cpu" else 50
        self.unread: list[tuple[int, Tensor, Tensor]] = []  # step, loss terms, gradients' norm
        self.latest: dict[str, float] = {}
        self.latest_norm = 0.0
        self.samples = 0  # of this process, not yet in the state
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self.saved_best = 0
        self.saved_files: dict[str, str] = {}  # digests by name
        self.log: list[dict[str, Any]] = []

    def _set_steps(self, step_batches: int) -> None:
        """Says how many batches of all processes together make a step."""
        self.step_batches = step_batches
        self.steps_per_epoch = -(-len(self.batches) // step_batches)
        self.total_steps = self.steps_per_epoch * self.config.epochs

    def alone(self) -> AbstractContextManager[None]:
        """Keeps the folder, where there is one, from other trainings within the block.

        Raises:
            BlockingIOError: Another one is going on in it.
        """
        if self.folder is None or not self.fabric.is_global_zero:
            return nullcontext()
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return alone_with(self.folder, "training")

    def run(self, interrupts: Interrupts) -> None:
        """Trains to the end, or until a signal arrives.

        Raises:
            KeyboardInterrupt: One arrived; the checkpoint is saved.
        """
        while self.state.epochs < self.config.epochs and not self.out_of_patience:
            self._train_epoch(interrupts)
            self._end_epoch()
            self._stop_if(interrupts)
        if self.average is not None:
            self.average.keep()
        if self.best is not None:
            self.module.load_state_dict(self.best)
        self.state.finished = True
        self._save()

    @property
    def out_of_patience(self) -> bool:
        """Whether `patience` validations have passed without a better one."""
        return self.config.patience is not None and self.state.waited >= self.config.patience

    def _train_epoch(self, interrupts: Interrupts) -> None:
        state, processes = self.state, self.fabric.world_size
        self.forward.train()
        started = time.perf_counter() - state.seconds
        with made_ahead(self._share) as batches:
            for group in self._groups(batches):
                self._step(group)
                state.step += 1
                self.samples += sum(len(batch) for _, batch in group)
                state.seconds = time.perf_counter() - started
                if self.loggers and state.step % _LOG_EVERY == 0:
                    self._log_step()
                self._tell("step", self.latest, {})
                if processes == 1 or state.step % _ASK_EVERY == 0:
                    self._stop_if(interrupts)
        self._read()

    @property
    def _done(self) -> int:
        """Batches of the epoch that all processes together are through with."""
        return (self.state.step - self.state.epochs * self.steps_per_epoch) * self.step_batches

    def _share(self) -> Iterator[Any]:
        """Yields the batches that the epoch still has for this process, pinned for a GPU."""
        share = self.batches(
            self.state.epochs,
            shard=self.fabric.global_rank,
            shards=self.fabric.world_size,
            start=self._done,
        )
        is_pinned = self.fabric.device.type == "cuda"
        for batch in share:
            yield batch.pin_memory() if is_pinned and isinstance(batch, PinnedBatch) else batch

    def _groups(self, batches: Iterator[Any]) -> Iterator[list[tuple[int, Any]]]:
        """Yields this process's batches of each step, with their places among those of all.

        Raises:
            ValueError: The source gave fewer than it has said.
        """
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        for first in range(self._done, len(self.batches), self.step_batches):
            group = []
            for number in range(first, min(first + self.step_batches, len(self.batches))):
                if number % processes != rank:
                    continue
                batch = next(batches, None)
                if batch is None:
                    raise ValueError(
                        f"batches must give {len(self.batches)} batches in each epoch, "
                        f"got {number} in epoch {self.state.epochs + 1}"
                    )
                group.append((number - first, batch))
            yield group

    def _step(self, group: list[tuple[int, Any]]) -> None:
        config, step = self.config, self.state.step
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate_at(config, step, self.total_steps)
        terms = self._backward(group)
        if config.gradient_clip is not None:
            norm = self.fabric.clip_gradients(
                self.objective,
                self.fabric_optimizer,
                max_norm=config.gradient_clip,
                error_if_nonfinite=False,
            )
        else:
            norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
            norm = torch.stack(norms).norm()
        assert norm is not None
        self.unread.append((step + 1, terms, norm))
        if len(self.unread) >= self.read_every:
            self._read()  # before what is not finite gets into the weights
        self.fabric_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step + 1)

    def _backward(self, group: list[tuple[int, Any]]) -> Tensor:
        """Adds up the gradients of a step's batches; returns the loss terms, averaged likewise.

        A batch weighs as many samples as it holds, and draws what its place in the step says, so
        that it is the same which process has it. Gradients and terms are averaged over processes
        afterwards: here each counts for as many as there are processes.
        """
        config, processes, device = self.config, self.fabric.world_size, self.fabric.device
        samples: int | Tensor = sum(len(batch) for _, batch in group)
        if processes > 1:
            share = torch.tensor(float(samples), device=device)
            samples = torch.as_tensor(self.fabric.all_reduce(share, reduce_op="sum"))
        total: Tensor | None = None
        for index, (place, batch) in enumerate(group or [(0, self._idle_batch())], start=1):
            on_device = batch.to(device)
            seed_default_generators(device, config.seed, self.state.step, place)
            # Processes exchange their gradients once a step, with the last batch.
            with self.fabric.no_backward_sync(self.forward, enabled=index < len(group)):
                terms = self.forward(Sealed(on_device))
                if processes > 1 or len(group) > 1:
                    weight = len(batch) * processes if group else 0
                    terms = terms * (weight / samples)
                self.fabric.backward(terms.sum())
            total = terms.detach() if total is None else total + terms.detach()
        assert total is not None
        return total

    def _idle_batch(self) -> Any:
        """A batch that counts for nothing, where a step has none for this process.

        It goes through the model nevertheless, since the exchange of gradients needs all processes.
        """
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        return next(iter(self.batches(self.state.epochs, shard=rank, shards=processes)))

    def _read(self) -> None:
        """Reads the losses and gradient norms that wait on the device, and adds them up.

        Raises:
            ValueError: One of them is not finite.
        """
        state = self.state
        for step, terms, norm in self.unread:
            self.latest = dict(zip(self.objective.names, terms.tolist(), strict=True))
            for name, value in self.latest.items():
                self._check_finite(f"loss term {name!r}", value, step)
                state.losses[name] = state.losses.get(name, 0.0) + value
            self.latest_norm = norm.item()
            self._check_finite("the gradients' norm", self.latest_norm, step)
            state.gradient_norm += self.latest_norm
        self.unread.clear()

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"{name} must be finite, got {value} in epoch {self.state.epochs + 1}, "
                f"step {step}; a lower learning_rate, a warm-up or gradient_clip may help"
            )

    def _end_epoch(self) -> None:
        state = self.state
        state.epochs += 1
        started = time.perf_counter()
        metrics = self._validate() if self.validate is not None else {}
        self._sum_up()
        means = {name: value / self.steps_per_epoch for name, value in state.losses.items()}
        record = {
            "epoch": state.epochs,
            "step": state.step,
            "losses": means,
            "metrics": metrics,
            "learning_rate": learning_rate_at(self.config, state.step - 1, self.total_steps),
            "gradient_norm": state.gradient_norm / self.steps_per_epoch,
            "samples_per_second": state.samples / state.seconds,
            "seconds": state.seconds,
            "validation_seconds": time.perf_counter() - started,
            "peak_memory_mib": peak_memory_mib(self.fabric.device),
        }
        self.log.append(record)
        if self.folder is not None and self.fabric.is_global_zero:
            path = self.folder / LOG_FILE
            with naming(path), path.open("ab") as file:
                file.write(json.dumps(record).encode() + b"\n")
                state.log_bytes = file.tell()
        state.losses, state.gradient_norm, state.samples, state.seconds = {}, 0.0, 0, 0.0
        if state.epochs % self.config.checkpoint_every == 0:
            self._save()
        self._log_epoch(record)
        figures = ", ".join(f"{k} {v:.4g}" for k, v in {**means, **metrics}.items())
        logger.info("epoch %d of %d: %s", state.epochs, self.config.epochs, figures)
        self._tell("epoch", means, metrics)

    def _log_step(self) -> None:
        """Tells the loggers of the step that was just done."""
        self._read()
        state = self.state
        figures = {f"loss/{name}": value for name, value in self.latest.items()}
        figures["learning_rate"] = learning_rate_at(self.config, state.step - 1, self.total_steps)
        figures["gradient_norm"] = self.latest_norm
        samples = state.samples + self.samples * self.fabric.world_size
        figures["samples_per_second"] = samples / state.seconds
        self._log({f"step/{name}": value for name, value in figures.items()})

    def _log_epoch(self, record: Mapping[str, Any]) -> None:
        """Tells the loggers what `log.jsonl` says of an epoch."""
        figures = {f"loss/{name}": value for name, value in record["losses"].items()}
        figures |= {f"validation/{name}": value for name, value in record["metrics"].items()}
        further = ("learning_rate", "gradient_norm", "samples_per_second", "epoch")
        self._log({**figures, **{name: record[name] for name in further}}, save=True)

    def _log(self, figures: Mapping[str, float], *, save: bool = False) -> None:
        """Tells the loggers; where one fails, a lone process saves the checkpoint first."""
        try:
            log_figures(self.loggers, figures, self.state.step, save=save)
        except LoggerError:
            if self.fabric.world_size == 1:  # all of several would have to save
                self._save()
            raise

    def _sum_up(self) -> None:
        """Brings what the processes counted of the epoch together in the state of each."""
        state = self.state
        values = torch.tensor([*state.losses.values(), float(self.samples)], dtype=torch.float64)
        if self.fabric.world_size > 1:
            values = torch.as_tensor(self.fabric.all_reduce(values))  # means
        *losses, samples = values.tolist()
        state.losses = dict(zip(state.losses, losses, strict=True))
        state.samples += round(samples * self.fabric.world_size)
        self.samples = 0

    def _validate(self) -> dict[str, float]:
        """Validates if it is time to, and keeps the weights if they are the best so far."""
        state, monitor = self.state, self.config.monitor
        assert self.validate is not None
        if state.epochs % self.config.validate_every and state.epochs < self.config.epochs:
            return {}
        self.module.eval()
        seed_default_generators(self.fabric.device, self.config.seed, state.step, 0, 1)
        with torch.no_grad(), self.average.applied() if self.average else nullcontext():
            metrics = {k: float(v) for k, v in self.validate(self.module).items()}
            metrics = dict(self.fabric.broadcast(metrics))
            if monitor is None:
                state.best_epoch, state.metrics = state.epochs, metrics
                return metrics
            if not math.isfinite(metrics.get(monitor, math.nan)):
                raise ValueError(f"validate must give a finite {monitor!r}, got {metrics}")
            sign = 1 if self.config.monitor_mode == "max" else -1
            if self.best is None or sign * metrics[monitor] > sign * state.metrics[monitor]:
                state.best_epoch, state.metrics, state.waited = state.epochs, metrics, 0
                weights = self.module.state_dict()
                self.best = {name: value.detach().clone() for name, value in weights.items()}
            else:
                state.waited += 1
        return metrics

    def _tell(
        self, kind: Literal["step", "epoch"], losses: dict[str, float], metrics: dict[str, float]
    ) -> None:
        if self.callback is not None and self.fabric.is_global_zero:
            self.callback(
                TrainingEvent(
                    kind=kind,
                    epoch=self.state.epochs + (kind == "step"),
                    epochs=self.config.epochs,
                    step=self.state.step,
                    total_steps=self.total_steps,
                    losses=losses,
                    metrics=metrics,
                )
            )

    def _stop_if(self, interrupts: Interrupts) -> None:
        received = interrupts.received is not None
        if self.fabric.world_size > 1:  # all or none
            received = bool(self.fabric.all_reduce(torch.tensor(float(received)), reduce_op="sum"))
        if not received:
            return
        self._read()
        self._sum_up()
        self._save()
        where = f"epoch {self.state.epochs + 1}, step {self.state.step}"
        kept = "" if self.folder is None else f"; the same call with {self.folder} continues"
        raise KeyboardInterrupt(f"training stopped by a signal in {where}{kept}")

    def _save(self) -> None:
        """Writes the checkpoint; a finished training keeps its final weights alone."""
        if self.folder is None or not self.fabric.is_global_zero:
            return
        state = self.state
        weights = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors: dict[str, dict[str, Tensor] | None]
        if state.finished:
            tensors = {"final": weights}
        else:
            averages = [] if self.average is None else self.average.averages
            weights |= {f"average.{i}": average for i, average in enumerate(averages)}
            tensors = {f"last-{state.step}": weights | optimizer_tensors(self.optimizer)}
            if self.best is not None:
                is_new = state.best_epoch != self.saved_best
                tensors[f"best-{state.best_epoch}"] = self.best if is_new else None
                self.saved_best = state.best_epoch
        about = {
            "config": asdict(self.config),
            "step_batches": self.step_batches,
            "steps_per_epoch": self.steps_per_epoch,
        }
        self.saved_files = save_checkpoint(
            self.folder,
            {**about, "state": asdict(state)},
            tensors,
            kept=self.saved_files,
            log_bytes=state.log_bytes,
        )

    def resume(self) -> None:
        """Takes up the checkpoint in the folder, if there is one.

        Raises:
            ValueError: It is that of a training with other settings.
            ArtifactError: It is damaged, or of another model.
        """
        if self.folder is None:
            return
        is_first = self.fabric.is_global_zero
        loaded = load_checkpoint(self.folder) if is_first else None
        loaded = self.fabric.broadcast(loaded)
        if loaded is not None:
            about, files = loaded
            with anew(self.folder), refusing(f"{self.folder / STATE_FILE} is damaged"):
                self._keep_steps(about)
            self._check_settings(about)
            with anew(self.folder):
                with refusing(f"{self.folder / STATE_FILE} is damaged"):
                    self.state = checked_state(
                        about["state"], files, self.config, self.steps_per_epoch
                    )
                for stem, tensors in files.items():
                    if stem.startswith("best-"):
                        self.best, self.saved_best = tensors, self.state.best_epoch
                    else:
                        self._restore(tensors)
            self.saved_files = about["files"]
        if is_first:
            with anew(self.folder) if loaded is not None else nullcontext():
                size = None if loaded is None else self.state.log_bytes
                self.log = resume_log(self.folder, size, self.saved_files.get(LOG_FILE))
            sweep(self.folder)
        self.log = self.fabric.broadcast(self.log)

    def _keep_steps(self, about: Mapping[str, Any]) -> None:
        """Makes steps of as many batches as the training began with, by however many processes."""
        # A checkpoint of an older version says nothing, and is taken for that of one process.
        step_batches = about.get("step_batches", about["config"].get("accumulate", 1))
        check_types({"step_batches": step_batches}, {"step_batches": int})
        check_positive(step_batches=step_batches)
        self._set_steps(step_batches)
        if self.step_batches < self.fabric.world_size and self.fabric.is_global_zero:
            message = "steps stay of %d batches, as the training began: %d processes bring no more"
            logger.warning(message, self.step_batches, self.fabric.world_size)

    def _check_settings(self, about: Mapping[str, Any]) -> None:
        """Refuses to go on with a training that has other settings."""
        present = {**asdict(self.config), "steps_per_epoch": self.steps_per_epoch}
        # Settings that an older version did not have were at their defaults.
        former = {**asdict(TrainingConfig()), **about["config"]}
        former["steps_per_epoch"] = about["steps_per_epoch"]
        for name, value in present.items():
            if former[name] != value:
                raise ValueError(
                    f"folder must be of a training with the same settings, got {self.folder} "
                    f"with {name} {printable(str(former[name]))}, not {value}"
                )

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        assert self.folder is not None
        prefix = "module."
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        restore_module(self.module, weights, self.folder / STATE_FILE)
        if self.state.finished:
            return
        with refusing(f"{self.folder / STATE_FILE} is that of another model"):
            restore_optimizer(self.optimizer, tensors)
            if self.average is not None:
                for i, average in enumerate(self.average.averages):
                    average.copy_(tensors[f"average.{i}"])
