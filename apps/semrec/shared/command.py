"""The command line that all apps share: `run`, `recommend`, `export`, `serve` and others.

No import here imports torch, so `--help` and error messages come at once. An app's `System` is
imported after a command has checked its options.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from genrec import ArtifactError, LoggerError
from typer.core import TyperCommand

from semrec.shared import processes
from semrec.shared.answer_options import (
    AllowOption,
    AnswerOptions,
    DenyOption,
    DiversifyOption,
    EngineOption,
    ForceOption,
    GroupOption,
    HistoryOption,
    InputOption,
    InteractionsOption,
    OutputOption,
    RayWorkersOption,
    RunOption,
    SeenOption,
    TopKOption,
    UnknownOption,
    UsersOption,
)
from semrec.shared.app import App, demo_data
from semrec.shared.configuration import load_config, set_keys
from semrec.shared.curves import LoggerOption
from semrec.shared.errors import ExperimentError, guarded
from semrec.shared.export_options import ExportOption, ReplaceOption, check_export
from semrec.shared.plugins import TrustOption
from semrec.shared.serving.options import (
    HostOption,
    InsecureOption,
    PortOption,
    ServeOptions,
    TokenOption,
    WorkersOption,
)
from semrec.shared.study_options import (
    STUDY_HELP,
    SeedsOption,
    StudyArgument,
    ValuesOption,
    parse_seeds,
    studies_help,
    with_values,
)
from semrec.shared.text import visible
from semrec.shared.update_config import load_update


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
OutOption = Annotated[Path, typer.Option(help="Folder of the run, new or to continue")]
ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file with other values than defaults")
]
EmbeddingOption = Annotated[
    str | None, typer.Option(help="minilm, lsa, a model's name or folder, or a file")
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of all random draws")]
DemoSeedOption = Annotated[int, typer.Option(help="Seed of all random draws")]
NowOption = Annotated[Path, typer.Option(help="Folder with all current items and interactions")]
ItemsOption = Annotated[
    Path, typer.Option(help="New items: .jsonl, .csv, both also as .gz, or .parquet")
]
UpdateConfigOption = Annotated[Path | None, typer.Option(help="TOML with the table [update]")]
TrainOption = Annotated[
    bool, typer.Option("--train/--no-train", help="Continue the training, or only add what is new")
]
FileArgument = Annotated[Path | None, typer.Argument(help="TOML file to check")]
SchemaOption = Annotated[bool, typer.Option("--schema", help="Print a JSON Schema for editors")]
DefaultsOption = Annotated[bool, typer.Option("--defaults", help="Print all defaults as TOML")]
DeviceOption = Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", ...')]


def run_app(app: App[Any, Any]) -> None:
    """Runs an app's command line; an error that the user can correct becomes one line."""
    # Threads that wait actively slow other programs; OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    guarded(command_line(app), (ArtifactError, LoggerError))


