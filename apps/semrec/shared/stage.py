"""Stages: the steps of a run, each of which knows what it depends on.

A stage is named after what of the configuration its result follows from: what it reads itself, and
what the stages before it do. So variants of a run, as studies need them, share all stages in which
they agree, and no stage is taken for another.
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
"""What a stage notes of itself, JSON values only."""


Result = TypeVar("Result")
Config = TypeVar("Config", bound=AppConfig)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[Result]):
    """A step of a run: a folder that is filled once, and what is read from it.

    Attributes:
        run: The run.
        config: The configuration, which may be a variant of the run's.
        name: Its folder, where the configuration is the run's.
        reads: What of the configuration it reads itself: tables, or values as "table.key".
        after: The stages whose results it takes. It can take no other's: an assertion sees to it.
        fill: Fills the folder it is given, which may hold what an interrupted try left.
        load: Reads the result from the folder.
        by_all: Whether several processes fill it together, as a training or a ranking; all else the
            first of them fills alone.
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
        """All stages that it comes after, themselves and through others."""
        return tuple(stage for near in self.after for stage in (*near.before, near))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """What of the configuration its result follows from."""
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
        """Fills its folder, those of the stages before it first, unless that was done.

        Returns:
            What the stage noted of itself, and "seconds".
        """
        self.run.check_usable(self.folder_name)
        if self.run.may_fill and not self.run.is_complete_for_all(self.folder_name):
            for stage in self.after:
                stage.complete()
        names = [stage.folder_name for stage in self.before]
        return self.run.stage(self.folder_name, self.fill, names, by_all=self.by_all)

    def file(self, name: str) -> Path:
        """A file that it leaves beside its result.

        Raises:
            ExperimentError: A file of the stage is damaged.
        """
        self.complete()
        return self.run.checked(self.folder_name) / name

    def result(self) -> Result:
        """What it leaves, read from its folder.

        Raises:
            ExperimentError: A file of the stage is damaged.
        """
        self.complete()
        return self.load(self.run.checked(self.folder_name))


@dataclass(frozen=True, kw_only=True)
class Setting(Generic[Config]):
    """What the stages of a run need: folder, inputs, configuration, device.

    Attributes:
        inputs: What was read; None where a complete run is opened to answer.
    """

    run: Run
    inputs: Data | None
    config: Config
    device: torch.device

    @property
    def data(self) -> Data:
        """What was read."""
        if self.inputs is None:
            raise ExperimentError(f"{self.run.path}: a run that answers has no data to read")
        return self.inputs

    @property
    def validation(self) -> Queries:
        """The users on whom early stopping decides."""
        count = self.config.evaluation.validation_users
        return self.data.split.validation.sample(count, seed=self.config.seed)

    def varied(self, *, seed: int | None = None, **changes: Mapping[str, Any]) -> Self:
        """The same with some of the configuration changed, as a study needs it.

        Args:
            seed: Another seed, unless it is None.
            changes: Part of the configuration to the values that are different there.
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
