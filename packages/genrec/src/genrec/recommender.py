"""A model that answers histories of item ids with item ids and scores."""

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
    """Answers histories of item ids, in batches, on the device that it was loaded to.

    Args:
        model: The model; put into eval mode.
        item_ids: Id of each item row.
        popularity: How often each item was had. With it, a history without any known item is
            answered with the items had most, none that was never had; without it, or where none of
            the items that may be returned was ever had, by the model, from nothing.
        num_beams: Prefixes that the search keeps; as many as items are asked for, where those are
            more.

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
            folder: What `save_model` wrote.
            device: Where the model goes.
            codes: The catalogue's codes, to make sure that the model is one of theirs.
            num_beams: As for the class.
            trust: The packages whose code may run, where the backbone is of another package.

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
        """Returns a recommender of another catalogue by the same model, without any training.

        Items are told by their ids; those added are recommended, and read in histories, by their
        codes. This recommender stays as it is and can answer until the new one takes its place;
        they share the weights. What a model cannot do with new items is said at `with_catalogue`.

        Args:
            codes: Codes of the new catalogue's items, from the tokenizer that made the old ones.
            item_ids: Id of each row.
            popularity: How often each item was had.
            item_vectors: One vector an item, where new items need theirs.

        Raises:
            ValueError: The codebooks differ, the ids or the popularity do not fit the codes, or the
                model knows nothing of some new items.
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
        """Returns each history's best items, found by beam search; arguments as for `Answers`."""
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
    """Answers histories of item ids by a model that scores the whole catalogue.

    Scores are log-probabilities: the model's scores through a log-softmax over all items.

    Args:
        model: The model; put into eval mode. Its item vectors are computed anew for each batch.
        item_ids: Id of each item row.
        history_length: Most items of a history that the model reads, the newest ones.
        popularity: How often each item was had. With it, a history without any known item is
            answered with the items had most, none that was never had; without it, or where none of
            the items that may be returned was ever had, by the model, from nothing.
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
            folder: What `save` or `save_backbone` wrote.
            device: Where the model goes.
            trust: The packages whose code may run, where the model is of another package.

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
            folder: Where it goes; a model folder that is there is replaced.
            info: Whatever else JSON can hold.

        Raises:
            FileExistsError: The folder holds something else than a model.
            TypeError: The model or its item encoder is of a class that no folder can hold, or
                `info` is not what JSON can hold.
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
        """Returns each history's best items, of all of them; arguments as for `Answers`."""
        scores = self.model.score(history).float().log_softmax(dim=1)
        permitted = self.permitted(len(scores), exclude, allowed)
        return Ranked.best(scores, top_k, permitted=permitted)