def command_line(app: App[Any, Any]) -> typer.Typer:
    """The commands of an app."""
    commands = typer.Typer(
        help=f"{app.title}: from items and interactions to recommended item ids.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @commands.callback()
    def options(context: typer.Context, version: VersionOption = False) -> None:
        """The options before the name of a command."""
        command = context.invoked_subcommand
        if processes.count() > 1 and command not in processes.COMMANDS:
            raise ExperimentError(
                f"WORLD_SIZE must be 1 or unset, got {processes.count()}: {command} is one "
                "process, so start it without torchrun"
            )
        processes.meet()

    @commands.command()
    def run(
        data: DataOption,
        out: OutOption,
        config: ConfigOption = None,
        embedding: EmbeddingOption = None,
        seed: SeedOption = None,
        logger: LoggerOption = None,
        device: DeviceOption = "auto",
        trust: TrustOption = None,
    ) -> None:
        """Train, test and write report.html; repeat the command to continue a stopped run."""
        resolved = app.configured(config, embedding, seed)
        keys, packages = set_keys(config), trust or ()
        app.show(app.open(data, out, resolved, device, keys, trust=packages, logger=logger))

    @commands.command()
    def demo(
        out: OutOption,
        seed: DemoSeedOption = 0,
        logger: LoggerOption = None,
        device: DeviceOption = "auto",
    ) -> None:
        """Run on a small synthetic catalogue, which is made first: minutes on a CPU."""
        config = dataclasses.replace(app.demo, seed=seed)
        app.show(app.open(demo_data(out), out, config, device, logger=logger))
        command = app.command or app.title.lower()
        typer.echo(visible(f"serve it: {command} serve --run {shlex.quote(str(out))}"))

    @commands.command()
    def update(
        run: RunOption,
        data: NowOption,
        out: OutOption,
        config: UpdateConfigOption = None,
        train: TrainOption = True,
        logger: LoggerOption = None,
        device: DeviceOption = "auto",
        trust: TrustOption = None,
    ) -> None:
        """Update a complete run with the current data; the old run does not change."""
        budget, packages = load_update(config, train=train), trust or ()
        app.show(app.open_update(run, data, out, budget, device, trust=packages, logger=logger))

    @commands.command()
    def extend(
        run: RunOption,
        items: ItemsOption,
        out: OutOption,
        device: DeviceOption = "auto",
        trust: TrustOption = None,
    ) -> None:
        """Add new items between two updates; the new run can recommend them at once."""
        from semrec.shared.extending import extend as make_room

        make_room(app, run, items, out, device, trust or ())

    @commands.command(cls=_study_command(app), help=STUDY_HELP)
    def study(
        name: StudyArgument,
        data: DataOption,
        out: OutOption,
        config: ConfigOption = None,
        embedding: EmbeddingOption = None,
        seed: SeedOption = None,
        seeds: SeedsOption = None,
        values: ValuesOption = None,
        logger: LoggerOption = None,
        device: DeviceOption = "auto",
        trust: TrustOption = None,
    ) -> None:
        resolved = app.configured(config, embedding, seed)
        all_seeds = parse_seeds(seeds, resolved.seed)
        chosen_study = with_values(app.system().studies, name, values)
        keys, packages = set_keys(config), trust or ()
        pipeline = app.open(data, out, resolved, device, keys, trust=packages, logger=logger)
        from semrec.shared.studies import run_study

        run_study(name, chosen_study, pipeline, all_seeds, app.complete)

    @commands.command()
    def recommend(
        run: RunOption,
        history: HistoryOption = None,
        source: InputOption = None,
        users: UsersOption = None,
        interactions: InteractionsOption = None,
        output: OutputOption = None,
        top_k: TopKOption = 10,
        exclude_seen: SeenOption = False,
        allow: AllowOption = None,
        deny: DenyOption = None,
        unknown: UnknownOption = None,
        diversify: DiversifyOption = None,
        per_group: GroupOption = None,
        engine: EngineOption = "local",
        workers: RayWorkersOption = None,
        force: ForceOption = False,
        device: DeviceOption = "auto",
        trust: TrustOption = None,
    ) -> None:
        """Recommend items for one history, for a file of histories, or for the run's users."""
        options = AnswerOptions(
            run=run,
            history=history,
            source=source,
            users=users,
            interactions=interactions,
            output=output,
            top_k=top_k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            unknown=unknown,
            diversify=diversify,
            per_group=per_group,
            engine=engine,
            workers=workers,
            force=force,
            trust=tuple(trust or ()),
        )
        options.check()
        pipeline = app.reopen(run, device, options.trust)
        from semrec.shared.recommend import recommend as answer

        answer(pipeline, options)

    @commands.command("config")
    def show_config(
        file: FileArgument = None, schema: SchemaOption = False, defaults: DefaultsOption = False
    ) -> None:
        """Check a configuration file and print the result: every key with its meaning."""
        if (file is not None) + schema + defaults != 1:
            raise ExperimentError("config takes one of a FILE, --schema and --defaults")
        from semrec.shared.schema import json_schema, toml_text

        if schema:
            typer.echo(json.dumps(json_schema(app.config), indent=2))
        else:
            typer.echo(toml_text(load_config(app.config, file), set_keys(file)), nl=False)

    @commands.command()
    def export(
        run: RunOption,
        out: ExportOption,
        force: ReplaceOption = False,
        trust: TrustOption = None,
    ) -> None:
        """Write ONNX, parquet and a faiss index of a complete run for other systems."""
        check_export(out, run=run, force=force)
        pipeline = app.reopen(run, "cpu", trust or ())
        from semrec.shared.exporting import export as write

        write(pipeline, out, force=force)

    @commands.command()
    def serve(
        run: RunOption,
        host: HostOption = "127.0.0.1",
        port: PortOption = 8000,
        token_file: TokenOption = None,
        insecure: InsecureOption = False,
        workers: WorkersOption = 1,
        device: DeviceOption = "auto",
        trust: TrustOption = None,
    ) -> None:
        """Answer over HTTP from a complete run; SIGHUP reloads its folder without a pause."""
        options = ServeOptions(
            run=run,
            host=host,
            port=port,
            token_file=token_file,
            insecure=insecure,
            workers=workers,
            device=device,
            trust=tuple(trust or ()),
        )
        options.check()
        from semrec.shared.serving.server import serve as answer

        answer(app, options)

    commands.registered_commands = [
        command
        for command in commands.registered_commands
        if command.callback is None or command.callback.__name__ not in app.without
    ]
    return commands


def _study_command(app: App[Any, Any]) -> type[TyperCommand]:
    """The command `study`; its help imports the app's studies to list them."""

    class StudyCommand(TyperCommand):
        def format_help(self, *arguments: Any) -> None:
            self.help = studies_help(app.system().studies)
            super().format_help(*arguments)

    return StudyCommand
