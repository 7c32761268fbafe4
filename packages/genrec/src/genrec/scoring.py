"""Scores and ranked items of a trained model for any number of histories."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from genrec.backbones import Backbone
from genrec.decoding import Ranked, beam_search, exact_scores
from genrec.liger import LIGER
from genrec.seq2seq import Seq2Seq
from genrec.sequences import query_batches
from genrec.streams import Ensemble
from genrec.windows import Histories

_HISTORIES_AT_A_TIME = 128


def dense_scorer(
    model: Backbone, history_length: int
) -> Callable[[Histories], Float[Tensor, "batch items"]]:
    """Returns a function from histories to the scores of all items, for a full ranking.

    Args:
        model: The model; it must be in eval mode whenever the function is called.
        history_length: How many of the newest items of a history are read.

    Returns:
        A function that takes histories (lists of item rows, oldest first) and scores all of them in
        one batch, on the model's device and without gradients. It raises ValueError if the model is
        in training mode, or a history holds a number that is no item row.
    """

    @torch.inference_mode()
    def score(histories: Histories) -> Float[Tensor, "batch items"]:
        if model.training:
            raise ValueError("model must be in eval mode, got training mode: call model.eval()")
        device = next(model.parameters()).device
        if not len(histories):
            return torch.empty(0, model.num_items, device=device)
        ((_, history),) = query_batches(
            histories,
            num_items=model.num_items,
            history_length=history_length,
            batch_size=len(histories),
        )
        return model.score(history.to(device))

    return score


@torch.inference_mode()
def rank_histories(
    model: Seq2Seq | Ensemble | LIGER,
    histories: Histories,
    *,
    num_beams: int,
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
    shard: int = 0,
    shards: int = 1,
) -> Ranked:
    """Returns the best items of any number of histories, in bounded memory.

    Histories of similar length are ranked in one batch, which saves padding; the result has the
    order of `histories`.

    Args:
        model: An encoder-decoder over one code table, an `Ensemble` or a `LIGER`, in eval mode. The
            two models of a `LIGER` read as many items as its generator.
        histories: Item rows, oldest first.
        num_beams: Beams of the search, and number of items per history; at most the catalogue.
        exact: Whether to score the whole catalogue instead, so that no good item is lost as in a
            beam search; for a `Seq2Seq` only.
        progress: Called after each batch with the number of histories done, and of all histories.
        shard: Number of the share of histories that is ranked, for one of several processes; the
            other histories get items of -1 and scores of minus infinity.
        shards: Number of shares.

    Returns:
        The ranked items of every history, on the CPU.

    Raises:
        ValueError: The model is in training mode, `num_beams` is below 1, `exact` is True for an
            `Ensemble` or a `LIGER`, or a history holds a number that is no item row.
    """
    stream: Seq2Seq
    if isinstance(model, Seq2Seq):
        stream = model
    elif isinstance(model, Ensemble):
        stream = model.streams[0]
    else:
        stream = model.generator
    num_items, device = stream.trie.num_items, stream.trie.device
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, got {num_beams}")
    top_k, done = min(num_beams, num_items), 0
    rank = _ranker(model, top_k, exact)
    items = torch.full((len(histories), top_k), -1)
    scores = torch.full((len(histories), top_k), -torch.inf)
    for rows, history in query_batches(
        histories,
        num_items=num_items,
        history_length=stream.config.history_length,
        batch_size=_HISTORIES_AT_A_TIME,
        by_length=True,
        shard=shard,
        shards=shards,
    ):
        ranked = rank(history.to(device))
        items[rows], scores[rows] = ranked.items.cpu(), ranked.scores.cpu()
        done += len(rows)
        if progress is not None:
            progress(done, len(histories))
    return Ranked(items=items, scores=scores)


def _ranker(
    model: Seq2Seq | Ensemble | LIGER, top_k: int, exact: bool
) -> Callable[[Tensor], Ranked]:
    """Returns a function that ranks a batch; the tables for decoding are computed only once."""
    if exact and not isinstance(model, Seq2Seq):
        kind = "an Ensemble" if isinstance(model, Ensemble) else "a LIGER"
        raise ValueError(
            f"exact must be False for {kind}, got True: it scores only items that it finds"
        )
    if isinstance(model, LIGER):
        pair, generator_tables = model, model.generator.tables()
        return lambda history: pair.rank(
            history, num_beams=top_k, top_k=top_k, tables=generator_tables
        )
    if isinstance(model, Ensemble):
        streams, stream_tables = model, model.tables()
        return lambda history: streams.beam_search(
            history, num_beams=top_k, top_k=top_k, tables=stream_tables
        )
    single, tables = model, model.tables()
    if exact:
        return lambda history: Ranked.best(
            exact_scores(single, single.trie, history, tables=tables), top_k
        )
    return lambda history: beam_search(
        single, single.trie, history, num_beams=top_k, top_k=top_k, tables=tables
    )
