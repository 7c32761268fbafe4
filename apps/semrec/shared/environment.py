"""On what a run is computed: its device, and all else that its last digits may follow."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from semrec.shared import processes
from semrec.shared.errors import ExperimentError
from semrec.shared.files import read_json, write_json
from semrec.shared.run import Run

PACKAGES = ("semtok", "recfusion", "genrec", "evalrec", "semrec", "torch", "numpy", "faiss-cpu")
"""The distributions whose versions results may follow."""


def environment(device: torch.device) -> dict[str, Any]:
    """Threads, processor, device and versions, JSON values only."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "threads": torch.get_num_threads(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def note_environment(run: Run, device: torch.device) -> None:
    """Keeps in "environment.json" under what a run is computed; says so where that is new.

    It is no part of what the run is of: the run goes on. The command, the version and the date that
    began it are kept with it.

    Args:
        run: A run that was begun, or that goes on.
        device: What it is computed on.
    """
    if not processes.is_first():
        return
    path, present = run.path / "environment.json", environment(device)
    known, begun = _known(path), made_by(run)
    if present in known:
        return
    if not known:  # which of a run that an earlier version began they are not: it stays unsaid
        begun = {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "version": f"semrec {present['semrec']}",
            "begun": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
    if known:
        changes = ", ".join(
            f"{key} {known[0].get(key)} then, {value} now"
            for key, value in present.items()
            if known[0].get(key) != value
        )
        run.screen.say(
            f"begun under another environment ({changes}): what is computed from here on may "
            "differ from it in the last digits"
        )
    write_json(path, {"made_by": begun, "environments": [*known, present]})


def made_by(run: Run) -> dict[str, str]:
    """The command that began a run, the version and the date; nothing, where it is not known."""
    begun = _kept(run.path / "environment.json").get("made_by")
    return begun if isinstance(begun, dict) else {}


def _kept(path: Path) -> dict[str, Any]:
    """What is kept so far; nothing, where that is missing or damaged: no result is read from it."""
    try:
        return read_json(path)
    except ExperimentError:
        return {}


def _known(path: Path) -> list[dict[str, Any]]:
    known = _kept(path).get("environments")
    is_ours = isinstance(known, list) and all(isinstance(entry, dict) for entry in known)
    return known if is_ours else []  # type: ignore[return-value]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # another build of faiss, say
        return None


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is the first GPU, or else the CPU.

    Of several processes on a machine, each has the GPU of its own number.

    Raises:
        ExperimentError: There is no such device here.
    """
    if name in ("auto", "cuda") and processes.count() > 1 and torch.cuda.is_available():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ExperimentError(f"--device {name} cannot be used here: {first}") from error
    return device
