"""Recommenders: they take histories of item ids and return item ids and scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrec.answers import Answers
from genrec.backbones import Backbone
from genrec.catalogue import with_catalogue
from genrec.decoding import Ranked, beam_search
from genrec.item_checks import check_item_ids
from genrec.requests import Answer, Recommendation, Request
from genrec.saved_backbone import load_backbone, save_backbone
from genrec.saved_seq2seq import load_model
from genrec.seq2seq import Seq2Seq
from genrec.trie import Trie

__all__ = ["Answer", "DenseRecommender", "Recommendation", "Recommender", "Request"]


class Recommender(Answers):
    """Recommends by beam search with an encoder-decoder, in batches, on the model's device.

    Args:
        model: The model; it is put into eval mode.
        item_ids: Id of each item row.
        popularity: Number of interactions of each item. With it, a history without any known item
            gets the most popular items, each with at least one interaction. Without it, or if no
            such item may be returned, the model recommends from an empty history.
        num_beams: Prefixes that the search keeps; at least `top_k` are kept.

    Raises:
        ValueError: `num_beams` is below 1, or the ids or the popularity do not fit the model.
    """

    num_beams: int

    def __init__(
        self,
        model: Seq2Seq,
        item_ids: Sequence[str],
        *,
        popularity: Int[Tensor, " items"] | None = None,
        num_beams: int = 100,
    ) -> None:
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, got {num_beams}")
        super().__init__(
            item_ids,
            num_items=model.trie.num_items,
            history_length=model.config.history_length,
            device=model.trie.device,
            popularity=popularity,
        )
        self.model = model.eval()
        self._tables = model.tables()
        self.num_beams = num_beams

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        codes: Int[Tensor, "items levels"] | None = None,
        num_beams: int = 100,
        trust: Collection[str] = (),
    ) -> Recommender:
        """Loads a model folder.

        Args:
            folder: A folder of `save_model`.
            device: Device for the model.
            codes: The catalogue's codes; the model must have the same codes.
            num_beams: As in the constructor.
            trust: The packages whose code may run, if the backbone is from another package.

        Raises:
            ArtifactError: The folder cannot be used, or is of another catalogue or kind of model.
        """
        saved = load_model(folder, codes=codes, trust=trust)
        return cls(
            saved.model.to(device),
            saved.item_ids,
            popularity=saved.popularity,
            num_beams=num_beams,
        )

    def with_catalogue(
        self,
        codes: Int[Tensor, "items levels"],
        item_ids: Sequence[str],
        *,
        popularity: Int[Tensor, " items"] | None = None,
        item_vectors: Float[Tensor, "items vector_dim"] | None = None,
    ) -> Recommender:
        """Returns a recommender for another catalogue with the same model, without training.

        Items are identified by their ids. New items are recommended, and read in histories, by
        their codes. This recommender does not change, so it can be used until the new one replaces
        it; they share the weights. `genrec.with_catalogue` lists the limits for new items.

        Args:
            codes: Codes of the new catalogue's items, from the tokenizer that made the old ones.
            item_ids: Id of each row.
            popularity: Number of interactions of each item.
            item_vectors: One vector per item, if new items need them.

        Raises:
            ValueError: The codebooks differ, the ids or the popularity do not fit the codes, or the
                model has learned nothing about some new items.
        """
        check_item_ids(item_ids, len(codes))
        trie = Trie.build(codes.to(self.device), self.model.trie.codebook_sizes)
        rows = [self.rows.get(item_id, -1) for item_id in item_ids]
        old_rows = torch.tensor(rows, dtype=torch.long, device=self.device)
        model = with_catalogue(self.model, trie, old_rows, item_vectors=item_vectors)
        return Recommender(model, item_ids, popularity=popularity, num_beams=self.num_beams)

    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns each history's best items by beam search; arguments as in `Answers.rank`."""
        return beam_search(
            self.model,
            self.model.trie,
            history,
            num_beams=max(self.num_beams, top_k),
            top_k=top_k,
            exclude=exclude,
            allow=allowed,
            tables=self._tables,
        )


class DenseRecommender(Answers):
    """Recommends with a model that scores the whole catalogue.

    Scores are log-probabilities: a log-softmax of the model's scores over all items.

    Args:
        model: The model; it is put into eval mode. Its item vectors are computed for each batch.
        item_ids: Id of each item row.
        history_length: How many of the newest items of a history the model reads.
        popularity: Number of interactions of each item. With it, a history without any known item
            gets the most popular items, each with at least one interaction. Without it, or if no
            such item may be returned, the model recommends from an empty history.

    Raises:
        ValueError: The ids or the popularity do not fit the model.
    """

    def __init__(
        self,
        model: Backbone,
        item_ids: Sequence[str],
        *,
        history_length: int,
        popularity: Int[Tensor, " items"] | None = None,
    ) -> None:
        super().__init__(
            item_ids,
            num_items=model.num_items,
            history_length=history_length,
            device=next(model.parameters()).device,
            popularity=popularity,
        )
        self.model = model.eval()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        trust: Collection[str] = (),
    ) -> DenseRecommender:
        """Loads a model folder.

        Args:
            folder: A folder of `save` or `save_backbone`.
            device: Device for the model.
            trust: The packages whose code may run, if the model is from another package.

        Raises:
            ArtifactError: The folder cannot be used, or is of another kind of model.
        """
        saved = load_backbone(folder, trust=trust)
        return cls(
            saved.model.to(device),
            saved.item_ids,
            history_length=saved.history_length,
            popularity=saved.popularity,
        )

    def save(self, folder: str | Path, *, info: Mapping[str, Any] | None = None) -> None:
        """Writes the model folder that `load` reads.

        Args:
            folder: The folder; an existing model folder is replaced.
            info: Other values that JSON can hold.

        Raises:
            FileExistsError: The folder exists and is no model folder.
            TypeError: The model or its item encoder is of a class that cannot be saved, or JSON
                cannot hold `info`.
        """
        save_backbone(
            folder,
            self.model,
            self.item_ids,
            history_length=self.history_length,
            popularity=self.popularity,
            info=info,
        )

    @torch.inference_mode()
    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns each history's best items by scores of all; arguments as in `Answers.rank`."""
        scores = self.model.score(history).float().log_softmax(dim=1)
        permitted = self.permitted(len(scores), exclude, allowed)
        return Ranked.best(scores, top_k, permitted=permitted)
