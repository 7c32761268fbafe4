"""The environment of a run: its device, and everything else that may change the last digits."""

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
"""The distributions whose versions may change results."""


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
    """Stores the environment of a run in "environment.json"; prints a line if it has changed.

    The environment does not belong to the identity of a run, so the run continues. The command,
    the version and the date that began the run are stored with it.

    Args:
        run: A run that begins or continues.
        device: The device of the run.
    """
    if not processes.is_first():
        return
    path, present = run.path / "environment.json", environment(device)
    known, begun = _known(path), made_by(run)
    if present in known:
        return
    if not known:  # not for a run of an earlier version: this command did not begin it
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
    """The command, version and date that began a run; empty if they are not known."""
    begun = _kept(run.path / "environment.json").get("made_by")
    return begun if isinstance(begun, dict) else {}


def _kept(path: Path) -> dict[str, Any]:
    """The stored content; empty if the file is missing or damaged: no result depends on it."""
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
    except metadata.PackageNotFoundError:  # such as another build of faiss
        return None


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is the first GPU, or else the CPU.

    Each of several processes on a machine uses the GPU of its own number.

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
