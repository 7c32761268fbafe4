"""Batches made ready ahead of their use, by one thread in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

READY = 2
"""Batches that are made ready ahead."""


@dataclass(frozen=True)
class _Made(Generic[T]):
    """A batch."""

    batch: T


@dataclass(frozen=True)
class _Ended:
    """There are no more batches, because of an error or because all have been made."""

    error: BaseException | None


@contextmanager
def made_ahead(make: Callable[[], Iterable[T]], ready: int = READY) -> Iterator[Iterator[T]]:
    """Yields an iterator over what `make` gives, of which the next ones are made meanwhile.

    Args:
        make: Called in a thread of its own, in which its result is gone through as well.
        ready: Most that are ready and not yet used.

    Yields:
        The iterator. What goes wrong in the thread is raised by it, with the thread's traceback.
        At the end of the block, whatever ends it, the thread has ended: at most the batch that it
        is at is waited for.
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
        except BaseException as raised:  # raised again where the batches are used
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
