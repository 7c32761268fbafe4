"""Complete runs on the Hugging Face hub, without their users and with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalrec import MODES, Report
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from semrec.loading import LoadedRun, load_run

KEPT_BACK = ("users", "variants", "studies", "curves")
"""Not uploaded: the histories of users, and files that only training needs."""

CARD = "README.md"
_METRICS = ("recall@10", "ndcg@10")


class HubRun(ModelHubMixin):
    """A complete run with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    It saves the run's folder (JSON, safetensors and parquet, none of which runs code) without
    `KEPT_BACK`, and a README.md with the model card: data, protocol, floors, and metrics with their
    intervals. `semrec.load_run` opens the folder, and so do the commands `recommend --history`,
    `recommend --input` and `serve`. `recommend --users` needs the original run, because users are
    not uploaded.

    `push_to_hub` and `save_pretrained` take `model_card_kwargs`, the arguments of `model_card`.

    Args:
        run: The run, as `semrec.load_run` opens it.
    """

    def __new__(cls, *_: Any, **__: Any) -> HubRun:
        """Skips the mixin, which would store all arguments as a configuration."""
        return object.__new__(cls)

    def __init__(self, run: LoadedRun) -> None:
        self.run = run

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the run and its card, and pushes both to the hub if `push_to_hub` is set.

        Args:
            save_directory: A new or empty folder.
            **options: As for `huggingface_hub.ModelHubMixin.save_pretrained`, such as
                `model_card_kwargs`, `push_to_hub` and `repo_id`.

        Returns:
            The address of the commit if the run was pushed, else None.

        Raises:
            FileExistsError: The folder is not empty.
            TypeError: `config` is given.
        """
        if options.get("config") is not None:
            raise TypeError("config must be left out: the run has its own")
        folder = Path(save_directory)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty, so nothing is written to it")
        address: str | None = super().save_pretrained(save_directory, **options)
        return address

    def _save_pretrained(self, save_directory: Path) -> None:
        for path in sorted(self.run.path.iterdir()):
            if path.name in (*KEPT_BACK, CARD) or path.name.startswith("."):
                continue
            if path.is_dir():
                shutil.copytree(path, save_directory / path.name)
            else:
                shutil.copy(path, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> HubRun:
        """Opens a folder or downloads a repository of the hub; called by `from_pretrained`.

        Options are those of `semrec.load_run`.
        """
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        return cls(load_run(folder, **options))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Returns `model_card(run, *args, **kwargs)`."""
        return model_card(self.run, *args, **kwargs)


def model_card(run: LoadedRun, *, text: str = "", **metadata: Any) -> ModelCard:
    """Returns the model card of a run: data, protocol, floors, and metrics with their intervals.

    Args:
        run: The run.
        text: Markdown below the title, such as a description of the catalogue.
        **metadata: Fields of `huggingface_hub.ModelCardData`, such as `license` and `datasets`.
    """
    data = ModelCardData(
        **{"library_name": "semrec", "tags": ["recommendation", "semantic-ids"], **metadata}
    )
    reports = dict(run.reports)
    counts = next(iter(reports.values())).counts
    parts = [
        f"# {run.pipeline.run.app}: recommendations over {len(run.item_ids):,} items",
        *([text] if text else []),
        "## Data and protocol",
        f"{counts['users']:,} users of the test, {counts['items']:,} items, "
        f"{counts['cold_targets']:,} targets that never occur in training. Leave-one-out: the last "
        "item of each user is the test, the one before it chose parameters. Each target is ranked "
        "among all items; a hit is the item itself.",
        f"Answers by {run.pipeline.answers_by or run.pipeline.answering_row or run.rankings[0]}.",
        "## Metrics",
        _table(reports),
        'The mean over users with its 95 % bootstrap interval; "filtered" strikes out the items '
        "of each user's history. Rows from popularity on are floors, which only count.",
        "## Use",
        "```py\nfrom semrec.hub import HubRun\n\n"
        'run = HubRun.from_pretrained("OWNER/NAME").run\n'
        "answers = run.recommender().recommend([[...]], top_k=10)  # lists of item ids\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _table(reports: Mapping[str, Report]) -> str:
    columns = [(mode, metric) for mode in MODES for metric in _METRICS]
    heads = " | ".join(f"{metric}, {mode}" for mode, metric in columns)
    lines = [f"| | {heads} |", "|---" * (len(columns) + 1) + "|"]
    for name, report in reports.items():
        estimates = (report.estimate(metric, mode) for mode, metric in columns)
        cells = " | ".join(f"{mean:.4f} ({low:.4f} to {high:.4f})" for mean, low, high in estimates)
        lines.append(f"| {name.replace('|', '/')} | {cells} |")
    return "\n".join(lines)
