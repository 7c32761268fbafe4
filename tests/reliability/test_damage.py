"""What is damaged is refused in one sentence, or does no harm: no answer is ever another one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SEED = 20
FEW = 4
ALL = pytest.param(None, marks=pytest.mark.reliability, id="all")
APPS = ("prorec", "cocorec", "tssr")


def flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def cut(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


def digit(path: Path, draw: random.Random) -> None:
    """Another digit, so that text stays text of the same form."""
    data = bytearray(path.read_bytes())
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    place = draw.choice(places) if places else draw.randrange(len(data))
    data[place] = ord("0") + (data[place] - ord("0") + 1) % 10
    path.write_bytes(data)


DAMAGES = (flip, cut, remove, digit)


def damaged(
    folder: Path, place: Path, count: int | None
) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """Each file with each damage in turn: what it is, a copy of the folder, and its mending."""
    copy = place / folder.name
    shutil.copytree(folder, copy)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if (folder / name).stat().st_size]
    cases = [(name, damage) for name in names for damage in DAMAGES]
    if count is not None:
        cases = random.Random(SEED).sample(cases, min(count, len(cases)))
    for name, damage in cases:
        damage(copy / name, random.Random(f"{SEED} {name} {damage.__name__}"))

        def mend() -> None:
            shutil.rmtree(copy)
            shutil.copytree(folder, copy)

        yield f"{damage.__name__} of {name}", copy, mend
        mend()


def test_a_tokenizer_answers_rightly_or_not_at_all(tools, data, tmp_path):
    shutil.copy(data / "items.jsonl", tmp_path)
    fit = ("fit", "items.jsonl", "-o", "made/tok", "--pca", 8, "--quantizer", "rq")
    (tmp_path / "made").mkdir()
    sizes = ("--levels", 2, "--codebook-size", 8)
    assert tools(tmp_path, "semtok", *fit, *sizes).code == 0
    encode = ("semtok", "encode", "items.jsonl", "-o", "-", "--quiet", "--tokenizer")
    right = tools(tmp_path, *encode, "made/tok").stdout
    assert right.count("\n") == 60
    refusals = cases = 0
    for what, _, mend in damaged(tmp_path / "made/tok", tmp_path, None):
        done = tools(tmp_path, *encode, "tok")
        done.assert_says(what)
        assert done.code == 1 or done.stdout == right, what
        assert done.code == 0 or ("tok" in done.sentence and not done.stdout), done.stderr
        refusals += done.code
        cases += 1
        mend()
    assert refusals >= 0.9 * cases > 20


@pytest.fixture(scope="session")
def histories(data, tmp_path_factory) -> Path:
    """Some items of every kind, and nobody's."""
    lines = (data / "items.jsonl").read_text().splitlines()
    ids = [json.loads(line)["item_id"] for line in lines]
    path = tmp_path_factory.mktemp("histories") / "histories.jsonl"
    queries = [{"history": ids[row : row + row % 5]} for row in range(0, 40, 3)]
    path.write_text("".join(json.dumps(query) + "\n" for query in queries))
    return path


def recommended(apps, name, place, histories):
    """How `recommend` ends, and what it answers."""
    output = place / "answers.jsonl"
    output.unlink(missing_ok=True)
    how = ("--input", histories, "--output", output, "--device", "cpu")
    done = apps(place, name, "recommend", "--run", "run", *how)
    return done, output.read_bytes() if output.exists() else b""


@pytest.mark.parametrize("count", [FEW, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_run_answers_rightly_or_not_at_all(apps, completed, histories, tmp_path, name, count):
    whole = completed(name)
    done, right = recommended(apps, name, whole.place, histories)
    assert done.code == 0, done.stderr
    assert right
    wrong = []
    for what, copy, _ in damaged(whole.place / "run", tmp_path, count):
        done, answers = recommended(apps, name, copy.parent, histories)
        done.assert_says(what)
        if done.code == 0 and answers != right:
            wrong.append(what)
        assert done.code == 0 or not answers, what
    assert not wrong


@pytest.mark.parametrize("count", [FEW, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_run_goes_on_to_the_same_metrics_or_not_at_all(
    apps, run_arguments, completed, tmp_path, name, count
):
    whole = completed(name)
    wrong = []
    for what, copy, _ in damaged(whole.place / "run", tmp_path, count):
        done = apps(copy.parent, name, *run_arguments(name))
        done.assert_says(what)
        if done.code == 0 and (copy / "metrics.json").read_bytes() != whole.metrics:
            wrong.append(what)
    assert not wrong


@pytest.mark.parametrize("count", [2, ALL])
@pytest.mark.parametrize("name", APPS)
def test_a_checkpoint_goes_on_to_the_same_metrics_or_not_at_all(
    apps, run_arguments, completed, tmp_path, name, count
):
    whole = completed(name)
    events = whole.outcome.events
    last = max(n for n, event in enumerate(events) if "checkpoint.json" in event)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    killed = apps(stopped, name, *run_arguments(name), kill_at=last + 4)
    assert killed.code == -9
    (checkpoint, *_) = sorted((stopped / "run").rglob("checkpoint.json"))
    stage = checkpoint.parent
    wrong = []
    for what, copy, _ in damaged(stage, tmp_path / "damaged", count):
        place = tmp_path / "place"
        shutil.copytree(stopped, place)
        shutil.rmtree(place / stage.relative_to(stopped))
        shutil.copytree(copy, place / stage.relative_to(stopped))
        done = apps(place, name, *run_arguments(name))
        done.assert_says(what)
        if done.code == 0 and (place / "run" / "metrics.json").read_bytes() != whole.metrics:
            wrong.append(what)
        shutil.rmtree(place)
    assert not wrong
