"""Answers by the workers of a Ray cluster: those of one process, in the same order."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from genrec import Answer, Recommendation

from semrec.shared import ray_answers
from semrec.shared.answer_options import AnswerOptions
from semrec.shared.errors import ExperimentError
from semrec.shared.ray_answers import BLOCK, ray_answering

Launch = Callable[..., Any]


class Cluster:
    """Ray with three CPUs, whose workers answer when they are asked for what they have."""

    exceptions = SimpleNamespace(RayTaskError=KeyError, RayActorError=RuntimeError)

    def __init__(self, cpus: int = 3) -> None:
        self.cpus, self.log, self.killed = cpus, [], 0

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus)} if self.cpus else {}

    def remote(self, _: type) -> Any:
        numbers = itertools.count()

        def worker(*__: Any) -> Any:
            number = next(numbers)

            def block(histories: list[list[str]]) -> tuple[int, list[list[str]]]:
                self.log.append(("handed", number))
                return number, histories

            return SimpleNamespace(answers=SimpleNamespace(remote=block))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=worker))

    def get(self, waiting: tuple[int, list[list[str]]]) -> list[Answer]:
        self.log.append(("got", waiting[0]))
        return [
            Answer(items=[Recommendation(item, 0.0) for item in ids], unknown=0, popular=False)
            for ids in waiting[1]
        ]

    def kill(self, _: Any) -> None:
        self.killed += 1


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(ray_answers, "_ray", lambda: made)
    return made


def test_answers_come_in_the_order_of_the_histories(cluster: Cluster) -> None:
    count, read = 7 * BLOCK + 5, 0

    def histories() -> Iterator[list[str]]:
        nonlocal read
        for number in range(count):
            read += 1
            yield [str(number)]

    options = AnswerOptions(run=Path("run"))
    with ray_answering("tssr", options, "cpu", 2) as stream:
        answers = stream(histories())
        first = next(answers)
        assert read == 4 * BLOCK  # two blocks a worker, and no more, are ahead
        rest = [answer.items[0].item_id for answer in answers]
        assert list(stream(iter([]))) == []
    assert [first.items[0].item_id, *rest] == [str(number) for number in range(count)]
    handed = [worker for kind, worker in cluster.log if kind == "handed"]
    assert handed == [0, 1, 0, 1, 0, 1, 0, 1]
    assert cluster.killed == 2


def test_workers_are_as_many_as_there_is_room_for(cluster: Cluster) -> None:
    options = AnswerOptions(run=Path("run"))
    with ray_answering("tssr", options, "cpu", None):
        pass
    assert cluster.killed == 3
    with (
        pytest.raises(ExperimentError, match="the cluster has no GPU for a worker"),
        ray_answering("tssr", options, "cuda:0", None),
    ):
        pass


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    for options, words in (
        ({"history": "a", "engine": "ray"}, "--engine ray goes with --input and --users"),
        ({"users": "all", "output": tmp_path / "x.csv", "workers": 2}, "--workers goes with"),
    ):
        with pytest.raises(typer.BadParameter, match=words):
            AnswerOptions(run=tmp_path, **options).check()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ExperimentError, match=r"no module ray.*pip install 'semrec\[ray\]'"),
        ray_answering("tssr", AnswerOptions(run=Path("run")), "cpu", None),
    ):
        pass


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs semrec[ray]")
def test_a_cluster_writes_the_file_that_one_process_writes(
    launch: Launch, completed: Callable[[str], Path], tmp_path: Path
) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for engine in ("local", "ray"):
            done = launch(
                *("tssr", "recommend", "--run", completed("tssr"), "--users", "all"),
                *("--diversify", "categories", "--device", "cpu", "--engine", engine),
                *("--output", tmp_path / f"{engine}.jsonl"),
            )
            assert done.returncode == 0, done.stderr
    finally:
        ray.shutdown()
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
