"""Answers to all users of a run: whom they are for, what they had since, and where they go."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from genrec import Answer, Recommendation

from semrec.shared import recommend, users
from semrec.shared.answer_files import COLUMNS
from semrec.shared.answer_options import AnswerOptions
from semrec.shared.data import Columns
from semrec.shared.errors import ExperimentError
from semrec.shared.screen import Screen

ITEMS = [f"i{row}" for row in range(6)]
DAY = 86_400
START = 1_700_000_000
"""Seconds: in November 2023."""


def newest(histories: Iterable[list[str]]) -> Iterator[Answer]:
    """Recommends the newest items, and what is popular where there are none."""
    for history in histories:
        chosen = history[::-1] or ITEMS[:1]
        items = [Recommendation(item_id=item, score=-float(n)) for n, item in enumerate(chosen)]
        yield Answer(items=items, unknown=0, popular=not history)


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    """A run of 25 users who had two items each, on two days."""
    run = tmp_path / "run"
    run.mkdir()
    write_run(run)
    return run_of(run)


def write_run(run: Path) -> None:
    for name in ("run.json", "metrics.json"):
        (run / name).write_text("{}")
    rows = [
        (f"u{n}", [n % 6, (n + 1) % 6], [START + n * DAY, START + (n + 1) * DAY]) for n in range(25)
    ]
    schema = {"user": pl.String, "items": pl.List(pl.Int32), "times": pl.List(pl.Int64)}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(run / "histories.parquet")


def run_of(run: Path) -> Any:
    kept_users = users.KeptUsers(histories=run / "histories.parquet", categories=[None] * 6)
    return SimpleNamespace(
        titles={item: f"title of {item}" for item in ITEMS},
        item_ids=ITEMS,
        kept_users=lambda: kept_users,
        run=SimpleNamespace(path=run, screen=Screen()),
        config=SimpleNamespace(columns=Columns()),
    )


def answers(kept: Any, output: Path, names: str = "all", stream: Any = newest, **more: Any) -> None:
    options = AnswerOptions(run=kept.run.path, users=names, output=output, **more)
    options.check()
    chosen = recommend._chosen_users(kept, options)
    recommend.answer_users(kept, chosen, stream, options)


def items_of(path: Path) -> dict[str, list[str]]:
    """The answers of a file in any form, by user."""
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {line["user"]: [item["item_id"] for item in line["items"]] for line in lines}
    table = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    assert tuple(table.columns) == COLUMNS
    assert table["title"].to_list() == [f"title of {item}" for item in table["item"]]
    by_user: dict[str, list[str]] = {}
    for user, rank, item in table.select("user", "rank", "item").iter_rows():
        by_user.setdefault(user, []).append(item)
        assert rank == len(by_user[user])
    return by_user


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".CSV"])
def test_all_users_are_answered_in_the_form_that_the_suffix_names(
    kept: Any, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "USERS_AT_ONCE", 10)
    output = tmp_path / f"recs{suffix}"
    answers(kept, output)
    plain = output.rename(tmp_path / f"plain{suffix.lower()}")
    expected = {f"u{n}": [ITEMS[(n + 1) % 6], ITEMS[n % 6]] for n in range(25)}
    assert items_of(plain) == expected
    assert list(items_of(plain)) == list(expected)
    assert not list(tmp_path.glob("*.parts"))


def test_no_suffix_is_jsonl_and_others_are_refused(kept: Any, tmp_path: Path) -> None:
    answers(kept, tmp_path / "recs", "u3")
    assert json.loads((tmp_path / "recs").read_text())["user"] == "u3"
    for name in ("recs.xlsx", "recs.json"):
        with pytest.raises(ExperimentError, match=r"must end in \.jsonl, \.csv or \.parquet, got"):
            answers(kept, tmp_path / name)


def test_some_users_by_ids_or_by_a_file(
    kept: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, output = tmp_path / "users.txt", tmp_path / "recs.jsonl"
    listed.write_text("u7\nnobody\r\nu2\nu7\n")
    answers(kept, output, str(listed))
    assert list(items_of(output)) == ["u2", "u7"]  # the run's order
    assert "1 ids of --users are unknown and were skipped" in capsys.readouterr().out
    answers(kept, output, "u7, nobody,u2", force=True)
    assert list(items_of(output)) == ["u2", "u7"]
    with pytest.raises(ExperimentError, match=r"must be users of the run, got 'nobody'"):
        answers(kept, output, "u7,nobody", unknown="error", force=True)
    with pytest.raises(ExperimentError, match=r"knows none of 1 ids, and there is no file"):
        answers(kept, output, "gone.txt", force=True)
    assert list(items_of(output)) == ["u2", "u7"]


def later(path: Path, rows: list[tuple[str, str, str]], separator: str = ";") -> Path:
    table = pl.DataFrame(rows, schema=["customer", "sku", "date"], orient="row")
    table.write_csv(path, separator=separator)
    return path


def test_later_interactions_are_merged_by_time(
    kept: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a table in a form of its own: a shop's export, with dates."""
    source = later(
        tmp_path / "new.csv",
        [
            ("u1", "i5", "2030-01-02"),
            ("u1", "i4", "2030-01-01"),
            ("u1", "gone", "2030-01-03"),
            ("u2", "i0", "2010-01-01"),  # before all that the run has
            ("new", "i3", "2030-01-01"),
            ("cold", "gone", "2030-01-01"),
        ],
    )
    output = tmp_path / "recs.jsonl"
    answers(kept, output, interactions=source)
    by_user = items_of(output)
    assert by_user["u0"] == ["i1", "i0"]
    assert by_user["u1"] == ["i5", "i4", "i2", "i1"]
    assert by_user["u2"] == ["i3", "i2", "i0"]
    assert by_user["new"] == ["i3"]
    assert by_user["cold"] == ["i0"]
    assert len(by_user) == 27
    shown = capsys.readouterr().out
    assert "new.csv: 2 interactions are with items that the run does not know" in shown
    assert "1 of 27 users have no item that the run knows: their answers are the popular" in shown
    with pytest.raises(ExperimentError, match="--interactions must be of the run's items, got 'go"):
        answers(kept, output, interactions=source, unknown="error", force=True)
    answers(kept, output, "new,u1", interactions=source, force=True)
    assert items_of(output) == {"u1": ["i5", "i4", "i2", "i1"], "new": ["i3"]}


