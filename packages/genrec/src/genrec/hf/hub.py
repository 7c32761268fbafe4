"""Recommenders on the Hugging Face hub: a model folder with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from genrec.artifact import read_folder
from genrec.recommender import DenseRecommender, Recommender
from genrec.saved_seq2seq import save_model


class HubRecommender(ModelHubMixin):
    """A recommender with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    The folder is that of `genrec.save_model` or `genrec.save_backbone`: JSON and safetensors with a
    digest of each file, none of which is run as code, and a README.md, which is the model card. So
    `Recommender.load` and `DenseRecommender.load` read it too.

    `push_to_hub` and `save_pretrained` take `model_card_kwargs`, the arguments of `model_card`.

    Args:
        recommender: The recommender.
        info: Other values, which JSON can hold, for `config.json`.
    """

    def __new__(cls, *_: Any, **__: Any) -> HubRecommender:
        """Skips the mixin's copy of all arguments: the model folder has its own configuration."""
        return object.__new__(cls)

    def __init__(
        self, recommender: Recommender | DenseRecommender, *, info: Mapping[str, Any] | None = None
    ) -> None:
        self.recommender = recommender
        self.info = dict(info or {})

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the model folder and its card, and with `push_to_hub=True` pushes it to the hub.

        Args:
            save_directory: A folder that does not exist or is empty.
            **options: As for `huggingface_hub.ModelHubMixin.save_pretrained`, such as
                `model_card_kwargs`, `push_to_hub` and `repo_id`.

        Returns:
            The address of the commit if it was pushed, else None.

        Raises:
            FileExistsError: The folder is not empty.
            TypeError: `options` has a `config`, or JSON cannot hold `info`.
        """
        if options.get("config") is not None:
            raise TypeError("config must be left out: the model folder has its own")
        folder = Path(save_directory)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty, so nothing is written to it")
        address: str | None = super().save_pretrained(save_directory, **options)
        return address

    def _save_pretrained(self, save_directory: Path) -> None:
        save_directory.rmdir()  # made by the mixin; the model folder appears in one step instead
        if isinstance(self.recommender, DenseRecommender):
            self.recommender.save(save_directory, info=self.info)
            return
        save_model(
            save_directory,
            self.recommender.model,
            self.recommender.item_ids,
            popularity=self.recommender.popularity,
            info=self.info,
        )

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
    ) -> HubRecommender:
        """Loads a local folder or a repository of the hub; `from_pretrained` calls it."""
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
        config = read_folder(folder).config
        # The mixin passes on what it has read from config.json, without any check.
        if options.pop("info", config["info"]) != config["info"]:
            raise TypeError("info must be left out: it is read from the folder")
        kind = Recommender if config["class"] == "Seq2Seq" else DenseRecommender
        return cls(kind.load(folder, **options), info=config["info"])

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Returns the card; arguments are those of `model_card`, all optional."""
        name = type(self.recommender.model).__name__
        title = {"title": f"{name} over {len(self.recommender.item_ids):,} items"}
        return model_card(*args, **(kwargs if args else {**title, **kwargs}))


def model_card(
    title: str,
    *,
    text: str = "",
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    **metadata: Any,
) -> ModelCard:
    """Returns a model card with the caller's text and tables.

    Args:
        title: The card's title.
        text: One or more paragraphs below the title, in Markdown.
        tables: Further sections by title, each a table of names and values: the data, the protocol,
            the floors, the metrics with their intervals.
        **metadata: Arguments of `huggingface_hub.ModelCardData`, such as `license` and `datasets`.
    """
    data = ModelCardData(
        **{"library_name": "genrec", "tags": ["recommendation", "semantic-ids"], **metadata}
    )
    parts = [f"# {title}", *([text] if text else [])]
    for section, rows in (tables or {}).items():
        lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
        parts += [f"## {section}", "\n".join(["| | |", "|---|---|", *lines])]
    parts.append(
        "## Use\n\n```py\nfrom genrec.hf import HubRecommender\n\n"
        'recommender = HubRecommender.from_pretrained("OWNER/NAME").recommender\n'
        "answers = recommender.recommend([[...]], top_k=10)  # lists of item ids\n```"
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _cell(value: Any) -> str:
    """Returns a value as the text of one cell of a Markdown table."""
    return " ".join(str(value).replace("|", "\\|").split())
