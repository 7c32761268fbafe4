"""The folder of a run and its stages; the device, and how errors end a command.

A run is a folder. `run.json` says what it is a run of (the resolved configuration and a hash of
the inputs); each stage has a folder of its own in it, complete once it holds `stage.json`. A run
that was stopped, however, goes on with the first stage that is not complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from semrec.shared.report.page import duration
from semrec.shared.screen import Screen

FORMAT = 1


class ExperimentError(Exception):
    """Something about a run that its user can put right; the message says how."""


def content_hash(paths: Iterable[Path]) -> str:
    """Returns a hash of the files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Writes JSON beside `path` and renames it, so that it is never half a file."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file to write; renamed to `path` in the end, removed if there is an error."""
    unfinished = _beside(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file that a run wrote.

    Raises:
        ExperimentError: The file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExperimentError(f"{path} is missing: is this the folder of a run?") from error
    except ValueError as error:
        raise ExperimentError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ExperimentError(f"{path}: not a JSON object")
    return value


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a safetensors file that a stage left, by name.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with left_by_a_stage(path):
        return load_file(path)


def load_array(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Returns the array in an .npy file that a stage left.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with left_by_a_stage(path):
        array: np.ndarray[Any, np.dtype[Any]] = np.load(path, allow_pickle=False)
        return array


@contextmanager
def left_by_a_stage(path: Path) -> Iterator[Path]:
    """Yields a stage's file to be read; what it raises becomes an ExperimentError."""
    try:
        yield path
    except (FileNotFoundError, SafetensorError, ValueError, EOFError) as error:
        raise ExperimentError(
            f"{path} is missing or damaged ({error}): remove the folder {path.parent}, and the "
            "command that began the run makes it again"
        ) from error


class Run:
    """A run's folder and its stages.

    Args:
        path: The folder, made if it is not there; refused if it holds something else.
        app: The app's name.
        config: The resolved configuration, JSON values only.
        data: Hash of the input files.
        screen: Where progress is shown.

    Raises:
        ExperimentError: The folder holds another run, or files that are no run's.
    """

    def __init__(
        self, path: Path, *, app: str, config: Mapping[str, Any], data: str, screen: Screen
    ) -> None:
        identity = {"format": FORMAT, "app": app, "data": data, "config": dict(config)}
        identity = json.loads(json.dumps(identity))
        marker = path / "run.json"
        if path.exists() and not path.is_dir():
            raise ExperimentError(f"{path} is a file: choose another --out")
        if marker.exists():
            for key, there, here in _differences(read_json(marker), identity):
                what = f"{key.removeprefix('config.')} is {there!r} there and {here!r} now"
                if key == "data":
                    what = "its input files had other contents"
                raise ExperimentError(f"{path} holds another run ({what}): choose another --out")
        else:
            # A run killed while it wrote its first file has left just that.
            foreign = path.exists() and [p for p in path.iterdir() if p != _beside(marker)]
            if foreign:
                raise ExperimentError(f"{path} is not empty and no run: choose another --out")
            path.mkdir(parents=True, exist_ok=True)
            write_json(marker, identity)
        self.path = path
        self.config: dict[str, Any] = identity["config"]
        self.screen = screen
        self._told: set[str] = set()
        self._within = 0.0  # seconds that other stages took within the present one

    def stage_name(self, name: str, config: Mapping[str, Any], parts: Collection[str]) -> str:
        """A stage's name under a configuration that may be a variant of the run's.

        Stages of the run's own configuration stand under their names; those of a variant under
        `variants/`, with all that is different: variants that agree in what a stage depends on
        share it.

        Args:
            name: The stage.
            config: The configuration under which it is to run.
            parts: The keys of the configuration on which the stage depends: tables, or single
                values as "table.key".
        """
        theirs = json.loads(json.dumps(config))
        changes = [
            f"{key}={here}"
            for key, _, here in _differences(self.config, theirs)
            if any(key == part or key.startswith(f"{part}.") for part in parts)
        ]
        if not changes:
            return name
        plain = ",".join([name, *changes])
        safe = re.sub(r"[^\w.,=+-]+", "_", plain)
        if safe != plain or len(safe) > 120:
            safe = f"{safe[:120]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
        return f"variants/{safe}"

    def stage(self, name: str, build: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Runs a stage unless it is complete.

        Args:
            name: The stage, and its folder in the run.
            build: Fills the folder it is given, which may hold what an interrupted try left, and
                returns facts about the stage, JSON values only.

        Returns:
            The facts, with "seconds" added: how long the try that completed the stage took, other
            stages that it went through left out.
        """
        start, outside = time.perf_counter(), self._within
        self._within = 0.0
        try:
            return self._stage(name, build)
        finally:
            self._within = outside + time.perf_counter() - start

    def _stage(self, name: str, build: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        folder = self.path / name
        marker = folder / "stage.json"
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock(name, folder):
            if marker.exists():
                if name not in self._told:
                    self.screen.say(f"{name}: complete, kept")
                    self._told.add(name)
                return self.facts(name)
            start = time.perf_counter()
            facts = dict(build(folder))
            facts["seconds"] = round(time.perf_counter() - start - self._within, 1)
            write_json(marker, facts)
            self.screen.say(f"{name}: done in {duration(facts['seconds'])}")
            self._told.add(name)
            return self.facts(name)

    def _lock(self, name: str, folder: Path) -> AbstractContextManager[object]:
        """Takes a stage for this process; waits while another, such as a second study, has it."""
        lock = FileLock(folder / "lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            self.screen.say(f"{name}: another process is at it; waiting")
            return lock.acquire()

    def facts(self, name: str) -> dict[str, Any]:
        """Returns what a complete stage left: the facts of its `build`, and "seconds".

        Raises:
            ExperimentError: The stage is not complete.
        """
        return read_json(self.path / name / "stage.json")

    def complete(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The facts of those stages that are complete; the folder of another may be there."""
        there = [name for name in names if (self.path / name / "stage.json").exists()]
        return {name: self.facts(name) for name in there}


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the values in which two nested mappings differ: dotted key, old and new value."""
    for key in dict.fromkeys([*old, *new]):
        there, here = old.get(key), new.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{prefix}{key}.")
        elif there != here:
            yield f"{prefix}{key}", there, here


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is the first GPU, or else the CPU.

    Raises:
        ExperimentError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ExperimentError(f"--device {name} cannot be used here: {first}") from error
    return device


def guarded(command: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
    """Runs a command line; known errors become one line on stderr and exit status 1.

    Args:
        command: The command line, which parses `sys.argv`.
        errors: The packages' exceptions; `ExperimentError`, `ValueError`, `OSError` and
            `ImportError` are added.
    """
    known: tuple[type[Exception], ...] = (ExperimentError, ValueError, ImportError, *errors)
    try:
        command()
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on from here", 130)
    except SystemExit as stop:
        if stop.code == 130:  # typer has turned a KeyboardInterrupt into this
            _stop("stopped; the same command goes on from here", 130)
        raise
    except OSError as error:
        _stop(
            f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", 1
        )
    except known as error:
        _stop(f"error: {' '.join(str(error).split()) or type(error).__name__}", 1)


def _stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201
    sys.exit(code)
