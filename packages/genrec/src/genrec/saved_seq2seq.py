"""The model folder of an encoder-decoder: its codes are a file of their own beside the weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from jaxtyping import Int
from torch import Tensor

from genrec.artifact import ModelFolder, read_folder, reading_config, write_folder
from genrec.backbones import Backbone, StateBackbone
from genrec.errors import ArtifactError
from genrec.item_checks import check_codes, check_item_ids, check_popularity
from genrec.item_graph import ItemGraph
from genrec.reading import check_types
from genrec.saved_backbone import backbone_maker, describe_backbone
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie

_GRAPH_SIZES = ("num_edges", "num_kinds", "last_items", "window")


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """What the model folder of an encoder-decoder holds.

    Attributes:
        model: In eval mode, on the CPU.
        item_ids: Id of each item row.
        popularity: How often each item was had in training; None where nobody said.
        info: What `save_model` was called with.
    """

    model: Seq2Seq
    item_ids: list[str]
    popularity: Int[Tensor, " items"] | None
    info: dict[str, Any]


def save_model(
    folder: str | Path,
    model: Seq2Seq,
    item_ids: Sequence[str],
    *,
    popularity: Int[Tensor, " items"] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model folder: beside first, then in one step in its place, whole or not at all.

    Args:
        folder: Where it goes; a model folder that is there is replaced, and of two that are
            written at once the later one stays.
        model: The model; its trie's codes go with it.
        item_ids: Id of each item row, no two alike.
        popularity: How often each item was had in training, for users without a history.
        info: Whatever else JSON can hold: where the model comes from, how well it does; keys
            become strings.

    Raises:
        FileExistsError: The folder holds something else than a model.
        TypeError: `info` is not what JSON can hold, or an id is no string.
        ValueError: `item_ids` or `popularity` does not fit the model, or a weight is not finite.
        OSError: The system refuses, as a full disk does.
    """
    check_item_ids(item_ids, model.trie.num_items)
    catalogue = {"codes": model.trie.codes}
    if popularity is not None:
        check_popularity(popularity, model.trie.num_items)
        catalogue["popularity"] = popularity.long()
    settings = {
        "model": asdict(model.config),
        "codebook_sizes": model.trie.codebook_sizes,
        "vector_dim": _vector_dim(model),
        "item_graph": None if model.item_graph is None else model.item_graph.settings,
        "backbone": None
        if model.backbone is None
        else describe_backbone(model.backbone, catalogue),
    }
    write_folder(
        folder, model, settings=settings, catalogue=catalogue, item_ids=item_ids, info=info or {}
    )


