"""An app: a configuration, and a system that is imported when a command needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import typer

from semrec.shared import processes
from semrec.shared.configuration import build_config, load_config
from semrec.shared.curves import LoggerName, check_logger
from semrec.shared.data import AppConfig, Data, read_data
from semrec.shared.errors import ConfigError, ExperimentError
from semrec.shared.files import content_hash
from semrec.shared.plugins import check_plugins
from semrec.shared.run import Run, check_out
from semrec.shared.screen import Screen
from semrec.shared.sizes import size_lines, sized
from semrec.shared.text import visible

if TYPE_CHECKING:
    from evalrec import Report

    from semrec.shared.findings import Findings
    from semrec.shared.pipeline import Pipeline
    from semrec.shared.studies import Study
    from semrec.shared.update_config import Update

C = TypeVar("C", bound=AppConfig)
P = TypeVar("P", bound="Pipeline[Any]")


@dataclass(frozen=True, kw_only=True)
class Updating:
    """How a run is updated with the current data.

    Attributes:
        config: Maps the configuration of a run and its folder to the configuration of its update;
            refuses a run whose parts cannot be extended.
        pipeline: The stages of an update.
    """

    config: Callable[[Any, Path], Any]
    pipeline: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class System(Generic[P]):
    """The part of an app that needs torch and takes seconds to import.

    Attributes:
        pipeline: The stages.
        findings: The parts of the report beyond the test.
        studies: The studies by their names on the command line.
        updating: How a run is updated; None if the app has no such command.
    """

    pipeline: Callable[..., P]
    findings: Callable[[P], Findings]
    studies: Mapping[str, Study[P]] = field(default_factory=dict)
    updating: Updating | None = None


@dataclass(frozen=True, kw_only=True)
class App(Generic[C, P]):
    """What differs between the apps.

    `--help` and the checks of configuration and data read it, so nothing in it imports torch.
    `system` imports the rest once a command needs it.

    Attributes:
        title: The model's name; in lower case it is the app's name.
        config: The dataclass of the configuration.
        embedding: The part of the configuration that names an embedding.
        demo: The configuration for the synthetic catalogue of `demo`.
        system: Imports and returns the system.
        command: The console command; None for the title in lower case.
        without: The shared commands that the app does not have.
    """

    title: str
    config: type[C]
    embedding: str
    demo: C
    system: Callable[[], System[P]]
    command: str | None = None
    without: frozenset[str] = frozenset()

    def open(
        self,
        folder: Path,
        out: Path,
        config: C,
        device: str,
        keys: Collection[str] | None = None,
        *,
        trust: Collection[str] = (),
        logger: LoggerName | None = None,
    ) -> P:
        """Reads the data and begins or continues a run.

        Args:
            folder: The folder of the data.
            out: The folder of the run.
            config: The configuration; its `check` refuses unsuitable data.
            device: As `choose_device` takes it.
            keys: The keys of the configuration that the user set, as `set_keys` returns them; all
                other sizes follow the data. None leaves all sizes unchanged.
            trust: The packages whose code may run, for parts named package.module:Name.
            logger: The logger that stores the training curves.
        """
        check_logger(logger)
        check_out(out)
        check_plugins(config, trust)
        screen = Screen()
        data = read_data(folder, config.columns, screen)
        if keys is not None:
            config = sized(config, keys, data)
        inputs = [*data.files, *config.check(data)]
        from semrec.shared.environment import choose_device, note_environment

        chosen_device = choose_device(device)
        run = Run.begin(
            out,
            app=self.title.lower(),
            config=dataclasses.asdict(config),
            data=content_hash(inputs),
            screen=screen,
            trust=trust,
            logger=logger,
            completed=self._completed,
        )
        note_environment(run, chosen_device)
        for line in () if keys is None else size_lines(config, keys, data):
            screen.say(line)
        return self.system().pipeline(run=run, inputs=data, config=config, device=chosen_device)

    def reopen(self, out: Path, device: str = "auto", trust: Collection[str] = ()) -> P:
        """Opens a complete run, which needs no data to answer.

        Args:
            out: The folder.
            device: As `choose_device` takes it.
            trust: The packages whose code may run, for parts named package.module:Name.

        Raises:
            ExperimentError: The folder holds no complete run of this app, or needs code of a
                package that is not trusted.
        """
        run = Run.reopen(out, Screen(), trust=trust, completed=self._completed)
        if run.app != self.title.lower():
            raise ExperimentError(f"{out} holds a run of {run.app}, not of {self.title.lower()}")
        config = build_config(self.config, run.config, str(out))
        check_plugins(config, trust, str(out))
        from semrec.shared.environment import choose_device

        return self.system().pipeline(
            run=run, inputs=None, config=config, device=choose_device(device)
        )

    def _completed(self, stored: dict[str, Any]) -> dict[str, Any]:
        """A stored configuration, completed with the defaults of keys that are newer than it.

        So the default of a new key must mean what the code did before the key existed. Values that
        are no valid configuration are returned unchanged; the code that reads them refuses them.
        """
        try:
            return dataclasses.asdict(build_config(self.config, stored, "run.json"))
        except ConfigError:
            return stored

    def open_update(
        self,
        old: Path,
        folder: Path,
        out: Path,
        update: Update,
        device: str,
        *,
        trust: Collection[str] = (),
        logger: LoggerName | None = None,
    ) -> P:
        """Reads the current data and begins or continues an update; raises as `open_grown`.

        Args:
            old: A complete run; it is only read.
            folder: The folder of all current data.
            out: The folder of the update.
            update: The settings of the update.
            device: As `choose_device` takes it.
            trust: The packages whose code may run.
            logger: The logger that stores the training curves.
        """

        def read(present: P, screen: Screen) -> Data:
            return read_data(folder, present.config.columns, screen)

        place = f"--data {folder}"
        return self.open_grown(old, read, place, out, update, device, trust=trust, logger=logger)

    def open_grown(
        self,
        old: Path,
        read: Callable[[P, Screen], Data],
        place: str,
        out: Path,
        update: Update,
        device: str,
        *,
        extends: bool = False,
        trust: Collection[str] = (),
        logger: LoggerName | None = None,
    ) -> P:
        """Begins or continues a run that starts from another run, with other data.

        Args:
            old: A complete run; it is only read.
            read: Reads all current data; called with the old run.
            place: The name of the data in error messages.
            out: The folder of the new run.
            update: The settings of the update.
            device: As `choose_device` takes it.
            extends: Whether the data differ only by new items, which come after all others.
            trust: The packages whose code may run.
            logger: The logger that stores the training curves.

        Raises:
            ExperimentError: The run cannot be updated, or not with these data; `out` is the run
                itself or holds something else.
        """
        check_logger(logger)
        check_out(out)
        if out.resolve() == old.resolve():
            raise ExperimentError("--out must not be --run, which stays as it is: choose another")
        present = self.reopen(old, device, trust)
        updating = self.system().updating
        assert updating is not None  # or there is no such command
        config = updating.config(present.config, old)
        screen = Screen()
        data = read(present, screen)
        from semrec.shared.environment import note_environment
        from semrec.shared.news import tested_on_new, what_is_new

        news = what_is_new(data, present, place)
        inputs = [*data.files, *config.check(data)]
        run = Run.begin(
            out,
            app=self.title.lower(),
            config=dataclasses.asdict(config),
            data=content_hash(inputs),
            screen=screen,
            update={
                "run": old.resolve().name,
                "digest": present.run.digest,
                **dataclasses.asdict(update),
            },
            trust=trust,
            logger=logger,
            completed=self._completed,
        )
        note_environment(run, present.device)
        pipeline: P = updating.pipeline(
            run=run,
            inputs=tested_on_new(data, news, update.test_users, config.seed),
            config=config,
            device=present.device,
            old=present,
            update=update,
            news=news,
            extends=extends,
        )
        return pipeline

    def complete(self, pipeline: P) -> dict[str, Report]:
        """Completes all stages of a run and writes its metrics and report."""
        from semrec.shared.findings import complete_run

        find = self.system().findings
        if pipeline.run.is_update:
            from semrec.shared.comparing import update_findings

            find = partial(update_findings, find)
        return complete_run(self.title, pipeline, find)

    def show(self, pipeline: P) -> None:
        """Completes a run and prints the test results and the path of the report."""
        from evalrec import reports_table
        from rich.console import Console

        from semrec.shared.verdict import on_validation

        reports = self.complete(pipeline)
        for line in (*pipeline.summary, on_validation(pipeline)):
            typer.echo(visible(line))
        typer.echo()
        Console().print(reports_table(reports, title=f"{self.title} on the test"))
        for line in pipeline.run.places:
            typer.echo(visible(line))

    def configured(self, path: Path | None, embedding: str | None, seed: int | None) -> C:
        """Builds the configuration from a TOML file and the options of the command line.

        Args:
            path: The file; None for the defaults.
            embedding: Replaces the embedding unless None.
            seed: Replaces the seed unless None.
        """
        config = load_config(self.config, path)
        changes: dict[str, Any] = {} if seed is None else {"seed": seed}
        if embedding is not None:
            part = getattr(config, self.embedding)
            changes[self.embedding] = dataclasses.replace(part, embedding=embedding)
        return dataclasses.replace(config, **changes)


def demo_data(out: Path) -> Path:
    """The folder of the demo's synthetic catalogue beside the run; written if it does not exist."""
    check_out(out)
    if out.name in ("", ".."):  # such as ".", from whose name none can be made
        out = out.resolve()
    if not out.name:
        raise ExperimentError(f"{out} has nothing beside it: choose another --out")
    data = out.with_name(f"{out.name}-data")
    with processes.first_before_others():
        if not data.exists():
            from evalrec import write_synthetic

            write_synthetic(data)
    return data
