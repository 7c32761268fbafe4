"""Runs command lines in forked children: what takes seconds to import is imported once.

Each line of standard input is a request, a JSON object:

    command    "semtok", "evalrec", "prorec", "cocorec" or "tssr"
    arguments  its arguments
    place      the working folder; what happens to files in it is an event
    kill_at    the event before which the child is killed, 0 for none
    drop       whether what was not synced is lost when it is killed
    fail_at    the event that finds no room on the disk, 0 for none
    timeout    seconds

Each line of standard output is the answer: "code" (negative for a signal), "stdout", "stderr",
"events" (what they were, in order) and "unsynced" (the files that were renamed before they were
synced, and the folders that were not synced after something was renamed into them).
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

HEAVY = {
    "semtok": (
        "encodings.idna faiss polars rich.table safetensors.numpy sklearn.decomposition "
        "sklearn.feature_extraction.text sklearn.utils.extmath typer.rich_utils semtok.artifact "
        "semtok.cli semtok.fitting semtok.inspecting semtok.code_files"
    ),
    "evalrec": "numpy polars rich.table scipy.sparse typer.rich_utils evalrec evalrec.cli",
    "apps": (
        "encodings.idna faiss lightning_fabric matplotlib.figure polars safetensors.torch "
        "scipy.sparse sklearn.decomposition sklearn.feature_extraction.text sklearn.manifold "
        "torch._dynamo typer.rich_utils semrec.prorec.studies.tables semrec.cocorec.studies "
        "semrec.tssr.studies"
    ),
}
MAINS = {"semtok": "semtok.cli", "evalrec": "evalrec.cli"}
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")
UNFINISHED = re.compile(r"\.(part|work|old|tmp)$|-(part|work|old|tmp)$")


class Watch:
    """Counts what a command changes in a folder, and ends it or refuses it room at a number."""

    def __init__(self, request: dict, report: Path) -> None:
        self.place = os.path.realpath(request["place"])
        self.kill_at, self.fail_at = request.get("kill_at", 0), request.get("fail_at", 0)
        self.drop, self.report = request.get("drop", False), report
        self.before = self.files()
        self.synced: dict[int, tuple[int, int]] = {}
        self.events: list[str] = []
        self.unsynced: list[str] = []
        self.waiting: dict[str, str] = {}  # folders that something was renamed into
        self.is_busy = False
        self.fsync = os.fsync

    def start(self) -> None:
        os.fsync = self.on_sync
        sys.addaudithook(self.on_audit)

    def files(self) -> dict[int, tuple[int, int]]:
        """The inodes of the regular files in the folder, with size and time."""
        state = {}
        for folder, _, names in os.walk(self.place):
            for name in names:
                facts = os.lstat(os.path.join(folder, name))
                state[facts.st_ino] = (facts.st_size, facts.st_mtime_ns)
        return state

    def on_audit(self, name: str, arguments: tuple) -> None:
        if self.is_busy:
            return
        if name == "ctypes.dlsym" and "renameat2" in arguments:
            self.event("exchange", "")
        elif name == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.on_path("open", path)
        elif name in CHANGES:
            self.on_path(name, arguments[0])
            if name == "os.rename":
                self.on_rename(*map(os.fsdecode, arguments[:2]))

    def on_path(self, name: str, path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.fsdecode(path)
            if not os.path.isabs(text) or os.path.realpath(text).startswith(self.place):
                self.event(name, text)

    def on_sync(self, descriptor: int) -> None:
        self.event("fsync", "")
        self.fsync(descriptor)
        facts = os.fstat(descriptor)
        self.synced[facts.st_ino] = (facts.st_size, facts.st_mtime_ns)
        self.waiting.pop(os.path.realpath(f"/proc/self/fd/{descriptor}"), None)

    def on_rename(self, source: str, target: str) -> None:
        """Notes what is renamed into a place that counts before it is on the disk."""
        target = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        inside = target.removeprefix(self.place).lstrip("/").split("/")
        if not target.startswith(self.place) or any(map(UNFINISHED.search, inside)):
            return
        self.is_busy = True
        paths = [source, *(str(path) for path in Path(source).rglob("*"))]
        for path in paths:
            facts = os.lstat(path)
            state = (facts.st_size, facts.st_mtime_ns)
            is_new = self.before.get(facts.st_ino) != state
            if os.path.isfile(path) and is_new and self.synced.get(facts.st_ino) != state:
                self.unsynced.append(os.path.basename(target))
        self.waiting[os.path.dirname(target)] = os.path.basename(target)
        self.is_busy = False

    def event(self, name: str, path: str) -> None:
        self.events.append(f"{name} {os.path.basename(path)}")
        number = len(self.events)
        if number == self.kill_at:
            self.is_busy = True
            if self.drop:
                self.drop_unsynced()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.fail_at and name in ("open", "os.mkdir", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path or None)

    def drop_unsynced(self) -> None:
        """Empties what is new and was not synced, as a power cut may."""
        for folder, _, names in os.walk(self.place):
            for name in names:
                path = os.path.join(folder, name)
                facts = os.lstat(path)
                state = (facts.st_size, facts.st_mtime_ns)
                known = (self.before.get(facts.st_ino), self.synced.get(facts.st_ino))
                if state not in known and os.path.isfile(path) and not os.path.islink(path):
                    os.truncate(path, 0)

    def write(self) -> None:
        self.is_busy = True
        lost = [f"{name}: its folder" for name in self.waiting.values()]
        facts = {"events": self.events, "unsynced": self.unsynced + lost}
        self.report.write_text(json.dumps(facts))


def child(request: dict, folder: Path) -> None:
    """Runs the command, in a process of its own, and ends that."""
    os.chdir(request["place"])
    null = os.open(folder / "stdin", os.O_RDONLY | os.O_CREAT)
    os.dup2(null, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    command = request["command"]
    sys.argv = [command, *request["arguments"]]
    watch, code = Watch(request, folder / "report"), 0
    main = importlib.import_module(MAINS.get(command, f"semrec.{command}.app")).main
    watch.start()
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        watch.is_busy = True
        traceback.print_exc()
        code = 70
    watch.write()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(request: dict, folder: Path) -> dict:
    """Forks a child for a request, and says how it ended."""
    process = os.fork()
    if process == 0:
        try:
            child(request, folder)
        finally:
            os._exit(71)
    deadline = time.monotonic() + request.get("timeout", 300)
    pause = 0.001
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            ended = os.waitpid(process, 0)
            (folder / "stderr").write_text("Traceback: it did not end in time")
            break
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    facts = {"events": [], "unsynced": []}
    if (folder / "report").exists():
        facts = json.loads((folder / "report").read_text())
    texts = {
        name: (folder / name).read_text(errors="backslashreplace")
        if (folder / name).exists()
        else ""
        for name in ("stdout", "stderr")
    }
    return {"code": os.waitstatus_to_exitcode(ended[1]), **texts, **facts}


def main() -> None:
    """Serves requests until standard input ends."""
    for name in sys.argv[1:]:
        for module in HEAVY[name].split():
            importlib.import_module(module)
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in requests:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(answer(json.loads(line), Path(folder))), file=answers, flush=True)


if __name__ == "__main__":
    main()
