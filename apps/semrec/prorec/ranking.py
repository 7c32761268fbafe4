"""The best items of many histories; each process of a run ranks a share."""

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
    """Returns the result of `genrec.rank_histories` in all processes; each ranks a share.

    Args:
        model: The generator, as for `genrec.rank_histories`.
        histories: Item rows, oldest first, the same in all processes.
        num_beams: Beams of the search, which is also the number of items per history.
        exact: Whether the whole catalogue is scored instead.
        progress: Called with the number of finished histories of this process.

    Raises:
        RuntimeError: The ranking failed in another process, which prints the error.
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
    is_ranked = ranked.items >= 0  # rows of other processes are not
    items, scores = add_up(
        [(ranked.items + 1).numpy(), torch.where(is_ranked, ranked.scores, 0).numpy()]
    )
    is_missing = torch.from_numpy(items) == 0
    return Ranked(
        items=torch.from_numpy(items) - 1,
        scores=torch.from_numpy(scores).masked_fill(is_missing, -torch.inf),
    )
