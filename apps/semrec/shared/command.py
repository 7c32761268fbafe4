"""The command line of an app: `run`, `demo`, `study` and `recommend`, the same for all three."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from evalrec import Report
from genrec import DenseRecommender

from semrec.shared.configuration import build_config, load_config
from semrec.shared.data import check_complete
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
    read_ids,
)
from semrec.shared.run import choose_device, read_json
from semrec.shared.setting import (
    ConfigOption,
    DataOption,
    DemoSeedOption,
    DeviceOption,
    EmbeddingOption,
    OutOption,
    SeedOption,
    Setting,
    chosen,
    demo_data,
    open_run,
    show_results,
)
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


@dataclass(frozen=True, kw_only=True)
class App:
    """What tells the apps apart.

    Attributes:
        title: The model's name; in lower case, the app's.
        config: The dataclass of its configuration.
        embedding: The part of the configuration that names an embedding.
        demo: The configuration for the synthetic catalogue of `demo`.
        pipeline: The stages; made of the fields of a `Setting`.
        run_stages: Goes through them and writes metrics and report.
        studies: By the names of the command line.
    """

    title: str
    config: type
    embedding: str
    demo: Any
    pipeline: Callable[..., Any]
    run_stages: Callable[[Any], Mapping[str, Report]]
    studies: Mapping[str, Study[Any]]

    def open(self, data: Path, out: Path, config: Any, device: str) -> Any:
        """The pipeline of a run, begun or continued."""
        setting: Setting = open_run(self.title, data, out, config, device)
        return self.pipeline(**vars(setting))

    def go(self, data: Path, out: Path, config: Any, device: str) -> None:
        """Goes through the stages of a run and prints the results."""
        pipeline = self.open(data, out, config, device)
        show_results(self.title, pipeline.run, self.run_stages(pipeline))


def command_line(app: App) -> typer.Typer:
    """The commands `run`, `demo` and `study` of an app."""
    commands = typer.Typer(
        help=f"{app.title}: from items and interactions to recommended item ids.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

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
        resolved: Any = chosen(load_config(app.config, config), app.embedding, embedding, seed)
        app.go(data, out, resolved, device)

    @commands.command()
    def demo(out: OutOption, seed: DemoSeedOption = 0, device: DeviceOption = "auto") -> None:
        """The same on a small synthetic catalogue, which is made first: minutes on a CPU."""
        app.go(demo_data(out), out, dataclasses.replace(app.demo, seed=seed), device)

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
        resolved: Any = chosen(load_config(app.config, config), app.embedding, embedding, seed)
        found = with_values(app.studies, name, values)
        all_seeds = parse_seeds(seeds, resolved.seed)
        run_study(name, found, app.open(data, out, resolved, device), all_seeds, app.run_stages)

    return commands


def add_recommend(
    commands: typer.Typer,
    app: App,
    recommender_of: Callable[[Path, Any, torch.device], DenseRecommender],
) -> None:
    """The command `recommend` of an app whose model scores all items.

    Args:
        commands: Where it is added.
        app: The app.
        recommender_of: Loads it from the folder of a complete run.
    """

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
        check_complete(run)
        config: Any = build_config(app.config, read_json(run / "run.json")["config"], str(run))
        recommender = recommender_of(run, config, choose_device(device))
        known = recommender.rows
        stream = partial(
            recommender.stream,
            top_k=top_k,
            exclude_seen=exclude_seen,
            unknown="error",
            allow=read_ids(allow, known),
            deny=read_ids(deny, known) or (),
        )
        answer(run, stream, known, history=history, source=source, output=output, force=force)
