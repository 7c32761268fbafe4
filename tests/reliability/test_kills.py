"""Killed at any event of a command, the same command goes on to the same bytes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

SEED = 20
FEW = 3
ALL = pytest.param(None, marks=pytest.mark.reliability, id="all")
APPS = ("prorec", "cocorec", "tssr")


def kills(events: int, count: int | None) -> list[int]:
    """At which of the events a command is killed: at all of them, or at a sample."""
    numbers = range(1, events + 1)
    return list(numbers) if count is None else sorted(random.Random(SEED).sample(numbers, count))


def items(place: Path, data: Path, count: int = 60) -> None:
    lines = (data / "items.jsonl").read_text().splitlines(keepends=True)
    (place / "items.jsonl").write_text("".join(lines[:count]))


FIT = ("--quantizer", "rq", "--codebook-size", "8", "--levels", "2", "--quiet")


def prepare_fit(tools, place, data):
    """An older tokenizer is replaced by another: until then it answers."""
    items(place, data, 40)
    assert tools(place, "semtok", "fit", "items.jsonl", "-o", "tok", *FIT, "--seed", 7).code == 0
    items(place, data)
    return ("semtok", "fit", "items.jsonl", "-o", "tok", *FIT, "--force")


def prepare_extend(tools, place, data):
    """The new items get codes that are remembered; those of the old ones stay."""
    items(place, data, 40)
    assert tools(place, "semtok", "fit", "items.jsonl", "-o", "tok", *FIT).code == 0
    items(place, data)
    how = ("--tokenizer", "tok", "--extend", "-o", "codes.jsonl", "--force", "--quiet")
    return ("semtok", "encode", "items.jsonl", *how)


def prepare_prepare(tools, place, data):
    """A prepared folder is replaced by one of other options."""
    options = ("prepare", "native", data, "-o", "out")
    assert tools(place, "evalrec", *options, "--k-core", 1).code == 0
    return ("evalrec", *options, "--k-core", 3, "--max-history", 6, "--force")


COMMANDS = {
    "fit": (prepare_fit, ("semtok", "inspect", "tok", "--json"), "tok"),
    "extend": (prepare_extend, ("semtok", "inspect", "tok", "--json"), "tok"),
    "prepare": (prepare_prepare, ("evalrec", "check", "out", "--json"), "out"),
}


@pytest.mark.parametrize("drop", [False, True], ids=["killed", "unsynced"])
@pytest.mark.parametrize("count", [FEW, ALL])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_the_old_or_the_new_and_goes_on(
    tools, data, digests_of, tmp_path, name, count, drop
):
    prepare, look, result = COMMANDS[name]
    first = tmp_path / "first"
    first.mkdir()
    command = prepare(tools, first, data)
    old = tools(first, *look)
    whole = tmp_path / "whole"
    shutil.copytree(first, whole)
    done = tools(whole, *command)
    assert done.code == 0, done.stderr
    new, expected = tools(whole, *look), digests_of(whole)
    assert old.stdout != new.stdout
    seen = set()
    for number in kills(len(done.events), count):
        place = tmp_path / f"at{number}"
        shutil.copytree(first, place)
        killed = tools(place, *command, kill_at=number, drop=drop)
        what = f"event {number}, {done.events[number - 1]}"
        assert killed.code == -9, what
        looked = tools(place, *look)
        assert looked.code == 0, f"{what}: {looked.stderr}"
        assert looked.stdout in (old.stdout, new.stdout), what
        seen.add(looked.stdout)
        again = tools(place, *command)
        assert again.code == 0, f"{what}: {again.stderr}"
        assert digests_of(place / result) == digests_of(whole / result), what
        assert digests_of(place) == expected, what  # and nothing is left over
        shutil.rmtree(place)
    assert count is not None or seen == {old.stdout, new.stdout}


@pytest.mark.parametrize("drop", [False, True], ids=["killed", "unsynced"])
@pytest.mark.parametrize("count", [2, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_killed_run_goes_on_to_the_same_metrics(
    apps, run_arguments, completed, tmp_path, name, count, drop
):
    whole = completed(name)
    events = whole.outcome.events
    for number in kills(len(events), count):
        place = tmp_path / f"at{number}"
        place.mkdir()
        what = f"event {number}, {events[number - 1]}"
        killed = apps(place, name, *run_arguments(name), kill_at=number, drop=drop)
        assert killed.code == -9, what
        again = apps(place, name, *run_arguments(name))
        assert again.code == 0, f"{what}: {again.stderr}"
        assert (place / "run" / "metrics.json").read_bytes() == whole.metrics, what
        hidden = [path.name for path in (place / "run").rglob(".*")]
        assert not hidden, f"{what} leaves {hidden}"
        shutil.rmtree(place)


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_in_place_before_it_is_on_the_disk(tools, data, tmp_path, name):
    done = tools(tmp_path, *COMMANDS[name][0](tools, tmp_path, data))
    assert done.code == 0, done.stderr
    assert sum(event.startswith("fsync") for event in done.events) >= 3
    assert done.unsynced == []


@pytest.mark.parametrize("name", APPS)
def test_nothing_of_a_run_is_in_place_before_it_is_on_the_disk(completed, name):
    done = completed(name).outcome
    assert any(event.startswith("os.rename") for event in done.events)
    assert sorted(set(done.unsynced)) == []
