"""The model folder of a sequence model: its class, its settings, and its item tables.

`config.json` describes the item vectors as a tree of item tables. Learned vectors are among the
weights. Stored content is in `catalogue.safetensors`, as `content.0`, `content.1` and so on, in the
order of the tables in the tree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_type_hints

from jaxtyping import Int
from torch import Tensor, nn

from genrec.artifact import ModelFolder, read_folder, reading_config, write_folder
from genrec.backbone_names import plugin_backbone
from genrec.backbones import (
    DIN,
    FDSA,
    HGN,
    HSTU,
    RPG,
    Backbone,
    BERT4Rec,
    Caser,
    CL4SRec,
    CodeTable,
    ConcatenatedTables,
    ContentExperts,
    ContentTable,
    DuoRec,
    EnsRec,
    FeatureTables,
    FMLPRec,
    GRU4Rec,
    ItemTable,
    S3Rec,
    SASRec,
    TedRec,
    UniSRec,
    VQRec,
)
from genrec.config_checks import check_positive
from genrec.errors import ArtifactError
from genrec.item_checks import check_item_ids, check_popularity
from genrec.plugins import is_plugin, package_version, plugin_name, version_note
from genrec.reading import check_types

_LOG = logging.getLogger(__name__)

BACKBONES: Mapping[str, type[Backbone]] = {
    kind.__name__: kind
    for kind in (
        *(SASRec, GRU4Rec, BERT4Rec, DIN, HSTU),
        *(Caser, HGN, FMLPRec, CL4SRec, DuoRec, FDSA, UniSRec),
        *(S3Rec, TedRec, VQRec, RPG, EnsRec),
    )
}
"""The sequence models that a folder can hold, by their names in `config.json`."""


@dataclass(frozen=True, kw_only=True)
class SavedBackbone:
    """The contents of a sequence model's folder.

    Attributes:
        model: The model, in eval mode, on the CPU.
        item_ids: Id of each item row.
        history_length: How many of the newest items of a history the model reads.
        popularity: Number of training interactions of each item; None if it was not saved.
        info: The `info` of `save_backbone`.
    """

    model: Backbone
    item_ids: list[str]
    history_length: int
    popularity: Int[Tensor, " items"] | None
    info: dict[str, Any]


def save_backbone(
    folder: str | Path,
    model: Backbone,
    item_ids: Sequence[str],
    *,
    history_length: int,
    popularity: Int[Tensor, " items"] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes the model folder of a sequence model; it appears in one step, complete or not at all.

    Args:
        folder: The folder; an existing model folder is replaced.
        model: A model of one of `genrec`'s own classes, such as `SASRec`, or a `Backbone` of
            another package, whose name and version are saved. Its item encoder is an `ItemTable`, a
            `ContentTable`, `ContentExperts`, a `CodeTable`, or `ConcatenatedTables` or
            `FeatureTables` of these; their content and codes are saved too.
        item_ids: Id of each item row, all different.
        history_length: How many of the newest items of a history the model reads.
        popularity: Number of training interactions of each item, for users without a history.
        info: Other values that JSON can hold; keys become strings.

    Raises:
        FileExistsError: The folder exists and is no model folder.
        TypeError: The model or its item encoder is of another class, JSON cannot hold `info`, or an
            id is no string.
        ValueError: `history_length` is below 1, `item_ids` or `popularity` does not fit the
            model, or a weight is not finite.
        OSError: The system reports an error, such as a full disk.
    """
    check_positive(history_length=history_length)
    check_item_ids(item_ids, model.num_items)
    catalogue: dict[str, Tensor] = {}
    description = describe_backbone(model, catalogue)
    if popularity is not None:
        check_popularity(popularity, model.num_items)
        catalogue["popularity"] = popularity.long()
    settings = {**description, "num_items": model.num_items, "history_length": history_length}
    write_folder(
        folder, model, settings=settings, catalogue=catalogue, item_ids=item_ids, info=info or {}
    )


def load_backbone(folder: str | Path, *, trust: Collection[str] = ()) -> SavedBackbone:
    """Loads a folder of `save_backbone`, after checking every file against its digest.

    Args:
        folder: The model folder.
        trust: The packages whose code may run, if the model is from another package.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete; its
            files do not belong together; or its model is of another class, or of a package that is
            not trusted.
    """
    saved = read_folder(folder)
    with reading_config(saved.path):
        class_name = saved.config["class"]
        if class_name == "Seq2Seq":
            raise ArtifactError(
                f"{folder} holds a Seq2Seq, no sequence model: load it with genrec.load_model"
            )
        num_items, history_length = saved.config["num_items"], saved.config["history_length"]
        check_types(saved.config, {"num_items": int, "history_length": int})
        check_positive(history_length=history_length)
        maker = backbone_maker(saved.config, saved, trust)
    popularity = saved.catalogue.get("popularity")
    with saved.fitting_together():
        check_item_ids(saved.item_ids, num_items)
        if popularity is not None:
            check_popularity(popularity, num_items)
        model = saved.restored(lambda: maker(num_items))
    return SavedBackbone(
        model=model,
        item_ids=saved.item_ids,
        history_length=history_length,
        popularity=popularity,
        info=saved.config["info"],
    )


