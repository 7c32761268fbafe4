"""A model that answers histories of item ids with item ids and scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrec.answers import Answer, Answers, Recommendation, Request
from genrec.artifact import load_model
from genrec.backbones import Backbone
from genrec.catalogue import with_catalogue
from genrec.decoding import Ranked, beam_search
from genrec.item_checks import check_item_ids
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
    """

    def __init__(
        self,
        model: Seq2Seq,
        item_ids: Sequence[str],
        *,
        popularity: Int[Tensor, " items"] | None = None,
    ) -> None:
        super().__init__(
            item_ids,
            num_items=model.trie.num_items,
            history_length=model.config.history_length,
            device=model.trie.device,
            popularity=popularity,
        )
        self.model = model.eval()
        self._tables = model.tables()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        codes: Int[Tensor, "items levels"] | None = None,
    ) -> Recommender:
        """Loads a model folder.

        Args:
            folder: What `save_model` wrote.
            device: Where the model goes.
            codes: The catalogue's codes, to make sure that the model is one of theirs.

        Raises:
            ArtifactError: The folder cannot be used, or is of another catalogue.
        """
        saved = load_model(folder, codes=codes)
        return cls(saved.model.to(device), saved.item_ids, popularity=saved.popularity)

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
        return Recommender(model, item_ids, popularity=popularity)

    def recommend(
        self,
        histories: Sequence[Sequence[str] | Request],
        *,
        top_k: int = 10,
        num_beams: int = 100,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> list[Answer]:
        """Answers several histories.

        Args:
            histories: Item ids, oldest first; or requests, with lists of their own.
            top_k: Items an answer, at most `num_beams`.
            num_beams: Prefixes that the search keeps.
            exclude_seen: Whether items of the history are left out of its answer.
            allow: Ids of the items that alone may be returned to anybody, as those in stock; None
                for all. Ids that the model does not know, here and in `deny`, change nothing.
            deny: Ids of items that must not be returned to anybody.
            unknown: Whether ids of a history that the model does not know are skipped and counted,
                or refused.
            batch_size: Histories decoded together.

        Returns:
            One answer a history, in order; shorter than `top_k` only where fewer items may be
            returned, or, for a history without any known item, fewer of them were ever had.

        Raises:
            ValueError: An id is unknown and `unknown` is "error", or a number is out of range.
        """
        return list(
            self.stream(
                histories,
                top_k=top_k,
                num_beams=num_beams,
                exclude_seen=exclude_seen,
                allow=allow,
                deny=deny,
                unknown=unknown,
                batch_size=batch_size,
            )
        )

    def stream(
        self,
        histories: Iterable[Sequence[str] | Request],
        *,
        top_k: int = 10,
        num_beams: int = 100,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> Iterator[Answer]:
        """Answers histories as they come, a batch at a time; arguments as for `recommend`."""
        if top_k > num_beams:
            raise ValueError(
                f"top_k must be at least 1 and at most num_beams, got {top_k} and {num_beams}"
            )

        def rank(history: Tensor, exclude: Tensor | None, allowed: Tensor | None) -> Ranked:
            return beam_search(
                self.model,
                self.model.trie,
                history,
                num_beams=num_beams,
                top_k=top_k,
                exclude=exclude,
                allow=allowed,
                tables=self._tables,
            )

        return self.answers(
            histories,
            rank,
            top_k=top_k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            unknown=unknown,
            batch_size=batch_size,
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

    def recommend(
        self,
        histories: Sequence[Sequence[str] | Request],
        *,
        top_k: int = 10,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> list[Answer]:
        """Answers several histories; the arguments are those of `Recommender.recommend`."""
        return list(
            self.stream(
                histories,
                top_k=top_k,
                exclude_seen=exclude_seen,
                allow=allow,
                deny=deny,
                unknown=unknown,
                batch_size=batch_size,
            )
        )

    def stream(
        self,
        histories: Iterable[Sequence[str] | Request],
        *,
        top_k: int = 10,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> Iterator[Answer]:
        """Answers histories as they come, a batch at a time; arguments as for `recommend`."""

        def rank(history: Tensor, exclude: Tensor | None, allowed: Tensor | None) -> Ranked:
            return self._rank(history, exclude, allowed, top_k)

        return self.answers(
            histories,
            rank,
            top_k=top_k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            unknown=unknown,
            batch_size=batch_size,
        )

    @torch.inference_mode()
    def _rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns the best of the items allowed.

        Args:
            history: Padded histories.
            exclude: Items to leave out, padded.
            allowed: One mark an item, or padded items for each history.
            top_k: How many.
        """
        scores = self.model.score(history).float().log_softmax(dim=1)
        permitted = self.permitted(len(scores), exclude, allowed)
        return Ranked.best(scores, top_k, permitted=permitted)
