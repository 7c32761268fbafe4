"""Batches are made ahead of their use, by one background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

READY = 2
"""Number of batches that are made ahead."""


@dataclass(frozen=True)
class _Made(Generic[T]):
    """A batch."""

    batch: T


@dataclass(frozen=True)
class _Ended:
    """The end of the batches, by an error or because all have been made."""

    error: BaseException | None


@contextmanager
def made_ahead(make: Callable[[], Iterable[T]], ready: int = READY) -> Iterator[Iterator[T]]:
    """Yields an iterator over the batches of `make`; a thread makes the next ones meanwhile.

    Args:
        make: Returns the batches; the thread calls it and iterates over its result.
        ready: Largest number of batches that are made and not yet used.

    Yields:
        The iterator. It raises an error of the thread, with the thread's traceback. The thread ends
        with the block, also after an error; the block waits at most for the current batch.
    """
    made: SimpleQueue[_Made[T] | _Ended] = SimpleQueue()
    room = threading.Semaphore(ready)
    is_over = threading.Event()

    def fill() -> None:
        error: BaseException | None = None
        try:
            batches = iter(make())
            while True:
                room.acquire()
                if is_over.is_set():
                    return
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                made.put(_Made(batch))
        except BaseException as raised:  # raised again by the iterator
            error = raised
        made.put(_Ended(error))

    def use() -> Iterator[T]:
        while True:
            entry = made.get()
            if isinstance(entry, _Ended):
                if entry.error is not None:
                    raise entry.error
                return
            room.release()
            yield entry.batch

    thread = threading.Thread(target=fill, name="genrec batches", daemon=True)
    thread.start()
    try:
        yield use()
    finally:
        is_over.set()
        room.release()
        thread.join()
