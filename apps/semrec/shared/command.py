"""The command line of an app: `run`, `demo`, `study` and `recommend`, the same for all three."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
import typer
from evalrec import DataError, Report, reports_table, write_synthetic
from genrec import ArtifactError
from rich.console import Console
from semtok import CatalogError

from semrec.shared.configuration import build_config, load_config, set_keys
from semrec.shared.data import AppConfig, read_data
from semrec.shared.environment import note_environment
from semrec.shared.errors import ExperimentError, guarded
from semrec.shared.files import content_hash
from semrec.shared.findings import Findings, complete_run
from semrec.shared.pipeline import Pipeline
from semrec.shared.recommend import (
    AllowOption,
    DenyOption,
    ForceOption,
    HistoryOption,
    InputOption,
    OutputOption,
    RunOption,
    SeenOption,
    TopKOption,
    answer,
    check_answer_options,
    check_output,
    history_ids,
    read_ids,
)
from semrec.shared.run import Run, check_out
from semrec.shared.screen import Screen
from semrec.shared.sizes import size_lines, sized
from semrec.shared.studies import (
    SeedsOption,
    Study,
    StudyArgument,
    ValuesOption,
    parse_seeds,
    run_study,
    studies_help,
    with_values,
)
from semrec.shared.text import visible
from semrec.shared.verdict import on_validation


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"semrec {metadata.version('semrec')}")
        raise typer.Exit
    return wanted


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
DataOption = Annotated[Path, typer.Option(help="Folder with items.* and interactions.*")]
OutOption = Annotated[Path, typer.Option(help="Folder of the run, new or to be continued")]
ConfigOption = Annotated[Path | None, typer.Option(help="TOML: whatever is not a default")]
EmbeddingOption = Annotated[
    str | None, typer.Option(help="minilm, lsa, a model's name or folder, or a file")
]
SeedOption = Annotated[int | None, typer.Option(help="Decides all that is drawn")]
DemoSeedOption = Annotated[int, typer.Option(help="Decides all that is drawn")]
DeviceOption = Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", ...')]

C = TypeVar("C", bound=AppConfig)


P = TypeVar("P", bound=Pipeline[Any])


@dataclass(frozen=True, kw_only=True)
class App(Generic[C, P]):
    """What tells the apps apart.

    Attributes:
        title: The model's name; in lower case, the app's.
        config: The dataclass of its configuration.
        embedding: The part of the configuration that names an embedding.
        demo: The configuration for the synthetic catalogue of `demo`.
        pipeline: The stages.
        findings: What the report says beyond the test.
        studies: By the names of the command line.
    """

    title: str
    config: type[C]
    embedding: str
    demo: C
    pipeline: Callable[..., P]
    findings: Callable[[P], Findings]
    studies: Mapping[str, Study[P]]

    def open(
        self,
        folder: Path,
        out: Path,
        config: C,
        device: str,
        keys: Collection[str] | None = None,
    ) -> P:
        """Reads the data and begins or continues a run.

        Args:
            folder: Of the data.
            out: Of the run.
            config: The configuration; its `check` refuses data that it does not suit.
            device: As `choose_device` takes it.
            keys: What of the configuration was set, as `set_keys` has it; the other sizes follow
                the data. None where all are to stay as they are.
        """
        check_out(out)
        screen, chosen_device = Screen(), choose_device(device)
        data = read_data(folder, config.columns, screen)
        if keys is not None:
            config = sized(config, keys, data)
        inputs = [*data.files, *config.check(data)]
        run = Run.begin(
            out,
            app=self.title.lower(),
            config=dataclasses.asdict(config),
            data=content_hash(inputs),
            screen=screen,
        )
        note_environment(run, chosen_device)
        for line in () if keys is None else size_lines(config, keys, data):
            screen.say(line)
        return self.pipeline(run=run, inputs=data, config=config, device=chosen_device)

    def reopen(self, out: Path, device: str = "auto") -> P:
        """A complete run, which answers without its data.

        Raises:
            ExperimentError: The folder is not that of a complete run of this app.
        """
        run = Run.reopen(out, Screen())
        if run.app != self.title.lower():
            raise ExperimentError(f"{out} holds a run of {run.app}, not of {self.title.lower()}")
        config = build_config(self.config, run.config, str(out))
        return self.pipeline(run=run, inputs=None, config=config, device=choose_device(device))

    def complete(self, pipeline: P) -> dict[str, Report]:
        """Goes through the stages of a run, and writes its metrics and its report."""
        return complete_run(self.title, pipeline, self.findings)

    def show(self, pipeline: P) -> None:
        """Completes a run, and prints the test's results and where the report is."""
        reports = self.complete(pipeline)
        typer.echo(visible(on_validation(pipeline)))
        typer.echo()
        Console().print(reports_table(reports, title=f"{self.title} on the test"))
        typer.echo(visible(f"report: {pipeline.run.path / 'report.html'}"))

    def configured(self, path: Path | None, embedding: str | None, seed: int | None) -> C:
        """The configuration by a TOML file and by what the command line says of it.

        Args:
            path: The file; None for the defaults.
            embedding: Replaces the embedding, unless it is None.
            seed: Replaces the seed, unless it is None.
        """
        config = load_config(self.config, path)
        changes: dict[str, Any] = {} if seed is None else {"seed": seed}
        if embedding is not None:
            part = getattr(config, self.embedding)
            changes[self.embedding] = dataclasses.replace(part, embedding=embedding)
        return dataclasses.replace(config, **changes)


