"""Whole command lines, killed, damaged, starved and lied to, in processes that tests look after.

What is expected is stated per class of trouble: after a kill the old or the new, and the same
command goes on to the same bytes; on a full disk one sentence, and the old whole; of what is
damaged or hostile the right answer or one sentence, and never another answer.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("server.py")
ENV = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "POLARS_MAX_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "COLUMNS": "100",
    "NO_COLOR": "1",
}
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CONFIGS = {
    "prorec": """
[text]
embedding = "lsa"
dim = 8
[stage_one]
dim = 8
num_heads = 2
epochs = 2
batch_size = 64
[codes]
codebook_size = 8
[stage_two]
dim = 8
num_heads = 2
feedforward_dim = 16
num_decoder_layers = 1
epochs = 2
warmup_steps = 2
[evaluation]
num_beams = 20
validation_users = 20
""",
    "cocorec": """
[views]
embedding = "lsa"
dim = 8
[codes]
codes_per_view = 2
codebook_size = 8
[model]
dim = 8
feedforward_dim = 16
fusion_layers = 1
num_layers = 1
batch_size = 64
epochs = 2
warmup_steps = 2
[item_ids]
epochs = 1
[evaluation]
validation_users = 20
""",
    "tssr": """
[content]
embedding = "lsa"
streams = ["title", "brand+categories"]
dim = 8
[model]
dim = 8
num_heads = 2
feedforward_dim = 16
epochs = 2
batch_size = 64
warmup_steps = 2
[evaluation]
validation_users = 20
""",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is slow."""
    for item in items:
        if item.path.parent == SERVER.parent:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `code` is negative after a signal."""

    code: int
    stdout: str
    stderr: str
    events: list[str]
    unsynced: list[str]

    @property
    def sentence(self) -> str:
        """The last line of standard error."""
        return (self.stderr.splitlines() or [""])[-1]

    def assert_says(self, context: object = "") -> None:
        """It succeeded, or it was refused in a sentence that holds no trap for a terminal."""
        told = f"{context}: {self.code}\n{self.stderr[-3000:]}"
        assert self.code in (0, 1, 2), told
        assert "Traceback" not in self.stderr, told
        assert not CONTROLS.search(self.stderr.replace("\r", "")), repr(told)
        if self.code == 1 and not self.stdout:
            assert 10 < len(self.sentence) < 2000, told
            assert re.match(r"semtok: |evalrec: |error: ", self.sentence), told


class Commands:
    """Runs command lines through the server, in folders of their own."""

    def __init__(self, *names: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), *names],
            env=ENV,
            start_new_session=True,  # importing torch may ask for the terminal
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == "ready\n", (said, self._process.poll())

    def __call__(self, place: Path, command: str, *arguments: object, **how: object) -> Outcome:
        """Runs a command in a folder; the rest is as server.py says."""
        process = self._process
        request = {"command": command, "arguments": [*map(str, arguments)], "place": str(place)}
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps({**request, **how}), file=process.stdin, flush=True)
        assert select.select([process.stdout], [], [], 600)[0], "the server says nothing"
        return Outcome(**json.loads(process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The variables under which commands run."""
    return ENV


def opened(*names: str) -> Iterator[Commands]:
    commands = Commands(*names)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def tools() -> Iterator[Commands]:
    """The command lines of semtok and evalrec."""
    yield from opened("semtok", "evalrec")


@pytest.fixture(scope="session")
def apps() -> Iterator[Commands]:
    """The command lines of the apps."""
    yield from opened("apps")


