"""One thread for the sums whose last bits would follow the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Has BLAS and LAPACK use one thread, in all libraries that are loaded by now."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
