"""Killed at any event of a command, the same command goes on to the same bytes."""

from __future__ import annotations

import shutil

import pytest

FEW = 3
ALL = pytest.param(None, marks=pytest.mark.reliability, id="all")
APPS = ("prorec", "cocorec", "tssr")


@pytest.mark.parametrize("drop", [False, True], ids=["killed", "unsynced"])
@pytest.mark.parametrize("count", [FEW, ALL])
def test_a_killed_command_leaves_the_old_or_the_new_and_goes_on(
    tools, set_up, sample, digests_of, tmp_path, count, drop
):
    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    replacement = set_up(first)
    command, look = replacement.command, replacement.look
    old = tools(first, *look)
    shutil.copytree(first, whole)
    done = tools(whole, *command)
    assert done.code == 0, done.stderr
    new, expected = tools(whole, *look), digests_of(whole)
    assert old.stdout != new.stdout
    seen = set()
    for number in sample(range(1, len(done.events) + 1), count):
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
        assert digests_of(place) == expected, what  # and nothing is left over
        shutil.rmtree(place)
    assert count is not None or seen == {old.stdout, new.stdout}


@pytest.mark.parametrize("drop", [False, True], ids=["killed", "unsynced"])
@pytest.mark.parametrize("count", [2, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_killed_run_goes_on_to_the_same_metrics(
    apps, run_arguments, completed, sample, tmp_path, name, count, drop
):
    whole = completed(name)
    events = whole.outcome.events
    for number in sample(range(1, len(events) + 1), count):
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


def test_nothing_is_in_place_before_it_is_on_the_disk(tools, set_up, tmp_path):
    done = tools(tmp_path, *set_up(tmp_path).command)
    assert done.code == 0, done.stderr
    assert sum(event.startswith("fsync") for event in done.events) >= 3
    assert done.unsynced == []


@pytest.mark.parametrize("name", APPS)
def test_nothing_of_a_run_is_in_place_before_it_is_on_the_disk(completed, name):
    done = completed(name).outcome
    assert any(event.startswith("os.rename") for event in done.events)
    assert sorted(set(done.unsynced)) == []
