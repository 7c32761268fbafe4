"""Training curves of a run, written by loggers of trackers to its folder `curves`.

They do not belong to the identity of a run: `--logger` changes neither a complete stage nor the
result of a training. Each stage has its own name, and each start of its training is a version. A
training that continues after a kill begins a new version at the step where it continues, so the
files of the old version never change.
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
    typer.Option(
        help="Also write the training curves for this tracker to the folder curves of OUT"
    ),
]

# The modules that each logger needs, and the command that installs them.
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
    """Writes the curves of a run.

    Attributes:
        run: The run's folder.
        app: The app's name, used as the tracker's experiment or project.
        kind: The tracker; None writes no curves.
    """

    run: Path
    app: str
    kind: LoggerName | None = None

    @property
    def folder(self) -> Path:
        """The folder of the curves."""
        return self.run / "curves"

    @property
    def hint(self) -> str | None:
        """A line with the command that shows the curves; None if there are none."""
        if self.kind is None or not self.folder.exists():
            return None
        place = shlex.quote(str(self.folder))
        return {
            "tensorboard": f"curves: tensorboard --logdir {place}",
            "csv": f"curves: {place}, one metrics.csv per stage",
            "mlflow": f"curves: mlflow ui --backend-store-uri {shlex.quote(self._mlflow_uri)}",
            "wandb": f"curves: wandb sync {place}/wandb/*run-*",
        }[self.kind]

    @contextmanager
    def loggers(self, stage: str) -> Iterator[tuple[Logger, ...]]:
        """Yields the loggers for `genrec.fit` in a stage's training, and closes them afterwards.

        Raises:
            ExperimentError: The logger cannot be opened or closed.
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

        # The wandb process must not write to the screen.
        settings = wandb.Settings(console="off", silent=True)
        offline = os.environ.get("WANDB_MODE", "offline") != "online"
        return WandbLogger(
            name=label, project=self.app, save_dir=place, offline=offline, settings=settings
        )

    def _mlflow_logger(self, label: str) -> Logger:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from pytorch_lightning.loggers import MLFlowLogger

        class NamingLogger(MLFlowLogger):
            """Renames metrics, because MLflow allows no "@" in their names."""

            def log_metrics(self, metrics: Any, step: int | None = None) -> None:
                super().log_metrics(
                    {name.replace("@", " at "): value for name, value in metrics.items()}, step
                )

        for name in ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)  # it would log how it creates tables
        is_local = self._mlflow_uri.startswith("sqlite:")
        return NamingLogger(
            experiment_name=self.app,
            run_name=label,
            tracking_uri=self._mlflow_uri,
            artifact_location=(self.folder / "artifacts").resolve().as_uri() if is_local else None,
        )

    @property
    def _mlflow_uri(self) -> str:
        """A database in the folder, unless an environment variable names another place."""
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
        """Turns an exception of a tracker's library into one sentence that ends the command."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ExperimentError(
                f"--logger {self.kind} failed: {reason}; repeat the command to continue, with "
                "another --logger or none"
            ) from error