def load_model(
    folder: str | Path,
    *,
    codes: Int[Tensor, "items levels"] | None = None,
    trust: Collection[str] = (),
) -> SavedModel:
    """Loads what `save_model` wrote, after checking every file against its digest.

    Args:
        folder: The model folder.
        codes: The catalogue's codes, row by row, to make sure that the model is one of theirs.
        trust: The packages whose code may run, where the model's backbone is of another package.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete, its
            files do not belong together, it holds a model of another class, one with other codes
            than `codes`, or the backbone of a package that is not trusted.
    """
    saved = read_folder(folder)
    with reading_config(saved.path):
        class_name = saved.config["class"]
        if class_name != "Seq2Seq":
            raise ArtifactError(
                f"{folder} holds a {class_name}, no Seq2Seq: load it with genrec.load_backbone"
            )
        check_types(saved.config["model"], get_type_hints(Seq2SeqConfig))
        check_types(saved.config, {"codebook_sizes": list[int], "vector_dim": int | None})
        config = Seq2SeqConfig(**saved.config["model"])
        codebook_sizes, vector_dim = saved.config["codebook_sizes"], saved.config["vector_dim"]
        edges = saved.config.get("item_graph")  # formats before 4 knew none
        if edges is not None:
            check_types(edges, dict.fromkeys(_GRAPH_SIZES, int))
    backbone_of = None
    if saved.config.get("backbone") is not None:
        with reading_config(saved.path):
            backbone_of = backbone_maker(saved.config["backbone"], saved, trust)
    with saved.fitting_together():
        table, popularity = saved.catalogue["codes"], saved.catalogue.get("popularity")
        check_codes(table)
        if codes is not None:
            _compare_codes(saved.path, table, codes.cpu().long())
        trie = Trie.build(table, codebook_sizes)
        check_item_ids(saved.item_ids, trie.num_items)
        if popularity is not None:
            check_popularity(popularity, trie.num_items)
        saved.check_count(
            num_encoder_layers=config.num_encoder_layers if backbone_of is None else 0,
            num_decoder_layers=config.num_decoder_layers,
        )
        vectors = None if vector_dim is None else _any_vectors(saved, trie.num_items, vector_dim)
        if edges is not None:
            _check_graph(saved, trie.num_items, edges)
        model = saved.restored(
            lambda: Seq2Seq(
                config,
                trie,
                item_vectors=vectors,
                item_graph=None if edges is None else ItemGraph(trie.num_items, **edges),
                backbone=None if backbone_of is None else _reader(backbone_of(trie.num_items)),
            )
        )
        if model.item_graph is not None:
            model.item_graph.check()
    return SavedModel(
        model=model,
        item_ids=saved.item_ids,
        popularity=popularity,
        info=saved.config["info"],
    )


def _compare_codes(folder: Path, saved: Tensor, expected: Tensor) -> None:
    """Refuses a model whose items have other codes than the caller's catalogue."""
    if saved.shape != expected.shape:
        raise ArtifactError(
            f"{folder} is a model of another catalogue: it has {len(saved)} items with codes of "
            f"{saved.shape[1]} levels, given are {len(expected)} with {expected.shape[1]}"
        )
    if not torch.equal(saved, expected):
        row = int((saved != expected).any(dim=1).nonzero()[0])
        raise ArtifactError(
            f"{folder} is a model of another catalogue: the codes of item {row} are "
            f"{saved[row].tolist()}, given are {expected[row].tolist()}"
        )


def _any_vectors(saved: ModelFolder, num_items: int, vector_dim: int) -> Tensor:
    """Returns item vectors to make the model with, of a size that the weights do have.

    Raises:
        ValueError: They have item or node vectors of another width, or none.
    """
    for name in ("history.item_vectors", "node_vectors"):
        if name in saved.weights and saved.weights[name].shape[1:] == (vector_dim,):
            return torch.zeros(num_items, vector_dim)
    raise ValueError(f"vector_dim must be the width of vectors among the weights, got {vector_dim}")


def _reader(backbone: Backbone) -> StateBackbone:
    """Returns a sequence model that has a state after each item, or refuses it.

    Raises:
        ValueError: It has none.
    """
    if not isinstance(backbone, StateBackbone):
        raise ValueError(f"backbone must have states, got a {type(backbone).__name__}")
    return backbone


def _check_graph(saved: ModelFolder, num_items: int, edges: Mapping[str, int]) -> None:
    """Refuses sizes of a graph that the weights do not have, before any is made.

    Raises:
        ValueError: They differ.
    """
    shapes = {
        "offsets": (num_items + 1,),
        "weights": (edges["num_edges"], edges["num_kinds"]),
        "kernel": (2 * edges["window"] + 1, edges["num_kinds"]),
    }
    for name, shape in shapes.items():
        tensor = saved.weights.get(f"item_graph.{name}")
        if tensor is None or tensor.shape != shape:
            raise ValueError(f"item_graph.{name} must be of shape {shape} among the weights")


def _vector_dim(model: Seq2Seq) -> int | None:
    """Returns the width of the item vectors that the model was made with."""
    history = None if model.backbone is not None else model.history.projection
    for projection in (history, model.head.projection):
        if projection is not None:
            return projection.in_features
    return None
