"""What `recommend` reads and writes, with a model that answers at once."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from genrec import Answer, Recommendation

from semrec.shared import recommend
from semrec.shared.answer_options import AnswerOptions, check_output
from semrec.shared.errors import ExperimentError
from semrec.shared.queries import history_ids, read_histories, read_ids
from semrec.shared.recommend import answer_file, show
from semrec.shared.screen import Bar, Screen

ODD = ["a\u2028", "\u2029b", "c\u0085", "d e", " f", "g\u000b", "h\u001c"]
"""Ids that hold what Python takes for the end of a line, or for nothing."""


Answers = Callable[..., None]


def echo(histories: Iterable[list[str]]) -> Iterator[Answer]:
    """Recommends what was had."""
    for history in histories:
        items = [Recommendation(item_id=item_id, score=1.0) for item_id in history]
        yield Answer(items=items, unknown=0, popular=not history)


@pytest.fixture
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Answers a file of histories by a run, whose items are the ids that follow."""
    run = tmp_path_factory.mktemp("run")
    for name in ("run.json", "metrics.json"):
        (run / name).write_text("{}")

    def answers(
        source: Path, output: Path, *known: str, force: bool = False, stream: Any = echo
    ) -> None:
        titles = {item_id: f"title of {item_id}" for item_id in known}
        options = AnswerOptions(run=run, source=source, output=output, force=force)
        answer_file(titles, stream, options)

    return answers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "histories.jsonl"
    path.write_text('{"history": ["a"]}\n{"history": []}\n')
    return path


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text('\n{"history": ["a"]}\n \t\r\n{"history": ["b"]}\n\n')
    histories = [query["history"] for query in read_histories(path, {"a", "b"})]
    assert histories == [["a"], ["b"]]
    with pytest.raises(ExperimentError, match=r"line 4: unknown item id 'b'"):
        list(read_histories(path, {"a"}))


def test_ids_in_a_file_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text('{"history": [1010, "7"], "user": 3}\n')
    assert list(read_histories(path, {"1010", "7"})) == [{"history": ["1010", "7"], "user": 3}]
    path.write_text('{"history": [true]}\n')
    with pytest.raises(ExperimentError, match="list of item ids"):
        list(read_histories(path, {"True"}))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"history": ["a"], "items": 3}', r'line 2: the key "items" is the answer\'s'),
        ('{"history": ["a"], "popular": null}', r'line 2: the key "popular" is the answer\'s'),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"history": ["a"], "weight": Infinity}', "line 2: not JSON: Infinity"),
        ('{"history": ["a"], "weight": 1e999}', "line 2: not JSON: 1e999"),
    ],
)
def test_lines_that_have_no_answer_are_named(
    answers: Answers, tmp_path: Path, line: str, words: str
) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text(f'{{"history": ["a"], "weight": 0.5}}\n{line}\n')
    with pytest.raises(ExperimentError, match=words):
        answers(path, tmp_path / "answers.jsonl", "a")
    assert os.listdir(tmp_path) == ["histories.jsonl"]


def test_odd_ids_survive(answers: Answers, tmp_path: Path) -> None:
    source, output, denied = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "deny.txt"))
    lines = [json.dumps({"history": [item_id]}, ensure_ascii=False) for item_id in ODD]
    source.write_text("\n".join(lines), newline="\n")
    answers(source, output, *ODD)
    written = output.read_bytes().decode().split("\n")[:-1]
    assert [json.loads(line)["items"][0]["item_id"] for line in written] == ODD
    for end in ("\n", "\r\n"):
        denied.write_bytes(end.join(["", *ODD, " plain ", ""]).encode())
        assert read_ids(denied, {*ODD, "plain"}) == {*ODD, "plain"}
    assert history_ids(",".join([*ODD, " d e "]), set(ODD)) == [*ODD, "d e"]


def test_half_a_surrogate_pair_stays_an_escape(
    answers: Answers, tmp_path: Path, source: Path
) -> None:
    source.write_text('{"history": ["a"], "user": "\\ud83d"}\n')
    answers(source, tmp_path / "out.jsonl", "a")
    assert json.loads((tmp_path / "out.jsonl").read_text())["user"] == "\ud83d"


