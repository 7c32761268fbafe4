"""The best items of many histories, of which each process of a run ranks a share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from evalrec.distributed import add_up, together
from genrec import Ensemble, Ranked, Seq2Seq, rank_histories

from semrec.shared import processes


def ranked_by_all(
    model: Seq2Seq | Ensemble,
    histories: Sequence[Any],
    *,
    num_beams: int,
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Ranked:
    """Returns what `genrec.rank_histories` does, in all processes; each ranks its share.

    Args:
        model: As there, and so the other arguments.
        histories: Item rows, oldest first, the same in all processes.
        num_beams: Beams of the search, and items a history.
        exact: Whether the whole catalogue is scored instead.
        progress: Called with the number of histories done, of this process's share.

    Raises:
        RuntimeError: It failed in another process, where the message is.
    """
    shards = processes.count()
    with together():
        ranked = rank_histories(
            model,
            histories,
            num_beams=num_beams,
            exact=exact,
            progress=progress,
            shard=processes.number(),
            shards=shards,
        )
    if shards == 1:
        return ranked
    is_ranked = ranked.items >= 0  # what other processes rank is not
    items, scores = add_up(
        [(ranked.items + 1).numpy(), torch.where(is_ranked, ranked.scores, 0).numpy()]
    )
    is_missing = torch.from_numpy(items) == 0
    return Ranked(
        items=torch.from_numpy(items) - 1,
        scores=torch.from_numpy(scores).masked_fill(is_missing, -torch.inf),
    )
