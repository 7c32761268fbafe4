"""The model folder of an encoder-decoder; its codes are in the file of the catalogue."""

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
    """The contents of an encoder-decoder's model folder.

    Attributes:
        model: The model, in eval mode, on the CPU.
        item_ids: Id of each item row.
        popularity: Number of training interactions of each item; None if it was not saved.
        info: The `info` of `save_model`.
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
    """Writes a model folder; it appears in one step, complete or not at all.

    Args:
        folder: The folder; an existing model folder is replaced. If two programs write it at once,
            the later one wins.
        model: The model; the codes of its trie are saved too.
        item_ids: Id of each item row, all different.
        popularity: Number of training interactions of each item, for users without a history.
        info: Other values that JSON can hold, such as the origin of the model and its metrics;
            keys become strings.

    Raises:
        FileExistsError: The folder exists and is no model folder.
        TypeError: JSON cannot hold `info`, or an id is no string.
        ValueError: `item_ids` or `popularity` does not fit the model, or a weight is not finite.
        OSError: The system reports an error, such as a full disk.
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
    """Loads a folder of `save_model`, after checking every file against its digest.

    Args:
        folder: The model folder.
        codes: The catalogue's codes, row by row; the model must have the same codes.
        trust: The packages whose code may run, if the model's backbone is from another package.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete; its
            files do not belong together; or it holds a model of another class, a model with other
            codes than `codes`, or a backbone of a package that is not trusted.
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
        edges = saved.config.get("item_graph")  # formats before 4 have none
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
    """Checks that the saved items have the codes of the caller's catalogue.

    Raises:
        ArtifactError: They have other codes.
    """
    if saved.shape != expected.shape:
        raise ArtifactError(
            f"{folder} is a model of another catalogue: it has {len(saved)} items with codes of "
            f"{saved.shape[1]} levels, but codes has {len(expected)} with {expected.shape[1]}"
        )
    if not torch.equal(saved, expected):
        row = int((saved != expected).any(dim=1).nonzero()[0])
        raise ArtifactError(
            f"{folder} is a model of another catalogue: the codes of item {row} are "
            f"{saved[row].tolist()}, but codes has {expected[row].tolist()}"
        )


def _any_vectors(saved: ModelFolder, num_items: int, vector_dim: int) -> Tensor:
    """Returns zeros as item vectors to make the model with, as wide as those among the weights.

    Raises:
        ValueError: The weights have no item or node vectors of this width.
    """
    for name in ("history.item_vectors", "node_vectors"):
        if name in saved.weights and saved.weights[name].shape[1:] == (vector_dim,):
            return torch.zeros(num_items, vector_dim)
    raise ValueError(f"vector_dim must be the width of vectors among the weights, got {vector_dim}")


def _reader(backbone: Backbone) -> StateBackbone:
    """Returns a sequence model after checking that it has a state after each item.

    Raises:
        ValueError: It has no states.
    """
    if not isinstance(backbone, StateBackbone):
        raise ValueError(f"backbone must have states, got a {type(backbone).__name__}")
    return backbone


def _check_graph(saved: ModelFolder, num_items: int, edges: Mapping[str, int]) -> None:
    """Checks the sizes of a graph against the weights, before the graph is made.

    Raises:
        ValueError: The sizes differ.
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