def test_ids_that_nobody_knows_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ids\x1b[2J.txt"
    for content, words in (("", "it holds no item ids"), ("x\ny", "does not know 2 of 2 item ids")):
        path.write_text(content)
        assert read_ids(path, {"a"}) == frozenset()
        shown = capsys.readouterr().err
        assert words in shown
        assert "ids\\x1b[2J.txt" in shown
        with pytest.raises(ExperimentError, match=r"knows none of its (0|2) item ids"):
            read_ids(path, {"a"}, strict=True)
    assert read_ids(None, {"a"}) is None


def test_an_unknown_id_names_the_option() -> None:
    with pytest.raises(ExperimentError, match=r"^--history must hold ids of the .*, got 'nobody'"):
        history_ids("a, nobody", {"a"})
    assert history_ids(" a ,,a,", {"a"}) == ["a", "a"]
    assert history_ids("", {"a"}) == []


def test_nothing_left_is_said(
    answers: Answers, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(*echo([[]]), {"a": "A"})
    shown = capsys.readouterr()
    assert "nothing is left to recommend for the history: --allow, --deny and" in shown.err
    assert shown.out == ""
    answers(source, tmp_path / "out.jsonl", "a")
    assert "nothing is left to recommend for 1 of 2 histories" in capsys.readouterr().err


def test_titles_are_shown_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """What is in square brackets is no markup, and what would steer the terminal does not."""
    titles = {"a\x1b": "[/x] [red] \x1b[2J\x9b\u202e"}
    show(*echo([list(titles)]), titles)
    shown = capsys.readouterr().out
    assert "[/x] [red] \\x1b[2J\\x9b\\u202e" in shown
    assert "a\\x1b" in shown
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, source: Path) -> None:
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    for path in (run / "run.json", run / "data/items.jsonl", run / "mine", tmp_path / "old"):
        path.write_text("{}")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")

    def check(output: Path, *, force: bool = True) -> None:
        check_output(output, run=run, inputs=(source, None), force=force)

    for output in (source, tmp_path / "link", tmp_path / "hard"):
        with pytest.raises(ExperimentError, match=f"must not be a file that is read, got {output}"):
            check(output)
    for output in (run / "run.json", run / "data/../data/items.jsonl"):
        with pytest.raises(ExperimentError, match="must not be a file of the run"):
            check(output)
    with pytest.raises(
        ExperimentError, match=r"the folder .*gone is missing: choose another --out"
    ):
        check(tmp_path / "gone/answers")
    with pytest.raises(ExperimentError, match="run is a folder, not a file"):
        check(run)
    with pytest.raises(ExperimentError, match="old exists: choose another --output, or --force"):
        check(tmp_path / "old", force=False)
    for output in (run / "mine", tmp_path / "old", tmp_path / "new"):
        check(output)


def test_answers_to_a_pipe_come_from_a_pipe(
    answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is read or opened twice, and neither is replaced."""
    source, output, content = tmp_path / "in", tmp_path / "out", []
    os.mkfifo(source)
    os.mkfifo(output)
    threads = [
        threading.Thread(target=lambda: source.write_text('{"history": ["a"]}\n')),
        threading.Thread(target=lambda: content.append(output.read_text())),
    ]
    for thread in threads:
        thread.start()
    check_output(output, run=tmp_path, inputs=(source,), force=False)
    answers(source, output, "a")
    for thread in threads:
        thread.join()
    assert json.loads(content[0])["items"][0]["item_id"] == "a"
    assert all(stat.S_ISFIFO(path.stat().st_mode) for path in (source, output))
    assert capsys.readouterr().out == ""
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_an_output_that_came_meanwhile_stays(
    answers: Answers, tmp_path: Path, source: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("another's")
    with pytest.raises(ExperimentError, match="exists: choose another --output, or --force"):
        answers(source, output, "a")
    assert output.read_text() == "another's"
    answers(source, output, "a", force=True)
    assert output.read_text().count("\n") == 2


def test_histories_come_from_parquet_and_go_to_tables(answers: Answers, tmp_path: Path) -> None:
    source = tmp_path / "histories.parquet"
    table = pl.DataFrame({"user": [7, 8], "history": [["a", "b"], ["b"]], "weight": [0.5, 1.0]})
    table.write_parquet(source)
    for suffix in (".csv", ".parquet"):
        answers(source, tmp_path / f"out{suffix}", "a", "b")
    written = pl.read_parquet(tmp_path / "out.parquet")
    assert written.select("user", "rank", "item").rows() == [
        ("7", 1, "a"),
        ("7", 2, "b"),
        ("8", 1, "b"),
    ]
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == [
        "user,rank,item,score,title",
        "7,1,a,1.0,title of a",
    ]
    answers(source, tmp_path / "out.jsonl", "a", "b")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["user"], line["weight"]) for line in lines] == [(7, 0.5), (8, 1.0)]
    with pytest.raises(ExperimentError, match=r"histories\.parquet, row 1: unknown item id 'b'"):
        answers(source, tmp_path / "new.jsonl", "a")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_stopped_command_goes_on_with_the_parts_that_are_missing(
    answers: Answers, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend, "USERS_AT_ONCE", 10)
    source, output, whole = (tmp_path / f"{name}{suffix}" for name in ("in", "out", "whole"))
    source = source.with_suffix(".jsonl")
    queries = [{"history": [f"i{row % 3}", f"i{row % 2}"], "user": row} for row in range(25)]
    source.write_text("".join(json.dumps(query) + "\n" for query in queries))
    known, answered = ("i0", "i1", "i2"), []
    answers(source, whole, *known)

    def until(most: int) -> Any:
        def stream(histories: Iterable[list[str]]) -> Iterator[Answer]:
            for answer in echo(histories):
                answered.append(answer)
                if len(answered) > most:
                    raise KeyboardInterrupt
                yield answer

        return stream

    with pytest.raises(KeyboardInterrupt):
        answers(source, output, *known, stream=until(12))
    assert not output.exists()
    content = source.read_text()
    source.write_text(content.replace("i0", "i1", 1))
    with pytest.raises(ExperimentError, match=r"\.parts holds what another command was writing"):
        answers(source, output, *known)
    source.write_text(content)
    answered.clear()
    answers(source, output, *known, stream=until(99))
    assert len(answered) == 15  # of 25: the first part was there
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_a_line_at_the_end_is_refused_before_anything_is_answered(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend, "USERS_AT_ONCE", 1)
    source = tmp_path / "histories.jsonl"
    source.write_text('{"history": ["a"]}\n{"history": ["b"]}\n')

    def never(histories: Iterable[list[str]]) -> Iterator[Answer]:
        raise AssertionError

    with pytest.raises(ExperimentError, match=r"line 2: unknown item id 'b'"):
        answers(source, tmp_path / "out.jsonl", "a", stream=never)
    assert os.listdir(tmp_path) == ["histories.jsonl"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"history": ["a"]}, 'a column "history" must hold lists of item ids, got history'),
        ({"history": [["a"]], "items": [1]}, 'row 1: the key "items" is the answer'),
        ({"history": [["a"]], "popular": [1]}, 'row 1: the key "popular" is the answer'),
        ({"history": [[0.5]]}, '"history" must be a list of item ids'),
        ({"history": [["a"]], "day": [date(2030, 1, 1)]}, "history 1: .*date.*: leave it out"),
    ],
)
def test_tables_that_have_no_answer_are_refused(
    answers: Answers, tmp_path: Path, columns: dict[str, list[object]], words: str
) -> None:
    source = tmp_path / "histories.parquet"
    pl.DataFrame(columns).write_parquet(source)
    with pytest.raises(ExperimentError, match=words):
        answers(source, tmp_path / "out.jsonl", "a")
    source.write_bytes(b"PAR1")
    with pytest.raises(ExperimentError, match=r"histories\.parquet cannot be read as parquet"):
        answers(source, tmp_path / "out.jsonl", "a")
    assert os.listdir(tmp_path) == ["histories.parquet"]


def test_rows_of_a_table_need_a_user(answers: Answers, tmp_path: Path, source: Path) -> None:
    with pytest.raises(ExperimentError, match='history 1: "user" must be a text or a whole number'):
        answers(source, tmp_path / "out.csv", "a")
    assert os.listdir(tmp_path) == ["histories.jsonl"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give one of --history, --input and --users"),
        ({"history": "a", "users": "all"}, "give one of --history, --input and --users"),
        ({"users": "all"}, "--input and --users need --output"),
        ({"history": "a", "output": Path("out")}, "--output is only for --input and --users"),
        ({"history": "a", "interactions": Path("new")}, "--interactions goes with --users"),
        ({"history": "a", "per_group": 2}, "--per-group goes with --diversify"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        AnswerOptions(run=Path("run"), **options).check()


def test_a_csv_of_histories_is_refused(tmp_path: Path) -> None:
    options = AnswerOptions(run=tmp_path, source=tmp_path / "in.csv", output=tmp_path / "out.csv")
    with pytest.raises(ExperimentError, match=r"--input must be JSONL, or \.parquet with a column"):
        options.check()


def test_unknown_ids_may_be_skipped(source: Path) -> None:
    assert [query["history"] for query in read_histories(source, {}, "skip")] == [["a"], []]
    assert history_ids("a, nobody", {"a"}, "skip") == ["a", "nobody"]


def test_a_counter_ends_with_what_was_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain lines, one every period: a bar that said 3,000 of 3,001 says how it ended."""
    monkeypatch.setattr(Bar, "PERIOD", 0.0)
    with Screen().bar("items") as bar:
        bar.update(3000, 3001)
        monkeypatch.setattr(Bar, "PERIOD", 60.0)
        bar.update(3001, 3001)
    assert capsys.readouterr().err == "items: 3,000 of 3,001\nitems: 3,001 of 3,001\n"
    with Screen().bar("quick") as bar:  # one that never said anything has nothing to end
        bar.update(3001, 3001)
    monkeypatch.setattr(Bar, "PERIOD", 0.0)
    with pytest.raises(KeyError):
        fail_at(2, "broken")
    assert capsys.readouterr().err == "broken: 1 of 3\n"


def fail_at(count: int, title: str) -> None:
    """A bar that has said one less than `count` when its work fails."""
    with Screen().bar(title) as bar:
        bar.update(count - 1, 3)
        bar.PERIOD = 60.0  # type: ignore[misc]
        bar.update(count, 3)
        raise KeyError