def test_what_the_run_has_already_is_passed_over(kept: Any, tmp_path: Path) -> None:
    """An export of everything, in milliseconds where the run has seconds."""
    source = tmp_path / "all.parquet"
    rows = [("u0", "i0", START), ("u0", "i1", START + DAY), ("u0", "i4", START + 2 * DAY)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    for factor in (1, 1000):
        table.with_columns(pl.col("timestamp") * factor).write_parquet(source)
        answers(kept, tmp_path / "recs.jsonl", "u0", interactions=source, force=True)
        assert items_of(tmp_path / "recs.jsonl") == {"u0": ["i4", "i1", "i0"]}
    table.with_columns(timestamp=pl.Series([1, 2, 3])).write_parquet(source)
    with pytest.raises(ExperimentError, match="its times are numbers of no known unit, those of"):
        answers(kept, tmp_path / "recs.jsonl", "u0", interactions=source, force=True)


def test_a_table_that_cannot_be_read_is_refused_with_the_way_to_prepare_it(
    kept: Any, tmp_path: Path
) -> None:
    source = tmp_path / "new.csv"
    source.write_text("a,b\n1,2\n")
    with pytest.raises(ExperimentError, match=r"--interactions .*new\.csv.*evalrec prepare table"):
        answers(kept, tmp_path / "recs.jsonl", interactions=source)


def test_merging_is_that_of_a_plain_list() -> None:
    draw = random.Random(0)
    for _ in range(200):
        run = sorted((draw.randrange(6), draw.randrange(4)) for _ in range(draw.randrange(6)))
        new = sorted((draw.randrange(6), draw.randrange(4)) for _ in range(draw.randrange(6)))
        expected = list(run)
        for time, item in new:
            if (time, item) not in run:
                place = sum(known <= time for known, _ in expected)
                expected.insert(place, (time, item))
        columns = [[pair[n] for pair in pairs] for pairs in (run, new) for n in (1, 0)]
        assert users.merged(*columns) == [item for _, item in expected]


def test_a_stopped_command_goes_on_with_the_parts_that_are_missing(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "USERS_AT_ONCE", 10)
    output, whole, answered = tmp_path / "recs.csv", tmp_path / "whole.csv", []
    answers(kept, whole)

    def until(most: int) -> Any:
        def stream(histories: Iterable[list[str]]) -> Iterator[Answer]:
            for answer in newest(histories):
                answered.append(answer)
                if len(answered) > most:
                    raise KeyboardInterrupt
                yield answer

        return stream

    with pytest.raises(KeyboardInterrupt):
        answers(kept, output, stream=until(12))
    assert not output.exists()
    with pytest.raises(ExperimentError, match=r"recs\.csv\.parts holds what another command was"):
        answers(kept, output, top_k=3)
    answered.clear()
    answers(kept, output, stream=until(99))
    assert len(answered) == 15  # of 25: the first part was there
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("test_users", sys.argv[1])
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)

def killing(histories):
    for number, answer in enumerate(test.newest(histories)):
        if number == 5 and Path(sys.argv[3] + ".parts/000000.json").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        yield answer

test.users.USERS_AT_ONCE = 10
test.answers(test.run_of(Path(sys.argv[2])), Path(sys.argv[3]), stream=killing)
"""


def test_a_killed_command_leaves_whole_parts(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 while the second part is answered."""
    monkeypatch.setattr(users, "USERS_AT_ONCE", 10)
    output, whole = tmp_path / "recs.parquet", tmp_path / "whole.parquet"
    answers(kept, whole)
    arguments = map(str, (__file__, kept.run.path, output))
    child = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert not output.exists()
    answers(kept, output)
    assert items_of(output) == items_of(whole)
    assert sorted(os.listdir(tmp_path)) == ["recs.parquet", "run", "whole.parquet"]


def test_files_and_pipes_get_the_same_lines(kept: Any, tmp_path: Path) -> None:
    answers(kept, tmp_path / "recs.jsonl")
    reader, writer = os.pipe()
    pipe = Path(f"/proc/self/fd/{writer}")
    if not pipe.exists():
        pytest.skip("the system has no /proc")
    answers(kept, pipe)
    os.close(writer)
    with os.fdopen(reader, "rb") as content:
        assert content.read() == (tmp_path / "recs.jsonl").read_bytes()
