"""Rows distributed to threads: numpy lets others run while it computes, but uses one itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import faiss
from threadpoolctl import ThreadpoolController

_LEAST_ROWS = 4096  # with fewer rows, an additional thread does not pay


def in_threads(work: Callable[[slice], None], num_rows: int) -> None:
    """Calls `work` for slices that cover all rows, in parallel, in as many threads as faiss has.

    Matrix products within `work` use one thread each, so that all calls together use all threads.
    This holds even for one slice: numpy's threads would go on spinning, and faiss would wait.
    """
    count = max(1, min(faiss.omp_get_max_threads(), num_rows // _LEAST_ROWS))
    bounds = [number * num_rows // count for number in range(count + 1)]
    slices = [slice(*ends) for ends in pairwise(bounds)]
    with _controller().limit(limits=1, user_api="blas"):
        if count == 1:
            work(slices[0])
        else:
            list(_pool(count).map(work, slices))


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
