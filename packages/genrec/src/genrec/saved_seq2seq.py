"""The model folder of an encoder-decoder: its codes are a file of their own beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from genrec.artifact import ArtifactError, read_folder, reading_config, write_folder
from genrec.item_checks import check_item_ids, check_popularity
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie


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
    """Writes a model folder: beside first, then renamed, so that it is whole or absent.

    Args:
        folder: Where it goes; a model folder that is there is replaced.
        model: The model; its trie's codes go with it.
        item_ids: Id of each item row, no two alike.
        popularity: How often each item was had in training, for users without a history.
        info: Whatever else JSON can hold: where the model comes from, how well it does; keys
            become strings.

    Raises:
        FileExistsError: The folder holds something else than a model.
        TypeError: `info` is not what JSON can hold, or an id is no string.
        ValueError: `item_ids` or `popularity` does not fit the model.
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
    }
    write_folder(
        folder, model, settings=settings, catalogue=catalogue, item_ids=item_ids, info=info or {}
    )


def load_model(
    folder: str | Path, *, codes: Int[Tensor, "items levels"] | None = None
) -> SavedModel:
    """Loads what `save_model` wrote, after checking every file against its digest.

    Args:
        folder: The model folder.
        codes: The catalogue's codes, row by row, to make sure that the model is one of theirs.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete, its
            files do not belong together, it holds a model of another class, or one with other
            codes than `codes`.
    """
    saved = read_folder(folder)
    with reading_config(saved.path):
        class_name = saved.config["class"]
        if class_name != "Seq2Seq":
            raise ArtifactError(
                f"{folder} holds a {class_name}, no Seq2Seq: load it with genrec.load_backbone"
            )
        config = Seq2SeqConfig(**saved.config["model"])
        codebook_sizes = [int(size) for size in saved.config["codebook_sizes"]]
        vector_dim = saved.config["vector_dim"]
    with saved.fitting_together():
        if codes is not None:
            _compare_codes(saved.path, saved.catalogue["codes"], codes.cpu().long())
        trie = Trie.build(saved.catalogue["codes"], codebook_sizes)
        check_item_ids(saved.item_ids, trie.num_items)
        vectors = None if vector_dim is None else torch.zeros(trie.num_items, int(vector_dim))
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten below
            model = Seq2Seq(config, trie, item_vectors=vectors)
        model.load_state_dict(saved.weights)
    return SavedModel(
        model=model.eval(),
        item_ids=saved.item_ids,
        popularity=saved.catalogue.get("popularity"),
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


def _vector_dim(model: Seq2Seq) -> int | None:
    """Returns the width of the item vectors that the model was made with."""
    for projection in (model.history.projection, model.head.projection):
        if projection is not None:
            return projection.in_features
    return None