def run_app(app: App[Any, Any]) -> None:
    """Runs an app's command line; what a user can put right ends it with one line."""
    guarded(command_line(app), (ArtifactError, CatalogError, DataError))


def command_line(app: App[C, P]) -> typer.Typer:
    """The commands `run`, `demo`, `study` and `recommend` of an app."""
    commands = typer.Typer(
        help=f"{app.title}: from items and interactions to recommended item ids.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @commands.callback()
    def options(version: VersionOption = False) -> None:
        """What stands before the name of a command."""

    @commands.command()
    def run(
        data: DataOption,
        out: OutOption,
        config: ConfigOption = None,
        embedding: EmbeddingOption = None,
        seed: SeedOption = None,
        device: DeviceOption = "auto",
    ) -> None:
        """Train, test, and write report.html; the same command continues a stopped run."""
        resolved = app.configured(config, embedding, seed)
        app.show(app.open(data, out, resolved, device, set_keys(config)))

    @commands.command()
    def demo(out: OutOption, seed: DemoSeedOption = 0, device: DeviceOption = "auto") -> None:
        """The same on a small synthetic catalogue, which is made first: minutes on a CPU."""
        config = dataclasses.replace(app.demo, seed=seed)
        app.show(app.open(demo_data(out), out, config, device))

    @commands.command(help=studies_help(app.studies))
    def study(
        name: StudyArgument,
        data: DataOption,
        out: OutOption,
        config: ConfigOption = None,
        embedding: EmbeddingOption = None,
        seed: SeedOption = None,
        seeds: SeedsOption = None,
        values: ValuesOption = None,
        device: DeviceOption = "auto",
    ) -> None:
        resolved = app.configured(config, embedding, seed)
        chosen_study = with_values(app.studies, name, values)
        all_seeds = parse_seeds(seeds, resolved.seed)
        pipeline = app.open(data, out, resolved, device, set_keys(config))
        run_study(name, chosen_study, pipeline, all_seeds, app.complete)

    @commands.command()
    def recommend(
        run: RunOption,
        history: HistoryOption = None,
        source: InputOption = None,
        output: OutputOption = None,
        top_k: TopKOption = 10,
        exclude_seen: SeenOption = False,
        allow: AllowOption = None,
        deny: DenyOption = None,
        force: ForceOption = False,
        device: DeviceOption = "auto",
    ) -> None:
        """Item ids, titles and scores for one history, or for a file of them, streamed."""
        check_answer_options(history, source, output)
        if output is not None:
            check_output(output, run=run, inputs=(source, allow, deny), force=force)
        if source is not None:
            source.stat()
        pipeline = app.reopen(run, device)
        titles = pipeline.titles
        allowed = read_ids(allow, titles, strict=True)
        denied = read_ids(deny, titles) or ()
        ids = None if history is None else history_ids(history, titles)
        stream = partial(
            pipeline.recommender().stream,
            top_k=top_k,
            exclude_seen=exclude_seen,
            unknown="error",
            allow=allowed,
            deny=denied,
        )
        answer(titles, stream, history=ids, source=source, output=output, force=force)

    return commands


def demo_data(out: Path) -> Path:
    """The folder of the demo's synthetic catalogue, beside the run; made if it is not there."""
    check_out(out)
    if out.name in ("", ".."):  # such as ".", beside which nothing has its name
        out = out.resolve()
    if not out.name:
        raise ExperimentError(f"{out} has nothing beside it: choose another --out")
    data = out.with_name(f"{out.name}-data")
    if not data.exists():
        write_synthetic(data)
    return data


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is the first GPU, or else the CPU.

    Raises:
        ExperimentError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ExperimentError(f"--device {name} cannot be used here: {first}") from error
    return device
