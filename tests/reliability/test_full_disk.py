"""On a full disk a command ends with one sentence that names the file, and the old is whole."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SEED = 20
FEW = 4
ALL = pytest.param(None, marks=pytest.mark.reliability, id="all")
APPS = ("prorec", "cocorec", "tssr")
FIT = ("--quantizer", "rq", "--codebook-size", "8", "--levels", "2", "--quiet")


def setup_fit(tools, place, data):
    shutil.copy(data / "items.jsonl", place)
    assert tools(place, "semtok", "fit", "items.jsonl", "-o", "tok", *FIT, "--seed", 7).code == 0
    return ("semtok", "fit", "items.jsonl", "-o", "tok", *FIT, "--force")


def setup_extend(tools, place, data):
    lines = (data / "items.jsonl").read_text().splitlines(keepends=True)
    (place / "items.jsonl").write_text("".join(lines[:40]))
    assert tools(place, "semtok", "fit", "items.jsonl", "-o", "tok", *FIT).code == 0
    (place / "items.jsonl").write_text("".join(lines))
    how = ("--tokenizer", "tok", "--extend", "-o", "codes.jsonl", "--quiet")
    return ("semtok", "encode", "items.jsonl", *how)


def setup_prepare(tools, place, data):
    options = ("prepare", "native", data, "-o", "out")
    assert tools(place, "evalrec", *options, "--k-core", 1).code == 0
    return ("evalrec", *options, "--k-core", 3, "--max-history", 6, "--force")


COMMANDS = {
    "fit": (setup_fit, ("semtok", "inspect", "tok", "--json"), {"tok"}),
    "extend": (setup_extend, ("semtok", "inspect", "tok", "--json"), {"tok", "codes.jsonl"}),
    "prepare": (setup_prepare, ("evalrec", "check", "out", "--json"), {"out"}),
}


def sample(numbers: list[int], count: int | None) -> list[int]:
    few = len(numbers) if count is None else min(count, len(numbers))
    return sorted(random.Random(SEED).sample(numbers, few))


def writes(events: list[str]) -> list[int]:
    """The numbers of the events that need room."""
    kinds = ("open", "os.mkdir", "fsync")
    return [n for n, event in enumerate(events, start=1) if event.split()[0] in kinds]


def assert_full(outcome, names, what):
    outcome.assert_says(what)
    assert outcome.code == 1, f"{what}: {outcome.stderr}"
    assert any(name in outcome.sentence for name in names), f"{what}: {outcome.sentence}"
    assert "No space left" in outcome.sentence or "os error 28" in outcome.sentence, (
        f"{what}: {outcome.sentence}"
    )


@pytest.mark.parametrize("count", [FEW, ALL])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_room_at_any_write(tools, data, digests_of, tmp_path, name, count):
    setup, look, names = COMMANDS[name]
    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    command = setup(tools, first, data)
    old, before = tools(first, *look).stdout, digests_of(first)
    shutil.copytree(first, whole)
    done = tools(whole, *command)
    assert done.code == 0, done.stderr
    new = tools(whole, *look).stdout
    assert old != new
    refusals = 0
    for number in sample(writes(done.events), count):
        what = f"event {number}, {done.events[number - 1]}"
        place = tmp_path / f"at{number}"
        shutil.copytree(first, place)
        full = tools(place, *command, fail_at=number)
        looked = tools(place, *look).stdout
        if full.code == 0:  # a file system that cannot sync a folder is put up with
            assert looked == new, what
        else:
            assert_full(full, names, what)
            # New where it is the last step that fails: the codes of what is remembered, or the
            # sync of a folder in which the new is already.
            assert looked in (old, new), what
            assert looked == new or digests_of(place) == before, what
            refusals += 1
        again = tools(place, *command, *(["--force"] if "--force" not in command else []))
        assert again.code == 0, f"{what}: {again.stderr}"
        assert digests_of(place) == digests_of(whole), what
        shutil.rmtree(place)
    assert refusals


@pytest.mark.parametrize("count", [1, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_run_without_room_at_any_write_goes_on(
    apps, run_arguments, completed, tmp_path, name, count
):
    whole = completed(name)
    events = whole.outcome.events
    for number in sample(writes(events), count):
        what = f"event {number}, {events[number - 1]}"
        place = tmp_path / f"at{number}"
        place.mkdir()
        full = apps(place, name, *run_arguments(name), fail_at=number)
        if full.code != 0:
            assert_full(full, {"run"}, what)
            assert apps(place, name, *run_arguments(name)).code == 0, what
        assert (place / "run" / "metrics.json").read_bytes() == whole.metrics, what
        shutil.rmtree(place)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two mebibytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("takes root and tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def leave(disk: Path, room: int) -> None:
    """Fills a disk but for so many bytes."""
    free = os.statvfs(disk)
    pages = max(0, free.f_bavail - room // free.f_bsize)
    (disk / "filler").write_bytes(b"x" * pages * free.f_bsize)


@pytest.mark.parametrize("rooms", [(0, 12), pytest.param(range(0, 128, 4), marks=ALL.marks)])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_small_disk_fills(tools, data, disk, name, rooms):
    setup, look, names = COMMANDS[name]
    place = disk / "place"
    place.mkdir()
    command = setup(tools, place, data)
    old = tools(place, *look).stdout
    for room in rooms:
        leave(disk, room * 1024)
        full = tools(place, *command)
        if full.code == 0:
            break
        assert_full(full, names, room)
        looked = tools(place, *look)
        assert looked.code == 0, looked.stderr
        if name == "extend" and looked.stdout != old:
            break  # the codes are remembered, and only their file found no room
        assert looked.stdout == old, room
        (disk / "filler").unlink()
    (disk / "filler").unlink(missing_ok=True)
    assert tools(place, *command, *(["--force"] if "--force" not in command else [])).code == 0


@pytest.mark.parametrize("rooms", [(160,), pytest.param(range(0, 640, 40), marks=ALL.marks)])
@pytest.mark.parametrize("name", APPS)
def test_a_small_disk_fills_under_a_run(apps, run_arguments, completed, disk, name, rooms):
    for room in rooms:
        leave(disk, room * 1024)
        place = disk / "place"
        try:
            place.mkdir()
        except OSError:
            (disk / "filler").unlink()
            continue
        full = apps(place, name, *run_arguments(name))
        if full.code != 0:
            assert_full(full, {"run"}, room)
            (disk / "filler").unlink()
            again = apps(place, name, *run_arguments(name))
            assert again.code == 0, f"{room}: {again.stderr}"
        assert (place / "run" / "metrics.json").read_bytes() == completed(name).metrics
        shutil.rmtree(place)
        (disk / "filler").unlink(missing_ok=True)
