"""Curves of a run's trainings by the loggers of trackers, in the folder `curves` of the run.

They are beside what a run is of: a stage that is complete stays so whatever `--logger` says, and a
training is the same with and without. Each stage is a name of its own, and each start of its
training a version of it: one that goes on after a kill begins a new version at the step where it
goes on, so that no file of the old one is touched.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from semrec.shared.errors import ExperimentError

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

LoggerName = Literal["tensorboard", "csv", "mlflow", "wandb"]
LoggerOption = Annotated[
    LoggerName | None,
    typer.Option(help="Keeps the trainings' curves for a tracker too, in the folder curves of OUT"),
]

# What each needs, and what brings it.
_EXTRAS: dict[LoggerName, tuple[tuple[str, ...], str]] = {
    "tensorboard": (("tensorboard",), "pip install 'semrec[tensorboard]'"),
    "mlflow": (("mlflow", "sqlalchemy", "pytorch_lightning"), "pip install 'semrec[mlflow]'"),
    "wandb": (("wandb", "pytorch_lightning"), "pip install 'semrec[wandb]'"),
}


def check_logger(kind: LoggerName | None) -> None:
    """Refuses a logger whose extra is not installed.

    Raises:
        ImportError: The message names the extra.
    """
    if kind is None or kind not in _EXTRAS:
        return
    modules, install = _EXTRAS[kind]
    for module in modules:
        if find_spec(module) is None:
            raise ImportError(f"--logger {kind} needs an extra (no module {module}): {install}")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Where the curves of a run go.

    Attributes:
        run: The run's folder.
        app: The app's name, which is that of the experiment or project of a tracker.
        kind: Whose logger keeps them; None keeps none.
    """

    run: Path
    app: str
    kind: LoggerName | None = None

    @property
    def folder(self) -> Path:
        """The folder for them."""
        return self.run / "curves"

    @property
    def hint(self) -> str | None:
        """A line that says what shows them; None where there are none."""
        if self.kind is None or not self.folder.exists():
            return None
        place = shlex.quote(str(self.folder))
        return {
            "tensorboard": f"curves: tensorboard --logdir {place}",
            "csv": f"curves: {place}, a metrics.csv a stage",
            "mlflow": f"curves: mlflow ui --backend-store-uri {shlex.quote(self._mlflow_uri)}",
            "wandb": f"curves: wandb sync {place}/wandb/*run-*",
        }[self.kind]

    @contextmanager
    def loggers(self, stage: str) -> Iterator[tuple[Logger, ...]]:
        """Yields what `genrec.fit` tells of the training of a stage, and ends it afterwards.

        Raises:
            ExperimentError: The logger cannot be begun or ended.
        """
        if self.kind is None:
            yield ()
            return
        with self._naming():
            self.folder.mkdir(exist_ok=True)
            made = self._made(stage)
        try:
            yield (made,)
        except BaseException:
            self._end(made, "failed")
            raise
        self._end(made, "success")

    def _made(self, stage: str) -> Logger:
        """The logger of a stage; the libraries are imported here, since they take seconds."""
        label, place = f"{self.run.resolve().name}/{stage}", str(self.folder)
        if self.kind == "tensorboard":
            from lightning_fabric.loggers.tensorboard import TensorBoardLogger

            return TensorBoardLogger(place, name=stage)
        if self.kind == "csv":
            from lightning_fabric.loggers.csv_logs import CSVLogger

            return CSVLogger(place, name=stage)
        if self.kind == "mlflow":
            return self._mlflow_logger(label)
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        # Its process is not to take over what the screen shows.
        settings = wandb.Settings(console="off", silent=True)
        offline = os.environ.get("WANDB_MODE", "offline") != "online"
        return WandbLogger(
            name=label, project=self.app, save_dir=place, offline=offline, settings=settings
        )

    def _mlflow_logger(self, label: str) -> Logger:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from pytorch_lightning.loggers import MLFlowLogger

        class NamingLogger(MLFlowLogger):
            """MLflow's names of metrics have no "@"."""

            def log_metrics(self, metrics: Any, step: int | None = None) -> None:
                super().log_metrics(
                    {name.replace("@", " at "): value for name, value in metrics.items()}, step
                )

        for name in ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)  # else it tells how tables are made
        is_local = self._mlflow_uri.startswith("sqlite:")
        return NamingLogger(
            experiment_name=self.app,
            run_name=label,
            tracking_uri=self._mlflow_uri,
            artifact_location=(self.folder / "artifacts").resolve().as_uri() if is_local else None,
        )

    @property
    def _mlflow_uri(self) -> str:
        """A database in the folder, unless the environment names another place."""
        local = f"sqlite:///{self.folder.resolve() / 'mlflow.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI") or local

    def _end(self, logger: Logger, status: str) -> None:
        with self._naming():
            logger.finalize(status)
            if self.kind == "wandb":
                import wandb

                wandb.finish(exit_code=int(status == "failed"))

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Has what a tracker's library raises end the command in a sentence."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ExperimentError(
                f"--logger {self.kind} failed: {reason}; the same command goes on, with another "
                "--logger or none"
            ) from error
