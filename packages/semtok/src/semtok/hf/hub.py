"""Tokenizers on the Hugging Face hub: the tokenizer's folder and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semtok.artifact import load_tokenizer, save_tokenizer
from semtok.hf.extra import extra_is_needed
from semtok.inspecting import tokenizer_health
from semtok.phrases import counted
from semtok.tokenizer import Tokenizer
from semtok.verdict import judged

try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
except ModuleNotFoundError as error:
    raise extra_is_needed("tokenizers on the hub", error) from None


class HubTokenizer(ModelHubMixin, library_name="semtok", tags=["semantic-ids"]):
    """A tokenizer with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    The folder is written by `save_tokenizer`, without pickles and with a digest of each file. It
    also holds a model card (README.md) that describes the tokenizer. `load_tokenizer` reads it too.

    Attributes:
        tokenizer: The tokenizer itself.
    """

    tokenizer: Tokenizer

    def __new__(cls, *args: Any, **kwargs: Any) -> HubTokenizer:
        """Skips the mixin's copy of all arguments: the folder has its own configuration."""
        return object.__new__(cls)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"HubTokenizer({self.tokenizer!r})"

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the tokenizer and its model card into a new folder, and may push it to the hub.

        Args:
            save_directory: The folder.
            **options: Options of `huggingface_hub.ModelHubMixin.save_pretrained`, such as
                `push_to_hub` and `repo_id`.

        Raises:
            FileExistsError: If the folder exists and is not empty.
            TypeError: If a configuration is passed: the folder has its own.
        """
        if options.get("config") is not None:
            raise TypeError("config has no effect: a tokenizer's folder has its own")
        folder = Path(save_directory)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder}: exists already")
        self._hub_mixin_config = None  # the mixin's configuration of a folder that was read
        address: str | None = super().save_pretrained(save_directory, **options)
        return address

    def _save_pretrained(self, save_directory: Path) -> None:
        save_directory.rmdir()  # the mixin has made it; the tokenizer's appears in one step
        save_tokenizer(save_directory, self.tokenizer)

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
        **model_kwargs: Any,
    ) -> HubTokenizer:
        if model_kwargs:
            raise TypeError(f"{next(iter(model_kwargs))} is not an option of a tokenizer")
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
        return cls(load_tokenizer(folder))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, which describes the tokenizer.

        Args:
            *args: Must be empty: the text of the card is fixed.
            **kwargs: Fields of the card's metadata, such as `license` and `datasets`.

        Raises:
            TypeError: If there are positional arguments.
        """
        if args:
            raise TypeError("a tokenizer's model card takes fields of its metadata by name only")
        about = {"library_name": "semtok", "tags": ["semantic-ids"], **kwargs}
        data = ModelCardData(**about)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(self.tokenizer)}")


def card_text(tokenizer: Tokenizer) -> str:
    """The text of a tokenizer's model card, in Markdown."""
    table, health = tokenizer.semantic_ids, tokenizer_health(tokenizer)
    views = ", ".join(f"`{view.name}` ({_source(view.source)})" for view in tokenizer.views)
    facts = {
        "Items": f"{len(table):,}",
        "Quantizer": f"`{type(tokenizer.quantizer).__name__}`",
        "Views": views,
        "Levels": f"{table.num_levels}, of {', '.join(map(str, table.codebook_sizes))} codes",
        "Collisions before they were resolved": f"{health.collision_rate:.2%} of items",
        "Collisions as the table is": (
            f"{health.resolved_collision_rate:.2%} of items (policy `{tokenizer.policy}`)"
        ),
    }
    if health.neighbour_overlap is not None:
        facts["Neighbour overlap at 10"] = f"{health.neighbour_overlap:.2%}"
    facts |= {f"`{name}`": f"`{value}`" for name, value in tokenizer.info.items()}
    lines = [
        "# Semantic IDs",
        "",
        f"A tokenizer that gives items semantic IDs: {counted(len(table), 'item')} have theirs, "
        "and items that come later get codes that fit in. "
        f"{judged(health, table).sentence}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in facts.items()),
        "",
        "| level | codes | used | utilisation | perplexity | distortion |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for number, level in enumerate(health.levels, start=1):
        distortion = "" if level.distortion is None else f"{level.distortion:.4g}"
        lines.append(
            f"| {number} | {level.codebook_size:,} | {level.used:,} | {level.utilisation:.1%} | "
            f"{level.perplexity:.1f} | {distortion} |"
        )
    lines += [
        "",
        "```python",
        "from semtok.hf import HubTokenizer",
        "",
        'tokenizer = HubTokenizer.from_pretrained("USER/NAME").tokenizer',
        "print(tokenizer.semantic_ids.codes[0])",
        "```",
        "",
    ]
    return "\n".join(lines)


def _source(source: object) -> str:
    return "vectors made elsewhere" if source is None else type(source).__name__


def _cell(text: str) -> str:
    """A text that does not break its table cell."""
    return " ".join(text.replace("|", "\\|").split())
