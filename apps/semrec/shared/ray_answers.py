"""Answers from all machines of a Ray cluster: each worker loads the run (needs `semrec[ray]`).

All machines must be able to read the run's folder under the same path.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from semrec.shared.answer_options import AnswerOptions
from semrec.shared.app import App
from semrec.shared.errors import ExperimentError

if TYPE_CHECKING:
    from genrec import Answer

    from semrec.shared.answer_stream import Stream

BLOCK = 256
"""The number of histories that a worker gets at a time."""

_AHEAD = 2
"""The number of blocks in a worker's queue, so that no worker waits for the next."""


class Worker:
    """An actor that loads the run once and answers.

    Args:
        app: The name of the run's app.
        options: The options of the answers.
        device: The device of the models.
    """

    def __init__(self, app: str, options: AnswerOptions, device: str) -> None:
        from importlib import import_module

        from semrec.shared.answer_stream import answering

        known: App[Any, Any] = import_module(f"semrec.{app}.app").APP
        self.stream = answering(known.reopen(options.run, device, options.trust), options)

    def answers(self, histories: list[list[str]]) -> list[Answer]:
        """The answers to a block of histories, in order."""
        return list(self.stream(histories))


@contextmanager
def ray_answering(
    app: str, options: AnswerOptions, device: str, num_workers: int | None
) -> Iterator[Stream]:
    """Returns a stream that answers histories by a pool of workers, in the order of the histories.

    Args:
        app: The name of the run's app.
        options: The options of the answers.
        device: The device of the models; with a CUDA device each worker uses a GPU.
        num_workers: The number of workers; None uses one per CPU of the cluster, or one per GPU.

    Raises:
        ExperimentError: The extra is not installed, or the cluster has no room for a worker.
    """
    ray = _ray()
    kind = "GPU" if device.startswith("cuda") else "CPU"
    room = int(ray.cluster_resources().get(kind, 0))
    if not room:
        raise ExperimentError(f"--engine ray: the cluster has no {kind} for a worker")
    needs = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
    remote = ray.remote(Worker).options(**needs)
    workers = [remote.remote(app, options, device) for _ in range(min(num_workers or room, room))]

    def stream(histories: Iterable[list[str]]) -> Iterator[Answer]:
        remaining, turns = iter(histories), itertools.cycle(workers)
        blocks = iter(lambda: list(itertools.islice(remaining, BLOCK)), [])
        waiting: deque[Any] = deque()
        for block in blocks:
            waiting.append(next(turns).answers.remote(block))
            if len(waiting) == _AHEAD * len(workers):
                yield from _got(ray, waiting.popleft())
        while waiting:
            yield from _got(ray, waiting.popleft())

    try:
        yield stream
    finally:
        for worker in workers:
            ray.kill(worker)


def _got(ray: Any, answers: Any) -> list[Answer]:
    """The answers to a block; a worker's error is raised here with the same message."""
    try:
        block: list[Answer] = ray.get(answers)
    except ray.exceptions.RayTaskError as error:
        raise ExperimentError(f"--engine ray: {error.cause}") from error
    except ray.exceptions.RayActorError as error:
        raise ExperimentError(
            f"--engine ray: a worker ended: {str(error).splitlines()[0]}; repeat the command to "
            "continue"
        ) from error
    return block


def _ray() -> Any:
    """Ray, connected to a cluster that it finds, or started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ExperimentError(
            f"--engine ray needs an extra (no module {error.name}): pip install 'semrec[ray]'"
        ) from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray
