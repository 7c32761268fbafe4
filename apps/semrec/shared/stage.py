"""Stages: the steps of a run, each with its dependencies.

A stage depends on configuration keys: those that it reads itself and those of the stages before it.
Its folder is named after their values. So the variants of a run in a study share all stages in
which they agree, and no stage is confused with another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from semrec.shared.data import AppConfig, Data
from semrec.shared.errors import ExperimentError
from semrec.shared.run import Run

if TYPE_CHECKING:
    import torch
    from evalrec import Queries

Facts = Mapping[str, Any]
"""Facts that a stage stores about itself, JSON values only."""


Result = TypeVar("Result")
Config = TypeVar("Config", bound=AppConfig)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[Result]):
    """A step of a run: a folder that is filled once, and the result that is read from it.

    Attributes:
        run: The run.
        config: The configuration, which may be a variant of the run's.
        name: The name of its folder, if the configuration is the run's.
        reads: The configuration keys that it reads itself: tables, or values as "table.key".
        after: The stages whose results it uses. An assertion prevents the use of others.
        fill: Fills its argument, a folder that may hold remains of an interrupted attempt.
        load: Reads the result from the folder.
        by_all: Whether several processes fill it together, such as a training or a ranking.
            Otherwise only the first process fills it.
    """

    run: Run
    config: AppConfig
    name: str
    reads: tuple[str, ...]
    after: tuple[Stage[Any], ...] = ()
    fill: Callable[[Path], Facts]
    load: Callable[[Path], Result]
    by_all: bool = False

    @cached_property
    def before(self) -> tuple[Stage[Any], ...]:
        """All stages that it comes after, directly or through others."""
        return tuple(stage for near in self.after for stage in (*near.before, near))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The configuration keys that determine its result."""
        read = (key for stage in (self, *self.before) for key in stage.reads)
        return tuple(dict.fromkeys(read))

    @cached_property
    def folder_name(self) -> str:
        """Its folder within the run."""
        return self.run.stage_name(self.name, dataclasses.asdict(self.config), self.depends_on)

    @property
    def is_complete(self) -> bool:
        """Whether its folder is filled."""
        return self.run.is_complete(self.folder_name)

    def complete(self) -> dict[str, Any]:
        """Fills its folder, after those of the stages before it, unless it is complete.

        Returns:
            The facts of the stage and "seconds".
        """
        self.run.check_usable(self.folder_name)
        if self.run.may_fill and not self.run.is_complete_for_all(self.folder_name):
            for stage in self.after:
                stage.complete()
        names = [stage.folder_name for stage in self.before]
        return self.run.stage(self.folder_name, self.fill, names, by_all=self.by_all)

    def file(self, name: str) -> Path:
        """The path of a file that it stores beside its result.

        Raises:
            ExperimentError: A file of the stage is damaged.
        """
        self.complete()
        return self.run.checked(self.folder_name) / name

    def result(self) -> Result:
        """The result, read from its folder.

        Raises:
            ExperimentError: A file of the stage is damaged.
        """
        self.complete()
        return self.load(self.run.checked(self.folder_name))


@dataclass(frozen=True, kw_only=True)
class Setting(Generic[Config]):
    """The inputs of a run's stages: folder, data, configuration, device.

    Attributes:
        inputs: The data; None if a complete run is opened to answer.
    """

    run: Run
    inputs: Data | None
    config: Config
    device: torch.device

    @property
    def data(self) -> Data:
        """The data of the run."""
        if self.inputs is None:
            raise ExperimentError(f"{self.run.path}: a run that answers has no data to read")
        return self.inputs

    @property
    def validation(self) -> Queries:
        """The users for early stopping."""
        count = self.config.evaluation.validation_users
        return self.data.split.validation.sample(count, seed=self.config.seed)

    def varied(self, *, seed: int | None = None, **changes: Mapping[str, Any]) -> Self:
        """A copy with changed configuration values, for a study.

        Args:
            seed: Another seed unless None.
            changes: The changed values of each table.
        """
        parts: dict[str, Any] = {
            part: dataclasses.replace(getattr(self.config, part), **values)
            for part, values in changes.items()
        }
        if seed is not None:
            parts["seed"] = seed
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **parts))

    def stage(
        self,
        name: str,
        *,
        reads: tuple[str, ...],
        after: tuple[Stage[Any], ...] = (),
        fill: Callable[[Path], Facts],
        load: Callable[[Path], Result],
        by_all: bool = False,
    ) -> Stage[Result]:
        """A stage under this configuration; the arguments are the attributes of `Stage`."""
        return Stage(
            run=self.run,
            config=self.config,
            name=name,
            reads=reads,
            after=after,
            fill=fill,
            load=load,
            by_all=by_all,
        )
