"""The training loop behind `genrec.training.fit`."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrec.feed import made_ahead
from genrec.objective import Sealed
from genrec.optimization import learning_rate_at
from genrec.placement import Loss, Replicated, Strategy
from genrec.process import Interrupts, fabric_on, peak_memory_mib, seed_default_generators
from genrec.progress import LoggerError, MetricsLogger, TrainingEvent, log_figures
from genrec.sequences import Batches, PinnedBatch
from genrec.sharding import Sharded
from genrec.training_config import TrainingConfig
from genrec.training_folder import TrainingFolder
from genrec.training_state import State, Steps

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
        loss: Loss,
        config: TrainingConfig,
        validate: Callable[[nn.Module], Mapping[str, float]] | None,
        folder: Path | None,
        callback: Callable[[TrainingEvent], None] | None,
        loggers: Sequence[MetricsLogger],
        strategy: Strategy,
    ) -> None:
        self.module, self.batches, self.config = module, batches, config
        self.validate, self.callback = validate, callback
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise ValueError("module must have parameters that require gradients, got none")
        self.fabric = fabric_on(trained[0].device, config.precision, strategy)
        self.loggers = tuple(loggers) if self.fabric.is_global_zero else ()
        if len(batches) < self.fabric.world_size:
            raise ValueError(f"batches must hold one or more a process, got {len(batches)}")
        self._set_steps(config.accumulate * self.fabric.world_size)
        if config.warmup_steps > self.total_steps and self.fabric.is_global_zero:
            message = "warmup_steps are %d of %d steps in all: the rate never gets to learning_rate"
            logger.warning(message, config.warmup_steps, self.total_steps)
        placement = Replicated if strategy == "ddp" else Sharded
        self.trained: Replicated = placement(self.fabric, module, loss, config)
        self.folder = TrainingFolder(folder, self.trained, config)
        # A CPU's losses can be read at once; reading a GPU's would make it wait at each step.
        self.read_every = 1 if self.fabric.device.type == "cpu" else 50
        self.unread: list[tuple[int, Tensor, Tensor]] = []  # step, loss terms, gradients' norm
        self.latest: dict[str, float] = {}
        self.latest_norm = 0.0
        self.samples = 0  # of this process, not yet in the state
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self.log: list[dict[str, Any]] = []

    def _set_steps(self, step_batches: int) -> None:
        """Says how many batches of all processes together make a step."""
        self.steps = Steps.of(len(self.batches), step_batches)
        self.total_steps = self.steps.steps_per_epoch * self.config.epochs

    def run(self, interrupts: Interrupts) -> None:
        """Trains to the end, or until a signal arrives.

        Raises:
            KeyboardInterrupt: One arrived; the checkpoint is saved.
        """
        while self.state.epochs < self.config.epochs and not self.out_of_patience:
            self._train_epoch(interrupts)
            self._end_epoch()
            self._stop_if(interrupts)
        if self.trained.average is not None:
            self.trained.average.keep()
        if self.best is not None:
            self.module.load_state_dict(self.best)
        self.trained.keep_whole()
        self.state.finished = True
        self._save()

    @property
    def out_of_patience(self) -> bool:
        """Whether `patience` validations have passed without a better one."""
        return self.config.patience is not None and self.state.waited >= self.config.patience

    def _train_epoch(self, interrupts: Interrupts) -> None:
        state, processes = self.state, self.fabric.world_size
        self.trained.objective.train()
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
        step_batches = self.steps.step_batches
        return (self.state.step - self.state.epochs * self.steps.steps_per_epoch) * step_batches

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
        step_batches = self.steps.step_batches
        for first in range(self._done, len(self.batches), step_batches):
            group = []
            for number in range(first, min(first + step_batches, len(self.batches))):
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
        trained, step = self.trained, self.state.step
        for settings in trained.optimizer.param_groups:
            settings["lr"] = learning_rate_at(self.config, step, self.total_steps)
        terms = self._backward(group)
        norm = trained.gradient_norm(self.config.gradient_clip)
        self.unread.append((step + 1, terms, norm))
        if len(self.unread) >= self.read_every:
            self._read()  # before what is not finite gets into the weights
        trained.optimizer.step()
        trained.optimizer.zero_grad(set_to_none=True)
        if trained.average is not None:
            trained.average.update(step + 1)

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
            with self.trained.gradients_stay(index < len(group)):
                terms = self.trained.forward(Sealed(on_device))
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
            self.latest = dict(zip(self.trained.objective.names, terms.tolist(), strict=True))
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
        means = {name: value / self.steps.steps_per_epoch for name, value in state.losses.items()}
        record = {
            "epoch": state.epochs,
            "step": state.step,
            "losses": means,
            "metrics": metrics,
            "learning_rate": learning_rate_at(self.config, state.step - 1, self.total_steps),
            "gradient_norm": state.gradient_norm / self.steps.steps_per_epoch,
            "samples_per_second": state.samples / state.seconds,
            "seconds": state.seconds,
            "validation_seconds": time.perf_counter() - started,
            "peak_memory_mib": peak_memory_mib(self.fabric.device),
        }
        self.log.append(record)
        state.log_bytes = self.folder.append(json.dumps(record).encode())
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
        state, monitor, average = self.state, self.config.monitor, self.trained.average
        assert self.validate is not None
        if state.epochs % self.config.validate_every and state.epochs < self.config.epochs:
            return {}
        self.module.eval()
        seed_default_generators(self.fabric.device, self.config.seed, state.step, 0, 1)
        with torch.no_grad(), average.applied() if average else nullcontext():
            with self.trained.whole():
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
        self.trained.keep_whole()
        kept = f"; the same call with {self.folder.folder} continues" if self.folder.folder else ""
        raise KeyboardInterrupt(f"training stopped by a signal in {where}{kept}")

    def _save(self) -> None:
        self.folder.save(self.state, self.steps, self.best)

    def resume(self) -> None:
        """Takes up the checkpoint in the folder, if there is one.

        Raises:
            ValueError: It is that of a training with other settings.
            ArtifactError: It is damaged, or of another model.
        """
        folder = self.folder
        loaded = folder.load()
        if loaded is not None:
            about, contents = loaded
            self._keep_steps(folder.step_batches(about))
            folder.check_settings(about, self.steps.steps_per_epoch)
            steps_per_epoch = self.steps.steps_per_epoch
            self.state, self.best = folder.restore(about, contents, steps_per_epoch)
            if self.state.finished:
                self.trained.keep_whole()
        self.log = folder.resume_log(None if loaded is None else self.state.log_bytes)

    def _keep_steps(self, step_batches: int) -> None:
        """Makes steps of as many batches as the training began with, by however many processes."""
        self._set_steps(step_batches)
        if step_batches < self.fabric.world_size and self.fabric.is_global_zero:
            message = "steps stay of %d batches, as the training began: %d processes bring no more"
            logger.warning(message, step_batches, self.fabric.world_size)
