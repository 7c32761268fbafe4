"""The processes of a run that `torchrun` starts: all train and rank, and the first does the rest.

All of them go through the same stages in the same order. Whether a stage is complete is for the
first process to see, which alone takes locks and fills a run's folder; the others wait until a
stage that they have no part in is complete, and read it. Without `torchrun` the one process is the
first, and nothing here imports torch.
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
"""The commands that several processes go through together."""

_LONGEST_STAGE = timedelta(days=30)  # that the others wait for; torchrun sees whether it still runs

# What gloo says of a process that is no more, and evalrec of one that failed.
_GONE = ("Connection closed by peer", "Connection reset by peer", "failed in another process")

_alone_since = 0  # how many blocks of `alone` this process is in


def count() -> int:
    """How many processes go through this part of the run together."""
    return 1 if _alone_since else _started()


def number() -> int:
    """Which of them this one is, from 0."""
    return 0 if _alone_since else _rank()


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return _rank() == 0


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "").strip() or 1)


def _rank() -> int:
    return int(os.environ.get("RANK", "0")) if _started() > 1 else 0


def meet() -> None:
    """Lets the processes of a run find one another, where there are several."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    # Whoever is ended because another process was says so as one who is interrupted.
    signal.signal(signal.SIGTERM, _interrupt)
    distributed.init_process_group(backend, timeout=_LONGEST_STAGE)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def from_first(value: T) -> T:
    """What the first process passes, in all of them."""
    if count() == 1:
        return value
    import torch
    from torch import distributed

    values: list[Any] = [value]
    distributed.broadcast_object_list(values, device=torch.device("cpu"))
    result: T = values[0]
    return result


def wait_for_first() -> None:
    """Lets the others wait until the first process is here as well."""
    from_first(None)


@contextmanager
def first_before_others() -> Iterator[None]:
    """A part that the first process goes through before the others do: they come upon its files."""
    if not is_first():
        wait_for_first()
    yield
    if is_first():
        wait_for_first()


@contextmanager
def alone() -> Iterator[None]:
    """A part that the first process goes through while the others wait: it is on its own there."""
    global _alone_since
    from evalrec.distributed import alone as evaluated_alone

    _alone_since += 1
    try:
        with evaluated_alone():
            yield
    finally:
        _alone_since -= 1


def part() -> None:
    """Ends all processes but the first, which is on its own from here on."""
    global _alone_since
    if count() == 1:
        return
    from torch import distributed

    distributed.all_gather_object([None] * count(), None)  # nobody leaves before all are here
    distributed.destroy_process_group()
    if not is_first():
        sys.exit(0)
    _alone_since += 1


def ended_elsewhere(error: RuntimeError) -> bool:
    """Whether an error says no more than that another process of the run has ended."""
    if count() == 1:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(words in str(error) for words in _GONE)


def is_first_to_fail() -> bool:
    """Whether no other process of the run has said that something went wrong.

    To be asked once, by a process that is about to end: being told to end means no more to it.
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
    except (DistError, RuntimeError, ValueError):  # nobody is left to be asked
        return True
