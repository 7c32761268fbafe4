"""The folder of a training: what is saved of it, and how the same call goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from genrec.checkpoint import (
    LOG_FILE,
    SHARDS_FOLDER,
    STATE_FILE,
    anew,
    load_checkpoint,
    resume_log,
    save_checkpoint,
    sweep,
)
from genrec.config_checks import check_positive
from genrec.errors import printable
from genrec.placement import Replicated
from genrec.reading import check_types, refusing
from genrec.sharded_files import Shards
from genrec.storage import alone_with, naming
from genrec.training_config import TrainingConfig
from genrec.training_state import State, Steps, checked_state

# What JSON holds, and the tensors by the stem of their file.
Checkpoint = tuple[dict[str, Any], dict[str, dict[str, Tensor] | Shards]]


class TrainingFolder:
    """The checkpoint and the log of a training. All processes call its methods.

    Args:
        folder: Where they are, written by the first process and, of shards, by all; None for none.
        trained: What is trained.
        config: How.
    """

    def __init__(self, folder: Path | None, trained: Replicated, config: TrainingConfig) -> None:
        self.folder, self.trained, self.config = folder, trained, config
        self.is_first: bool = trained.fabric.is_global_zero
        self.saved_best = 0
        self.saved_files: dict[str, str] = {}  # digests by name

    def alone(self) -> AbstractContextManager[None]:
        """Keeps the folder, where there is one, from other trainings within the block.

        Raises:
            BlockingIOError: Another one is going on in it.
        """
        if self.folder is None or not self.is_first:
            return nullcontext()
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return alone_with(self.folder, "training")

    def append(self, line: bytes) -> int:
        """Adds a line to the log; returns how long the log is then, 0 where none is kept here."""
        if self.folder is None or not self.is_first:
            return 0
        path = self.folder / LOG_FILE
        with naming(path), path.open("ab") as file:
            file.write(line + b"\n")
            return file.tell()

    def save(self, state: State, steps: Steps, best: dict[str, Tensor] | None) -> None:
        """Writes the checkpoint; a finished training keeps its final weights alone.

        Args:
            state: Where the training stands.
            steps: Of which batches its steps are made.
            best: The best weights, where any are kept.
        """
        if self.folder is None:
            return
        trained, place = self.trained, self.folder / SHARDS_FOLDER
        contents: dict[str, Mapping[str, Tensor] | Shards | None]
        if state.finished:
            weights = trained.module.state_dict()
            contents = {"final": {f"module.{name}": value for name, value in weights.items()}}
        else:
            last = f"last-{state.step}"
            contents = {last: trained.content(trained.tensors(), place / last)}
            if best is not None:
                name = f"best-{state.best_epoch}"
                is_new = state.best_epoch != self.saved_best
                contents[name] = trained.content(best, place / name) if is_new else None
                self.saved_best = state.best_epoch
        if self.is_first:
            self.saved_files = save_checkpoint(
                self.folder,
                {"config": asdict(self.config), **asdict(steps), "state": asdict(state)},
                contents,
                kept=self.saved_files,
                log_bytes=state.log_bytes,
            )

    def load(self) -> Checkpoint | None:
        """Returns the checkpoint in the folder, if there is one, whose settings are these.

        Raises:
            ValueError: It is that of a training with other settings.
            ArtifactError: It is damaged.
        """
        if self.folder is None:
            return None
        loaded: Checkpoint | None = load_checkpoint(self.folder) if self.is_first else None
        loaded = self.trained.fabric.broadcast(loaded)
        if loaded is None:
            return None
        self.saved_files = loaded[0]["files"]
        return loaded

    def step_batches(self, about: Mapping[str, Any]) -> int:
        """Returns of how many batches the steps of a checkpoint's training are."""
        assert self.folder is not None
        with anew(self.folder), refusing(f"{self.folder / STATE_FILE} is damaged"):
            # A checkpoint of an older version says nothing, and is taken for that of one process.
            count: int = about.get("step_batches", about["config"].get("accumulate", 1))
            check_types({"step_batches": count}, {"step_batches": int})
            check_positive(step_batches=count)
        return count

    def check_settings(self, about: Mapping[str, Any], steps_per_epoch: int) -> None:
        """Refuses to go on with a training that has other settings."""
        present = {**asdict(self.config), "steps_per_epoch": steps_per_epoch}
        # Settings that an older version did not have were at their defaults.
        former = {**asdict(TrainingConfig()), **about["config"]}
        former["steps_per_epoch"] = about["steps_per_epoch"]
        for name, value in present.items():
            if former[name] != value:
                raise ValueError(
                    f"folder must be of a training with the same settings, got {self.folder} "
                    f"with {name} {printable(str(former[name]))}, not {value}"
                )

    def restore(
        self,
        about: Mapping[str, Any],
        contents: Mapping[str, dict[str, Tensor] | Shards],
        steps_per_epoch: int,
    ) -> tuple[State, dict[str, Tensor] | None]:
        """Gives what is trained its tensors; returns where it stands, and the best weights.

        Raises:
            ArtifactError: The checkpoint is damaged, or of another model.
        """
        assert self.folder is not None
        source, best = self.folder / STATE_FILE, None
        with anew(self.folder):
            with refusing(f"{source} is damaged"):
                state = checked_state(about["state"], contents, self.config, steps_per_epoch)
            for stem, content in contents.items():
                if stem.startswith("best-"):
                    best, self.saved_best = self.trained.received(content), state.best_epoch
                    continue
                tensors = self.trained.received(content, "module.")
                self.trained.restore_weights(tensors, source)
                if not state.finished:
                    with refusing(f"{source} is that of another model"):
                        self.trained.restore_optimizer(tensors)
        return state, best

    def resume_log(self, log_bytes: int | None) -> list[dict[str, Any]]:
        """Returns the log as the checkpoint knows it; None bytes are those of no checkpoint."""
        log: list[dict[str, Any]] = []
        if self.folder is None:
            return log
        if self.is_first:
            with anew(self.folder) if log_bytes is not None else nullcontext():
                log = resume_log(self.folder, log_bytes, self.saved_files.get(LOG_FILE))
            sweep(self.folder)
        log = self.trained.fabric.broadcast(log)
        return log