def digests(folder: Path) -> dict[str, str]:
    """The digest of every file in a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def digests_of() -> Callable[[Path], dict[str, str]]:
    return digests


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items with texts, 120 users; not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "data"
    script = (
        "import sys, evalrec; "
        "evalrec.write_synthetic(sys.argv[1], num_items=60, num_users=120, seed=3)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], env=ENV, check=True)
    return folder


@dataclass(frozen=True)
class Replacement:
    """A command that replaces what an older one has left in a folder.

    Attributes:
        command: With its arguments.
        look: The command that says what there is, the old or the new.
        written: What the command writes; a refusal names one of these.
    """

    command: tuple[object, ...]
    look: tuple[str, ...]
    written: frozenset[str]


FIT = ("--quantizer", "rq", "--codebook-size", "8", "--levels", "2", "--quiet")
INSPECT = ("semtok", "inspect", "tok", "--json")


def copy_items(data: Path, place: Path, count: int) -> None:
    lines = (data / "items.jsonl").read_text().splitlines(keepends=True)
    (place / "items.jsonl").write_text("".join(lines[:count]))


def set_up_fit(tools: Commands, data: Path, place: Path) -> Replacement:
    """A tokenizer of 40 items is replaced by one of 60: until then it answers."""
    copy_items(data, place, 40)
    assert tools(place, "semtok", "fit", "items.jsonl", "-o", "tok", *FIT, "--seed", 7).code == 0
    copy_items(data, place, 60)
    command = ("semtok", "fit", "items.jsonl", "-o", "tok", *FIT, "--force")
    return Replacement(command, INSPECT, frozenset({"tok"}))


def set_up_extend(tools: Commands, data: Path, place: Path) -> Replacement:
    """The new items get codes that are remembered; those of the old ones stay."""
    copy_items(data, place, 40)
    assert tools(place, "semtok", "fit", "items.jsonl", "-o", "tok", *FIT).code == 0
    copy_items(data, place, 60)
    how = ("--tokenizer", "tok", "--extend", "-o", "codes.jsonl", "--force", "--quiet")
    command = ("semtok", "encode", "items.jsonl", *how)
    return Replacement(command, INSPECT, frozenset({"tok", "codes.jsonl"}))


def set_up_prepare(tools: Commands, data: Path, place: Path) -> Replacement:
    """A prepared folder is replaced by one of other options."""
    options = ("evalrec", "prepare", "native", data, "-o", "out")
    assert tools(place, *options, "--k-core", 1).code == 0
    command = (*options, "--k-core", 3, "--max-history", 6, "--force")
    return Replacement(command, ("evalrec", "check", "out", "--json"), frozenset({"out"}))


@pytest.fixture(
    params=[set_up_fit, set_up_extend, set_up_prepare], ids=["fit", "extend", "prepare"]
)
def set_up(
    request: pytest.FixtureRequest, tools: Commands, data: Path
) -> Callable[[Path], Replacement]:
    """Makes the old in a folder, and says what replaces it."""
    return functools.partial(request.param, tools, data)


@pytest.fixture(scope="session")
def sample() -> Callable[[Sequence[int], int | None], list[int]]:
    """So many of some numbers, in order, drawn by a fixed seed; all of them for None."""

    def sample(numbers: Sequence[int], count: int | None) -> list[int]:
        few = len(numbers) if count is None else min(count, len(numbers))
        return sorted(random.Random(20).sample(numbers, few))

    return sample


@pytest.fixture(scope="session")
def run_arguments(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[object]]:
    """The arguments of an app's smallest run into the folder `run`."""

    @functools.cache
    def run_arguments(name: str) -> list[object]:
        config = tmp_path_factory.mktemp("config") / f"{name}.toml"
        config.write_text(CONFIGS[name])
        return [
            *("run", "--data", data, "--out", "run"),
            *("--config", config, "--device", "cpu"),
        ]

    return run_arguments


@dataclass(frozen=True)
class Completed:
    """An app's complete run, in the folder `run` of `place`; not to be changed."""

    place: Path
    outcome: Outcome

    @property
    def metrics(self) -> bytes:
        return (self.place / "run" / "metrics.json").read_bytes()


@pytest.fixture(scope="session")
def completed(
    apps: Commands,
    run_arguments: Callable[[str], list[object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Completed]:
    @functools.cache
    def completed(name: str) -> Completed:
        place = tmp_path_factory.mktemp(f"{name}-run")
        outcome = apps(place, name, *run_arguments(name))
        assert outcome.code == 0, outcome.stderr
        return Completed(place, outcome)

    return completed
