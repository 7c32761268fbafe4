"""Recommendation with several code tables: by whole models, or decoders of one encoder (EAGER)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrec.decoding import Ranked, search
from genrec.item_checks import check_rows, first_of_each
from genrec.masks import Mask
from genrec.model_walk import ModelWalk
from genrec.seq2seq import Memory, Seq2Seq, Seq2SeqOutput, Tables
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie


class Ensemble(nn.Module):
    """Several encoder-decoders over different code tables of the same items, ranked together.

    Each finds items in its own trie; all of them score the items that any of them finds.

    Args:
        models: At least two, of the same items in the same rows.

    Raises:
        ValueError: There are fewer than two, or they have different numbers of items.
    """

    def __init__(self, models: Sequence[Seq2Seq]) -> None:
        super().__init__()
        _check_items([model.trie for model in models])
        self.models = nn.ModuleList(models)

    @property
    def streams(self) -> list[Seq2Seq]:
        """The models, one per code table."""
        return [model for model in self.models if isinstance(model, Seq2Seq)]

    def memories(self, history: Int[Tensor, "batch length"]) -> list[Memory]:
        """Returns the histories as encoded by each model."""
        return [stream.encode(history) for stream in self.streams]

    def tables(self) -> list[Tables]:
        """Returns the tables for decoding, stream by stream."""
        return [stream.tables() for stream in self.streams]

    @torch.inference_mode()
    def beam_search(
        self,
        history: Int[Tensor, "batch length"],
        *,
        num_beams: int = 100,
        top_k: int = 10,
        candidates: int | None = None,
        exclude: Int[Tensor, "batch m"] | None = None,
        allow: Int[Tensor, "batch n"] | Bool[Tensor, " items"] | None = None,
        tables: Sequence[Tables] | None = None,
    ) -> Ranked:
        """Returns each history's best items among those that any stream finds.

        Each stream searches by itself. All streams score the union of the items found, and the
        items are ranked by the mean of these log-probabilities.

        Args:
            history: Item rows, oldest first, padded with the number of items.
            num_beams: Prefixes that each stream keeps.
            top_k: Items returned, at most `candidates`.
            candidates: Items that each stream contributes; at most `num_beams`, which is also the
                default.
            exclude: As in `genrec.beam_search`.
            allow: As in `genrec.beam_search`.
            tables: `tables()`; pass it if you make many calls with the same weights.

        Returns:
            The ranked items; scores are means of log-probabilities.

        Raises:
            ValueError: The model is in training mode, a number is out of range, or a list holds
                a number that is no item row.
        """
        candidates = num_beams if candidates is None else candidates
        if not 1 <= top_k <= candidates <= num_beams:
            raise ValueError(
                "top_k must be at least 1, at most candidates, and these at most num_beams, got "
                f"{top_k}, {candidates} and {num_beams}"
            )
        if self.training:
            raise ValueError("model must be in eval mode, got training mode: call model.eval()")
        check_rows("history", history, self.streams[0].trie.num_items)
        tables = self.tables() if tables is None else tables
        with torch.autocast(history.device.type, enabled=False):
            walks, lists = [], []
            for stream, memory, table in zip(
                self.streams, self.memories(history), tables, strict=True
            ):
                mask = Mask.of(stream.trie, len(history), exclude, allow)
                walk = ModelWalk(stream, stream.trie, memory, tables=table, mask=mask)
                walks.append(walk)
                lists.append(search(walk, num_beams=num_beams, top_k=candidates))
            return _ranked_by_all(walks, lists, top_k)


class Streams(Ensemble):
    """Several decoders that read the states of one encoder and generate codes of different tables.

    Only the first stream reads the history. If it reads codes, they are the first table's.

    Args:
        config: Sizes and choices, the same for every stream.
        tries: The same items under each code table, in the same rows.
        item_vectors: As for `Seq2Seq`.

    Raises:
        ValueError: There are fewer than two tries, or they have different numbers of items; or
            `history_input` is "backbone".
    """

    def __init__(
        self,
        config: Seq2SeqConfig,
        tries: Sequence[Trie],
        *,
        item_vectors: Float[Tensor, "items vector_dim"] | None = None,
    ) -> None:
        _check_items(tries)
        if config.history_input == "backbone":
            raise ValueError('history_input must not be "backbone" for several streams')
        models = [Seq2Seq(config, trie, item_vectors=item_vectors) for trie in tries]
        for model in models[1:]:
            for name in ("history", "encoder", "encoder_norm"):
                delattr(model, name)
                # Not registered a second time: the state dict holds each weight once.
                model.__dict__[name] = getattr(models[0], name)
        super().__init__(models)

    def memories(self, history: Int[Tensor, "batch length"]) -> list[Memory]:
        """Returns the histories as encoded by the shared encoder, once for each stream."""
        return [self.streams[0].encode(history)] * len(self.streams)

    def forward(
        self, history: Int[Tensor, "batch length"], targets: Int[Tensor, " batch"]
    ) -> list[Seq2SeqOutput]:
        """Scores the target of each history by each stream; arguments as in `Seq2Seq.forward`."""
        memory = self.streams[0].encode(history)
        return [stream.decode(memory, targets) for stream in self.streams]


def _check_items(tries: Sequence[Trie]) -> None:
    counts = [trie.num_items for trie in tries]
    if len(counts) < 2 or len(set(counts)) > 1:
        raise ValueError(
            f"tries must be at least two, of equally many items, got numbers of items {counts}"
        )


def _ranked_by_all(walks: Sequence[ModelWalk], lists: Sequence[Ranked], top_k: int) -> Ranked:
    """Ranks the union of the streams' lists by all streams; no stream scores its own list again."""
    items = torch.cat([ranked.items for ranked in lists], dim=1)  # [users, candidates]
    total = torch.zeros(items.shape, device=items.device)
    for number, walk in enumerate(walks):
        others = [ranked.items for other, ranked in enumerate(lists) if other != number]
        rescored = walk.score(torch.cat(others, dim=1).clamp(min=0))
        scores = list(torch.split(rescored, [other.shape[1] for other in others], dim=1))
        scores.insert(number, lists[number].scores)
        total += torch.cat(scores, dim=1)
    # Sorted by item, so that the order of candidates with equal scores depends on no stream.
    items, order = items.sort(dim=1, stable=True)
    missing = first_of_each(items, -1) < 0  # [users, candidates], repeats among them
    total = (total / len(walks)).gather(1, order).masked_fill(missing, -torch.inf)
    return Ranked.best(total, top_k, items=items)
