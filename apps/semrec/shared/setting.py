"""`run` and `demo`, as the three apps have them: options, and what surrounds the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import torch
import typer
from evalrec import Queries, Report, reports_table, write_synthetic
from rich.console import Console

from semrec.shared.data import Data, read_data, sample_queries
from semrec.shared.run import Run, choose_device, content_hash
from semrec.shared.screen import Screen

DataOption = Annotated[Path, typer.Option(help="Folder with items.* and interactions.*")]
OutOption = Annotated[Path, typer.Option(help="Folder of the run, new or to be continued")]
ConfigOption = Annotated[Path | None, typer.Option(help="TOML: whatever is not a default")]
EmbeddingOption = Annotated[
    str | None, typer.Option(help="minilm, lsa, a model's name or folder, or a file")
]
SeedOption = Annotated[int | None, typer.Option(help="Decides all that is drawn")]
DemoSeedOption = Annotated[int, typer.Option(help="Decides all that is drawn")]
DeviceOption = Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", ...')]

Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the stages of a run need: folder, inputs, configuration, device."""

    run: Run
    data: Data
    config: Any
    device: torch.device

    @property
    def validation(self) -> Queries:
        """The users on whom early stopping decides."""
        evaluation = self.config.evaluation
        return sample_queries(
            self.data.split.validation, evaluation.validation_users, self.config.seed
        )

    def varied(self, *, seed: int | None = None, **changes: Mapping[str, Any]) -> Self:
        """The same with some of the configuration changed, as a study needs it.

        Args:
            seed: Another seed, unless it is None.
            changes: Part of the configuration to the values that are different there.
        """
        parts = {
            part: dataclasses.replace(getattr(self.config, part), **values)
            for part, values in changes.items()
        }
        if seed is not None:
            parts["seed"] = seed
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **parts))

    def stage(self, name: str, *parts: str) -> str:
        """The name of a stage that depends on these parts of the configuration, such as "seed"."""
        return self.run.stage_name(name, dataclasses.asdict(self.config), parts)


def chosen(config: Config, part: str, embedding: str | None, seed: int | None) -> Config:
    """A configuration with what the command line says of it.

    Args:
        config: The configuration.
        part: Which of its parts has the embedding.
        embedding: Replaces that embedding, unless it is None.
        seed: Replaces the seed, unless it is None.
    """
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    if embedding is not None:
        changes[part] = dataclasses.replace(getattr(config, part), embedding=embedding)
    changed: Config = dataclasses.replace(config, **changes)
    return changed


def demo_data(out: Path) -> Path:
    """The folder of the demo's synthetic catalogue, beside the run; made if it is not there."""
    data = out.with_name(f"{out.name}-data")
    if not data.exists():
        write_synthetic(data)
    return data


def open_run(title: str, folder: Path, out: Path, config: Any, device: str) -> Setting:
    """Reads the data and begins or continues a run.

    Args:
        title: The model's name; in lower case, the app's.
        folder: Of the data.
        out: Of the run.
        config: The resolved configuration; its `check` refuses data that it does not suit, and
            names the files that are inputs beside the data.
        device: As `choose_device` takes it.
    """
    screen = Screen()
    chosen_device = choose_device(device)
    data = read_data(folder, config.columns, screen)
    stored = config.check(data)
    run = Run(
        out,
        app=title.lower(),
        config=dataclasses.asdict(config),
        data=content_hash([*data.files, *stored]),
        screen=screen,
    )
    return Setting(run=run, data=data, config=config, device=chosen_device)


def show_results(title: str, run: Run, reports: Mapping[str, Report]) -> None:
    """Prints the test's results and where the report is."""
    typer.echo()
    Console().print(reports_table(reports, title=f"{title} on the test"))
    typer.echo(f"report: {run.path / 'report.html'}")
