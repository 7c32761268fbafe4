"""The folder of a run: its identity and its complete stages.

`run.json` holds the identity: the resolved configuration and a hash of the inputs. Each stage has
its own folder in the run. It is complete once it holds `stage.json`, with a digest of each file
that the stage wrote. A stopped run continues with the first stage that is not complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from semrec.shared import processes
from semrec.shared.curves import Curves, LoggerName
from semrec.shared.errors import ExperimentError
from semrec.shared.files import (
    check_place,
    content_hash,
    files_digest,
    read_json,
    write_sealed,
    writing,
)
from semrec.shared.screen import Screen, duration
from semrec.shared.seals import check_seal, clear_leftovers, seal

FORMAT = 2
"""The format of the runs that this version makes; it can also continue runs of format 1.

Format 1 had no digests.
"""

_FILES = "files"  # the key of stage.json with the digests


class Run:
    """A run's folder: made by `begin`, or opened by `reopen` for answers.

    Args:
        path: The folder.
        identity: The identity in `run.json`.
        screen: Shows the progress.
        may_fill: Whether stages that are not complete may be filled.
        trust: The packages whose code may run, for parts named package.module:Name.
        logger: The logger that stores the training curves; it does not belong to the identity.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: Mapping[str, Any],
        screen: Screen,
        may_fill: bool,
        trust: Collection[str] = (),
        logger: LoggerName | None = None,
    ) -> None:
        self.path = path
        self.trust = tuple(trust)
        self.app: str = identity["app"]
        self.config: dict[str, Any] = identity["config"]
        self.stored_config: dict[str, Any] = identity.get("stored_config", self.config)
        self.is_sealed = identity["format"] > 1
        self.is_update = "update" in identity
        self.screen = screen
        self.curves = Curves(run=path, app=self.app, kind=logger)
        self.may_fill = may_fill
        self._told: set[str] = set()
        self._checked: set[str] = set()
        self._usable: frozenset[str] | None = None  # while a stage is filled: the stages before it

    @classmethod
    def begin(
        cls,
        path: Path,
        *,
        app: str,
        config: Mapping[str, Any],
        data: str,
        screen: Screen,
        update: Mapping[str, Any] | None = None,
        trust: Collection[str] = (),
        logger: LoggerName | None = None,
        completed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> Run:
        """Begins or continues a run.

        Args:
            path: The folder; it is made if missing, and refused if it holds something else.
            app: The app's name.
            config: The resolved configuration, JSON values only.
            data: Hash of the input files.
            screen: Shows the progress.
            update: For an update, JSON values only: "run", the old run's name, "digest", the
                digest of its contents, and the settings.
            trust: The packages whose code may run; they are not stored in the run.
            logger: The logger that stores the training curves.
            completed: Adds to a stored configuration the keys that its version did not have.

        Raises:
            ExperimentError: The folder holds another run, or files that belong to no run.
        """
        identity = {"format": FORMAT, "app": app, "data": data, "config": dict(config)}
        if update is not None:
            identity["update"] = dict(update)
        with processes.first_before_others():
            present = cls._begun(path, json.loads(json.dumps(identity)), completed)
        return cls(path, identity=present, screen=screen, may_fill=True, trust=trust, logger=logger)

    @staticmethod
    def _begun(
        path: Path,
        identity: Mapping[str, Any],
        completed: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Mapping[str, Any]:
        """Writes the identity of a new run; compares the identity of an existing one."""
        marker = path / "run.json"
        check_out(path)
        if not marker.exists():
            # A run that was killed while it wrote its first file left only that unfinished file.
            unfinished = f".{marker.name}."
            if path.exists() and not all(p.name.startswith(unfinished) for p in path.iterdir()):
                raise ExperimentError(f"{path} is not empty and not a run: choose another --out")
            with writing(path):
                Path(os.path.realpath(path)).mkdir(parents=True, exist_ok=True)
            # If two runs begin at once, one writes it and the other is compared with it.
            with suppress(FileExistsError):
                write_sealed(marker, identity, overwrite=False)
        present = _read_identity(marker)
        config = json.loads(json.dumps(completed(present["config"])))
        known = {**present, "config": config}
        # Name all: a size that follows from the changed value must not be named instead of it.
        differences = [
            _in_words(key, before, now)
            for key, before, now in _differences(known, {**identity, "format": known["format"]})
        ]
        if differences:
            what = ", ".join(differences)
            raise ExperimentError(f"{path} holds another run ({what}): choose another --out")
        return {**known, "stored_config": present["config"]}

    @classmethod
    def reopen(
        cls,
        path: Path,
        screen: Screen,
        *,
        trust: Collection[str] = (),
        completed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> Run:
        """Opens a complete run, whose stages are not filled again.

        Args:
            path: The folder.
            screen: Shows the progress.
            trust: The packages whose code may run.
            completed: As for `begin`.

        Raises:
            ExperimentError: The folder holds no complete run.
        """
        identity = _read_identity(path / "run.json")
        if not (path / "metrics.json").exists():
            raise ExperimentError(
                f"{path}: the run is not complete: repeat the command that began it"
            )
        stored = identity["config"]
        config = json.loads(json.dumps(completed(stored)))
        identity |= {"config": config, "stored_config": stored}
        return cls(path, identity=identity, screen=screen, may_fill=False, trust=trust)

    @property
    def digest(self) -> str:
        """A digest of this run's configuration and results, without studies."""
        return content_hash([self.path / "run.json", *sorted(self.path.glob("*/stage.json"))])

    @property
    def places(self) -> list[str]:
        """The last lines of a command: the path of the report, and how to see the curves."""
        hint = self.curves.hint
        return [f"report: {self.path / 'report.html'}", *([] if hint is None else [hint])]

    def stage_name(self, name: str, config: Mapping[str, Any], parts: Collection[str]) -> str:
        """A stage's folder under a configuration that may be a variant of the run's.

        Stages of the run's own configuration have their names. Stages of a variant are in
        `variants/`, named after their differences; variants that agree in all keys on which a
        stage depends share the stage. If a difference is a file, its contents count too, because
        they are not part of the run's identity.

        Args:
            name: The stage.
            config: The configuration of the stage.
            parts: The configuration keys on which the stage depends: tables, or single values as
                "table.key".
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

    def is_complete_for_all(self, name: str) -> bool:
        """Whether the first of several processes sees that a stage is complete.

        While a stage is filled, each process looks itself: all stages before it are complete.
        """
        is_complete = self.is_complete(name)
        return is_complete if self._usable is not None else processes.from_first(is_complete)

    def stage(
        self,
        name: str,
        fill: Callable[[Path], Mapping[str, Any]],
        before: Collection[str] = (),
        *,
        by_all: bool = False,
    ) -> dict[str, Any]:
        """Fills a stage's folder unless it is complete; several processes call it together.

        Args:
            name: The stage, which is also its folder in the run.
            fill: Fills its argument, a folder that may hold remains of an interrupted attempt, and
                returns facts about the stage, JSON values only.
            before: The stages, all complete, whose results `fill` may use.
            by_all: Whether several processes fill it together: the first fills the stage's folder,
                the others temporary folders. Otherwise only the first fills it.

        Returns:
            The facts and "seconds", the time of the attempt that completed the stage.

        Raises:
            ExperimentError: The run was reopened, and the stage is not complete.
        """
        folder = self.path / name
        if not self.may_fill:
            if not self.is_complete(name):
                raise ExperimentError(
                    f"{folder} is missing or damaged: repeat the command that began the run"
                )
            return self.facts(name)
        if not self.is_complete_for_all(name):
            with self._taken(name, folder):
                # Another command may have filled it.
                if not self.is_complete_for_all(name):
                    self._fill(name, folder, fill, before, by_all)
                    self._told.discard(name)
                    self._tell(name, f"done in {duration(self.facts(name)['seconds'])}")
        elif processes.is_first() and any(path.name.startswith(".") for path in folder.iterdir()):
            # A kill after "stage.json" got its name can leave the temporary file.
            with writing(folder), self._lock(name, folder):
                clear_leftovers(folder)
        self._tell(name, "complete, kept")
        return self.facts(name)

    @contextmanager
    def _taken(self, name: str, folder: Path) -> Iterator[None]:
        """Locks a stage against other commands; of several processes only the first locks."""
        if not processes.is_first():
            yield
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock(name, folder):
                yield

    def _fill(
        self,
        name: str,
        folder: Path,
        fill: Callable[[Path], Mapping[str, Any]],
        before: Collection[str],
        by_all: bool,
    ) -> None:
        start = time.perf_counter()
        outer, self._usable = self._usable, frozenset(before)
        try:
            if processes.is_first():
                clear_leftovers(folder)
                with nullcontext() if by_all else processes.alone():
                    facts = dict(fill(folder))
            elif by_all:
                with TemporaryDirectory() as thrown_away:
                    fill(Path(thrown_away))
        finally:
            self._usable = outer
        if processes.is_first():
            facts["seconds"] = round(time.perf_counter() - start, 1)
            write_sealed(folder / "stage.json", {**facts, _FILES: seal(folder)})
            # A process that still waits for the lock will then see that the stage is complete.
            (folder / "lock").unlink(missing_ok=True)
        processes.wait_for_first()
        self._checked.add(name)

    def check_usable(self, name: str) -> None:
        """Asserts that the stage being filled names this one in its `after`."""
        assert self._usable is None or name in self._usable, (
            f"the stage that is being filled uses {name} without naming it in `after`"
        )

    def _tell(self, name: str, message: str) -> None:
        if name not in self._told:
            self.screen.say(f"{name}: {message}")
            self._told.add(name)

    def _lock(self, name: str, folder: Path) -> AbstractContextManager[object]:
        """Locks a stage for this process; waits while another, such as a second study, holds it."""
        lock = FileLock(folder / "lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            self.screen.say(f"{name}: waiting for another process that fills it")
            return lock.acquire()

    def facts(self, name: str) -> dict[str, Any]:
        """Returns the facts of a complete stage and "seconds".

        Raises:
            ExperimentError: The stage is not complete, or its "stage.json" is damaged.
        """
        record = self._record(name)
        return {key: value for key, value in record.items() if key != _FILES}

    def checked(self, name: str) -> Path:
        """The folder of a complete stage; its files are compared with their digests once.

        Raises:
            ExperimentError: A file is damaged.
        """
        folder = self.path / name
        if name not in self._checked:
            record = self._record(name)
            if self.is_sealed or _FILES in record:
                check_seal(folder, record.get(_FILES))
            self._checked.add(name)
        return folder

    def _record(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name / "stage.json", sealed=self.is_sealed)


def check_out(path: Path) -> None:
    """Refuses a folder that cannot hold a run, before anything is read.

    Raises:
        ExperimentError: It is a file, or cannot be made; the message names it as the user did.
    """
    is_there = path.is_dir()
    check_place(path / "run.json" if is_there else path, "--out", parents=not is_there)


def _read_identity(path: Path) -> dict[str, Any]:
    """The identity of a run, from its `run.json`.

    Raises:
        ExperimentError: The file is missing, damaged, or of a newer version.
    """
    identity = read_json(path)
    version, app, config = (identity.get(key) for key in ("format", "app", "config"))
    if type(version) is not int or not isinstance(app, str) or not isinstance(config, dict):
        raise ExperimentError(f"{path} does not describe a run: choose the folder of a run")
    if not 1 <= version <= FORMAT:
        raise ExperimentError(
            f"{path} has format {version}, this version reads 1 to {FORMAT}: use a newer one"
        )
    return identity if version == 1 else read_json(path, sealed=True)


def _in_words(key: str, before: Any, now: Any) -> str:
    """The difference to an existing run, as a text."""
    if key == "data":
        return "its input files had other contents"
    if key == "update" and now is None:
        return f"it is an update of {before['run']}, which only the command update continues"
    if key == "update":
        return "it is not an update"
    if key == "update.digest":
        return "the run that it updates had other contents"
    return f"{key.removeprefix('config.')} is {before!r} there and {now!r} now"


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the differences of two nested mappings: dotted key, old and new value."""
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key}", before, now
