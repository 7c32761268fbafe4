"""On a full disk a command ends with one sentence that names the file, and the old is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

FEW = 4
ALL = pytest.param(None, marks=pytest.mark.reliability, id="all")
APPS = ("prorec", "cocorec", "tssr")


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
def test_no_room_at_any_write(tools, set_up, sample, digests_of, tmp_path, count):
    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    replacement = set_up(first)
    command, look = replacement.command, replacement.look
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
            assert_full(full, replacement.written, what)
            # New where it is the last step that fails: the codes of what is remembered, or the
            # sync of a folder in which the new is already.
            assert looked in (old, new), what
            assert looked == new or digests_of(place) == before, what
            refusals += 1
        again = tools(place, *command)
        assert again.code == 0, f"{what}: {again.stderr}"
        assert digests_of(place) == digests_of(whole), what
        shutil.rmtree(place)
    assert refusals


@pytest.mark.parametrize("count", [1, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_run_without_room_at_any_write_goes_on(
    apps, run_arguments, completed, sample, tmp_path, name, count
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
def test_a_small_disk_fills(tools, set_up, disk, rooms):
    place = disk / "place"
    place.mkdir()
    replacement = set_up(place)
    command, look = replacement.command, replacement.look
    old = tools(place, *look).stdout
    for room in rooms:
        leave(disk, room * 1024)
        full = tools(place, *command)
        if full.code == 0:
            break
        assert_full(full, replacement.written, room)
        looked = tools(place, *look)
        assert looked.code == 0, looked.stderr
        if "codes.jsonl" in replacement.written and looked.stdout != old:
            break  # the codes are remembered, and only their file found no room
        assert looked.stdout == old, room
        (disk / "filler").unlink()
    (disk / "filler").unlink(missing_ok=True)
    assert tools(place, *command).code == 0


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
