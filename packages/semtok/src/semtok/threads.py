"""One thread for sums whose last bits depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Makes BLAS and LAPACK use one thread, in all libraries that are loaded already."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
