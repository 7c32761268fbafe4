"""The folder of a run: what it is a run of, and which of its stages are complete.

`run.json` says what it is a run of (the resolved configuration and a hash of the inputs); each
stage has a folder of its own in it, complete once it holds `stage.json`. A run that was stopped,
however, goes on with the first stage that is not complete.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from semrec.shared.errors import ExperimentError
from semrec.shared.files import beside_path, files_digest, read_json, write_json
from semrec.shared.screen import Screen, duration

FORMAT = 1


class Run:
    """A run's folder: made by `begin`, or opened by `reopen` to be answered from.

    Args:
        path: The folder.
        config: The resolved configuration, JSON values only.
        screen: Where progress is shown.
        may_fill: Whether stages that are not complete may be filled.
    """

    def __init__(
        self, path: Path, *, config: dict[str, Any], screen: Screen, may_fill: bool
    ) -> None:
        self.path = path
        self.config = config
        self.screen = screen
        self.may_fill = may_fill
        self._told: set[str] = set()
        self._usable: frozenset[str] | None = None  # while a stage is filled: what comes before it

    @classmethod
    def begin(
        cls, path: Path, *, app: str, config: Mapping[str, Any], data: str, screen: Screen
    ) -> Run:
        """Begins a run, or goes on with one.

        Args:
            path: The folder, made if it is not there; refused if it holds something else.
            app: The app's name.
            config: The resolved configuration, JSON values only.
            data: Hash of the input files.
            screen: Where progress is shown.

        Raises:
            ExperimentError: The folder holds another run, or files that are no run's.
        """
        identity = {"format": FORMAT, "app": app, "data": data, "config": dict(config)}
        identity = json.loads(json.dumps(identity))
        marker = path / "run.json"
        if path.exists() and not path.is_dir():
            raise ExperimentError(f"{path} is a file: choose another --out")
        if marker.exists():
            for key, before, now in _differences(read_json(marker), identity):
                what = f"{key.removeprefix('config.')} is {before!r} there and {now!r} now"
                if key == "data":
                    what = "its input files had other contents"
                raise ExperimentError(f"{path} holds another run ({what}): choose another --out")
        else:
            # A run killed while it wrote its first file has left just that.
            foreign = path.exists() and [p for p in path.iterdir() if p != beside_path(marker)]
            if foreign:
                raise ExperimentError(f"{path} is not empty and no run: choose another --out")
            path.mkdir(parents=True, exist_ok=True)
            write_json(marker, identity)
        return cls(path, config=identity["config"], screen=screen, may_fill=True)

    @classmethod
    def reopen(cls, path: Path, screen: Screen) -> Run:
        """Opens a complete run; none of its stages is filled any more.

        Raises:
            ExperimentError: The folder is not that of a complete run.
        """
        config = read_json(path / "run.json")["config"]
        if not (path / "metrics.json").exists():
            raise ExperimentError(
                f"{path}: the run is not complete; the command that began it goes on"
            )
        return cls(path, config=config, screen=screen, may_fill=False)

    def stage_name(self, name: str, config: Mapping[str, Any], parts: Collection[str]) -> str:
        """A stage's name under a configuration that may be a variant of the run's.

        Stages of the run's own configuration stand under their names; those of a variant under
        `variants/`, with all that is different: variants that agree in what a stage depends on
        share it. Where the difference is a file, its contents count as well: a run's own files
        are part of what it is a run of, those of a variant are not.

        Args:
            name: The stage.
            config: The configuration under which it is to run.
            parts: The keys of the configuration on which the stage depends: tables, or single
                values as "table.key".
        """
        variant = json.loads(json.dumps(config))
        changes = [
            f"{key}={value}{files_digest(value)}"
            for key, _, value in _differences(self.config, variant)
            if any(key == part or key.startswith(f"{part}.") for part in parts)
        ]
        if not changes:
            return name
        plain = ",".join([name, *changes])
        safe = re.sub(r"[^\w.,=+-]+", "_", plain)
        if safe != plain or len(safe) > 120:
            safe = f"{safe[:120]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
        return f"variants/{safe}"

    def is_complete(self, name: str) -> bool:
        """Whether a stage's folder is filled."""
        return (self.path / name / "stage.json").exists()

    def stage(
        self, name: str, fill: Callable[[Path], Mapping[str, Any]], before: Collection[str] = ()
    ) -> dict[str, Any]:
        """Fills a stage's folder unless it is complete.

        Args:
            name: The stage, and its folder in the run.
            fill: Fills the folder it is given, which may hold what an interrupted try left, and
                returns facts about the stage, JSON values only.
            before: The stages, all complete, whose results `fill` may use.

        Returns:
            The facts, with "seconds" added: how long the try that completed the stage took.

        Raises:
            ExperimentError: The run was reopened, and the stage is not complete.
        """
        folder = self.path / name
        if not self.may_fill:
            if not self.is_complete(name):
                raise ExperimentError(
                    f"{folder} is missing or damaged: the command that began the run makes it again"
                )
            return self.facts(name)
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock(name, folder):
            if self.is_complete(name):
                self._tell(name, "complete, kept")
                return self.facts(name)
            start = time.perf_counter()
            outer, self._usable = self._usable, frozenset(before)
            try:
                facts = dict(fill(folder))
            finally:
                self._usable = outer
            facts["seconds"] = round(time.perf_counter() - start, 1)
            write_json(folder / "stage.json", facts)
            self._told.discard(name)
            self._tell(name, f"done in {duration(facts['seconds'])}")
            return self.facts(name)

    def check_usable(self, name: str) -> None:
        """Asserts that a stage which is being filled has named this one among those before it."""
        assert self._usable is None or name in self._usable, (
            f"the stage that is being filled takes {name} without naming it in `after`"
        )

    def _tell(self, name: str, message: str) -> None:
        if name not in self._told:
            self.screen.say(f"{name}: {message}")
            self._told.add(name)

    def _lock(self, name: str, folder: Path) -> AbstractContextManager[object]:
        """Takes a stage for this process; waits while another, such as a second study, has it."""
        lock = FileLock(folder / "lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            self.screen.say(f"{name}: another process is at it; waiting")
            return lock.acquire()

    def facts(self, name: str) -> dict[str, Any]:
        """Returns what a complete stage left: the facts of its `fill`, and "seconds".

        Raises:
            ExperimentError: The stage is not complete.
        """
        return read_json(self.path / name / "stage.json")


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the values in which two nested mappings differ: dotted key, old and new value."""
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key}", before, now
