"""The processes of a run under `torchrun`: all train and rank, the first does the rest.

All processes go through the same stages in the same order. Only the first checks whether a stage is
complete, takes locks and fills the run's folder. The others wait until a stage without their
participation is complete, and read its result. Without `torchrun` the only process is the first,
and nothing here imports torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

COMMANDS = ("run", "demo")
"""The commands that several processes can run together."""

_LONGEST_STAGE = timedelta(
    days=30
)  # the longest wait of the others; torchrun notices a process that ends

# The messages of gloo about a process that has ended, and of evalrec about one that failed.
_GONE = ("Connection closed by peer", "Connection reset by peer", "failed in another process")

_alone_since = 0  # the number of nested blocks of `alone` that this process is in


def count() -> int:
    """The number of processes that run this part together."""
    return 1 if _alone_since else _started()


def number() -> int:
    """The number of this process, from 0."""
    return 0 if _alone_since else _rank()


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return _rank() == 0


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "").strip() or 1)


def _rank() -> int:
    return int(os.environ.get("RANK", "0")) if _started() > 1 else 0


def meet() -> None:
    """Connects the processes of a run, if there are several."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    # A process that is ended because another one ended reports it like an interrupt.
    signal.signal(signal.SIGTERM, _interrupt)
    distributed.init_process_group(backend, timeout=_LONGEST_STAGE)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def from_first(value: T) -> T:
    """Returns the value of the first process in all processes."""
    if count() == 1:
        return value
    import torch
    from torch import distributed

    values: list[Any] = [value]
    distributed.broadcast_object_list(values, device=torch.device("cpu"))
    result: T = values[0]
    return result


def wait_for_first() -> None:
    """Makes the other processes wait until the first one reaches this point."""
    from_first(None)


@contextmanager
def first_before_others() -> Iterator[None]:
    """A block that the first process runs before the others, which then find its files."""
    if not is_first():
        wait_for_first()
    yield
    if is_first():
        wait_for_first()


@contextmanager
def alone() -> Iterator[None]:
    """A block that only the first process runs while the others wait; there `count` is 1."""
    global _alone_since
    from evalrec.distributed import alone as evaluated_alone

    _alone_since += 1
    try:
        with evaluated_alone():
            yield
    finally:
        _alone_since -= 1


def part() -> None:
    """Ends all processes except the first, which continues alone."""
    global _alone_since
    if count() == 1:
        return
    from torch import distributed

    distributed.all_gather_object([None] * count(), None)  # no process ends before all are here
    distributed.destroy_process_group()
    if not is_first():
        sys.exit(0)
    _alone_since += 1


def ended_elsewhere(error: RuntimeError) -> bool:
    """Whether an error only means that another process of the run has ended."""
    if count() == 1:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(words in str(error) for words in _GONE)


def is_first_to_fail() -> bool:
    """Whether no other process of the run has reported an error before.

    To be called once, by a process that is about to end; it then ignores signals to end.
    """
    if _started() > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if _started() == 1 or not address or not port:
        return True
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = TCPStore(address, int(port), is_master=False, timeout=timedelta(seconds=5))
        return int(store.add(f"semrec/failures/{attempt}", 1)) == 1
    except (DistError, RuntimeError, ValueError):  # no other process is left
        return True