def describe_backbone(model: Backbone, catalogue: dict[str, Tensor]) -> dict[str, Any]:
    """Describes a sequence model in values for JSON; adds its stored content to the catalogue.

    Raises:
        TypeError: The model or its item encoder is of a class that cannot be saved.
    """
    settings = getattr(model, "settings", None)
    if not isinstance(settings, dict):
        raise TypeError(
            "model must have its settings to be saved (see genrec.Backbone), got a "
            f"{type(model).__name__} without settings"
        )
    items = _describe(model.item_encoder, catalogue)
    description = {"model": settings, "items": items}
    if BACKBONES.get(type(model).__name__) is type(model):
        return {"class": type(model).__name__, **description}
    name = plugin_name(type(model))
    return {"class": name, "version": package_version(name), **description}


def backbone_maker(
    description: Mapping[str, Any], saved: ModelFolder, trust: Collection[str]
) -> Callable[[int], Backbone]:
    """Returns a function that makes the described model for a number of items.

    Args:
        description: The result of `describe_backbone`.
        saved: The folder, which has the stored content.
        trust: The packages whose code may run.

    Raises:
        ArtifactError: The model's class is unknown, or its package is not trusted.
        KeyError, TypeError: `description` lacks an entry or has a wrong type.
    """
    check_types(description, {"class": str})
    class_name, settings = description["class"], description["model"]
    if is_plugin(class_name):
        return _plugin_maker(description, saved, trust)
    if class_name not in BACKBONES:
        raise ArtifactError(
            f"{saved.path} holds a {class_name}, which this version of genrec does not know: it "
            f"knows {', '.join(BACKBONES)}"
        )
    kind = BACKBONES[class_name]
    check_types(settings, get_type_hints(kind.__init__))

    def make(num_items: int) -> Backbone:
        saved.check_count(
            num_layers=settings.get("num_layers", 1),
            window=settings.get("window", 1),
            attention_sizes=len(settings.get("attention_sizes", ())),
            output_sizes=len(settings.get("output_sizes", ())),
        )
        table = _make(description["items"], saved, num_items, _contents(saved))
        return kind(num_items, item_encoder=table, **settings)

    return make


def _plugin_maker(
    description: Mapping[str, Any], saved: ModelFolder, trust: Collection[str]
) -> Callable[[int], Backbone]:
    """Returns a function that makes a model of another package."""
    name, settings, place = description["class"], description["model"], str(saved.path)
    kind = plugin_backbone(name, trust, kind=Backbone, where=place)
    check_types(description, {"version": str | None, "model": dict[str, Any]})
    note = version_note(name, description["version"], where=place)
    if note is not None:
        _LOG.warning(note)

    def make(num_items: int) -> Backbone:
        table = _make(description["items"], saved, num_items, _contents(saved))
        return kind(num_items, item_encoder=table, **settings)

    return make


def _describe(table: nn.Module, catalogue: dict[str, Tensor]) -> dict[str, Any]:
    """Describes an item table in values for JSON; adds its stored content to the catalogue."""
    if type(table) is ItemTable:
        return {"class": "ItemTable", "dim": table.ids.shape[1]}
    if type(table) in (ContentTable, ContentExperts, CodeTable):
        number = sum(name.startswith("content.") for name in catalogue)
        catalogue[f"content.{number}"] = getattr(
            table, "codes" if type(table) is CodeTable else "features"
        )
    if type(table) is CodeTable:
        sizes = list(table.codebook_sizes)
        return {"class": "CodeTable", "dim": table.vectors.shape[1], "codebook_sizes": sizes}
    if type(table) is ContentTable:
        return {"class": "ContentTable", "dim": table.projection.out_features}
    if type(table) is ContentExperts:
        num_experts, _, dim = table.experts.shape
        options = {"num_experts": num_experts, "with_ids": table.ids is not None}
        return {"class": "ContentExperts", "dim": dim, **options}
    if type(table) is ConcatenatedTables or type(table) is FeatureTables:
        parts = [_describe(part, catalogue) for part in table.tables]
        return {"class": type(table).__name__, "dim": parts[0]["dim"], "tables": parts}
    raise TypeError(
        "item_encoder must be an ItemTable, a ContentTable, ContentExperts, a CodeTable, "
        f"ConcatenatedTables or FeatureTables to be saved, got {type(table).__name__}: copy its "
        "item_vectors() into an ItemTable"
    )


def _contents(saved: ModelFolder) -> Iterator[Tensor]:
    """Yields stored content in the order in which `_describe` added it."""
    return (saved.catalogue[f"content.{number}"] for number in count())


def _make(
    description: Mapping[str, Any], saved: ModelFolder, num_items: int, contents: Iterator[Tensor]
) -> nn.Module:
    """Makes the item table that `_describe` described."""
    hints = {"class": str, "dim": int, "tables": list[dict[str, Any]]}
    hints |= {"num_experts": int, "with_ids": bool, "codebook_sizes": list[int]}
    check_types(description, hints)
    class_name, dim = description["class"], description["dim"]
    if class_name == "ItemTable":
        return ItemTable(num_items, dim)
    if class_name == "ContentTable":
        return ContentTable(next(contents), dim)
    if class_name == "ContentExperts":
        num_experts, with_ids = description["num_experts"], description["with_ids"]
        saved.check_count(num_experts=num_experts)
        return ContentExperts(next(contents), dim, num_experts=num_experts, with_ids=with_ids)
    if class_name == "CodeTable":
        return CodeTable(next(contents), description["codebook_sizes"], dim)
    if class_name in ("ConcatenatedTables", "FeatureTables"):
        saved.check_count(tables=len(description["tables"]))
        parts = [_make(part, saved, num_items, contents) for part in description["tables"]]
        if class_name == "FeatureTables":
            return FeatureTables(parts[0], parts[1:])
        return ConcatenatedTables(parts, dim)
    raise ValueError(f"items must be made of tables that genrec knows, got {class_name!r}")
