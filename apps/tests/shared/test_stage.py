"""Stages: what they depend on, what they are called, when they are filled and what from."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semrec.shared import run as run_module
from semrec.shared.data import Choosing, Columns
from semrec.shared.environment import environment, made_by, note_environment
from semrec.shared.errors import ExperimentError
from semrec.shared.files import read_json, write_json
from semrec.shared.run import Run
from semrec.shared.screen import Screen
from semrec.shared.stage import Setting, Stage
from semrec.shared.text import visible


@dataclass(frozen=True, kw_only=True)
class Text:
    embedding: str = "lsa"
    further: tuple[str, ...] = ()
    dim: int = 8


@dataclass(frozen=True, kw_only=True)
class Model:
    dim: int = 4
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    columns: Columns = field(default_factory=Columns)
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    evaluation: Choosing = field(default_factory=Choosing)


def begin(path: Path) -> Run:
    config = dataclasses.asdict(Config())
    return Run.begin(path, app="any", config=config, data="0", screen=Screen())


def setting_of(run: Run) -> Setting[Any]:
    return Setting(run=run, inputs=None, config=Config(), device=torch.device("cpu"))


@pytest.fixture
def setting(tmp_path: Path) -> Setting[Any]:
    return setting_of(begin(tmp_path / "run"))


class Steps:
    """Three stages, each after the one before it, whose results are a letter longer each time.

    Args:
        setting: Their run and configuration.
        during: Called with a stage's name while its folder is filled.
    """

    def __init__(
        self, setting: Setting[Any], during: Callable[[str], object] = lambda _: None
    ) -> None:
        self.filled: list[str] = []
        self.setting, self.during = setting, during
        self.text = self.stage("text", ("text",))
        self.train = self.stage("train", ("seed", "model"), (self.text,))
        self.test = self.stage("test", ("evaluation.ks", "model"), (self.train,))

    def stage(
        self, name: str, reads: tuple[str, ...] = (), after: tuple[Stage[str], ...] = ()
    ) -> Stage[str]:
        def fill(folder: Path) -> dict[str, str]:
            before = "".join(stage.result() for stage in after)
            self.filled.append(name)
            self.during(name)
            (folder / "letters").write_text(before + name[0])
            return {"letter": name[0]}

        return self.setting.stage(
            name,
            reads=reads,
            after=after,
            fill=fill,
            load=lambda folder: (folder / "letters").read_text(),
        )


def test_a_stage_depends_on_what_it_reads_and_on_what_those_before_it_do(
    setting: Setting[Any],
) -> None:
    steps = Steps(setting)
    assert steps.text.depends_on == ("text",)
    assert steps.train.depends_on == ("seed", "model", "text")
    assert set(steps.test.depends_on) == {"evaluation.ks", "model", "seed", "text"}
    assert len(steps.test.depends_on) == 4  # "model" is read by two of them
    assert steps.test.before == (steps.text, steps.train)
    joined = steps.stage("joined", ("columns",), (steps.text, steps.test))
    assert set(joined.depends_on) == {"columns", *steps.test.depends_on}


def test_stages_before_are_filled_first_and_each_once(setting: Setting[Any]) -> None:
    steps = Steps(setting)
    assert not steps.test.is_complete
    assert steps.test.result() == "ttt"
    assert steps.filled == ["text", "train", "test"]
    assert steps.test.complete()["letter"] == "t"
    assert steps.text.is_complete
    assert steps.train.file("letters").read_text() == "tt"
    again = Steps(setting)
    assert again.test.result() == "ttt"
    assert again.filled == []


def test_a_variant_has_folders_of_its_own_from_the_first_stage_that_differs(
    setting: Setting[Any],
) -> None:
    """Also where a later stage reads nothing of what is different."""

    def names(variant: Setting[Any]) -> list[str]:
        steps = Steps(variant)
        return [stage.folder_name for stage in (steps.text, steps.train, steps.test)]

    assert names(setting) == ["text", "train", "test"]
    assert names(setting.varied(text={"dim": 2})) == [
        "variants/text,text.dim=2",
        "variants/train,text.dim=2",
        "variants/test,text.dim=2",
    ]
    both = setting.varied(seed=3, model={"dropout": 0.2})
    assert names(both) == [
        "text",
        "variants/train,seed=3,model.dropout=0.2",
        "variants/test,seed=3,model.dropout=0.2",
    ]
    tested = setting.varied(evaluation={"ks": (1,), "validation_users": 9})
    assert names(tested)[:2] == ["text", "train"]
    assert names(tested)[2].startswith("variants/test,evaluation.ks=_1_")
    assert "validation_users" not in names(tested)[2]
    assert names(setting.varied(seed=0, text={"dim": 8})) == ["text", "train", "test"]

    plain, variant = Steps(setting), Steps(setting.varied(model={"dim": 2}))
    plain.test.complete()
    variant.test.complete()
    assert variant.filled == ["train", "test"]  # the text is the run's


def test_a_stage_takes_only_what_it_comes_after(setting: Setting[Any]) -> None:
    steps = Steps(setting)
    other = steps.stage("other")
    words = r"^the stage that is being filled uses (\w+) without naming it in `after`"
    for take in (other.result, other.complete, lambda: other.file("letters")):
        wrong = setting.stage(
            "wrong", reads=(), after=(steps.text,), fill=lambda _, take=take: take(), load=str
        )
        with pytest.raises(AssertionError, match=words.replace(r"(\w+)", "other")):
            wrong.complete()
        assert not wrong.is_complete
    assert steps.filled == ["text"]
    other.complete()  # outside of stages, whatever there was before
    with pytest.raises(AssertionError, match=words):
        wrong.complete()  # and it makes no difference that the other one is complete
    text, train = steps.text, steps.train
    through = setting.stage(
        "through", reads=(), after=(train,), fill=lambda _: {"of": text.result()}, load=str
    )
    assert through.complete()["of"] == "t"


def test_what_is_complete_does_not_touch_what_is_before_it(setting: Setting[Any]) -> None:
    Steps(setting).test.complete()
    for name in ("text", "train"):
        shutil.rmtree(setting.run.path / name)
    steps = Steps(setting)
    assert steps.test.result() == "ttt"
    assert steps.test.complete()["letter"] == "t"
    assert steps.filled == []
    assert not (setting.run.path / "text").exists()
    shutil.rmtree(setting.run.path / "test")
    assert Steps(setting).test.result() == "ttt"
    assert (setting.run.path / "text/stage.json").exists()


def test_a_reopened_run_fills_nothing(setting: Setting[Any]) -> None:
    path = setting.run.path
    with pytest.raises(ExperimentError, match="not complete: repeat the command that began it"):
        Run.reopen(path, Screen())
    Steps(setting).train.complete()
    (path / "metrics.json").write_text("{}")

    def contents() -> dict[Path, int]:
        return {part: part.stat().st_mtime_ns for part in path.rglob("*")}

    before = contents()
    reopened = setting_of(Run.reopen(path, Screen()))
    steps = Steps(reopened)
    assert steps.train.result() == "tt"
    for take in (steps.test.complete, steps.test.result, lambda: steps.test.file("letters")):
        with pytest.raises(ExperimentError) as refusal:
            take()
        assert str(refusal.value) == (
            f"{path / 'test'} is missing or damaged: repeat the command that began the run"
        )
    with pytest.raises(ExperimentError, match="a run that answers has no data to read"):
        _ = reopened.data
    assert steps.filled == []
    assert contents() == before
    shutil.rmtree(path / "text")
    assert Steps(reopened).train.result() == "tt"
    with pytest.raises(ExperimentError, match=r"run/text is missing or damaged"):
        Steps(reopened).text.result()


def test_a_folder_of_no_run_is_not_reopened(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"run\.json is missing: is this the folder of a run"):
        Run.reopen(tmp_path, Screen())


def test_files_of_a_variant_count_by_their_contents(setting: Setting[Any], tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"

    def name(**text: Any) -> str:
        return Steps(setting.varied(text=text)).train.folder_name

    absent = name(embedding=str(path))
    names = []
    for content in (b"first", b"second", b"first"):
        path.write_bytes(content)
        names.append(name(embedding=str(path)))
    assert names[0] == names[2]
    assert len({absent, *names}) == 3
    assert all("vectors.npy_" in with_digest for with_digest in names)  # "_" stands for "@"
    assert "vectors.npy_" not in absent
    in_list = [name(further=("lsa", str(path)))]
    path.write_bytes(b"second")
    in_list.append(name(further=("lsa", str(path))))
    assert in_list[0] != in_list[1]
    # The run's own file is part of what the run is of, and its stages keep their plain names.
    config = dataclasses.replace(Config(), text=Text(embedding=str(path)))
    run = Run.begin(
        tmp_path / "other",
        app="any",
        config=dataclasses.asdict(config),
        data="0",
        screen=Screen(),
    )
    plain = Setting(run=run, inputs=None, config=config, device=torch.device("cpu"))
    assert Steps(plain).train.folder_name == "train"


def test_folders_of_a_variant_count_by_their_contents(
    setting: Setting[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    variant = setting.varied(text={"embedding": str(folder)})
    names = [Steps(variant).text.folder_name]
    for content in ("one", "two", "one"):
        (folder / "weights" / "part.txt").write_text(content)
        names.append(Steps(variant).text.folder_name)
    assert len(set(names)) == 3
    assert names[1] == names[3]
    (folder / "config.json").write_text("{}")
    assert Steps(variant).text.folder_name not in names


def test_the_seconds_of_a_stage_leave_out_those_before_it(
    setting: Setting[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, is_broken = [0.0], [True]
    seconds = {"text": 5.0, "train": 3.0, "test": 2.0}
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def during(name: str) -> None:
        now[0] += seconds[name]
        if name == "train" and is_broken[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Steps(setting, during).test.complete()
    is_broken[0] = False
    steps = Steps(setting, during)
    assert steps.test.complete()["seconds"] == 2
    assert steps.train.complete()["seconds"] == 3  # of the try that completed it
    assert steps.text.complete()["seconds"] == 5
    assert steps.filled == ["train", "test"]


def test_damage_to_what_a_stage_left_is_seen_before_it_is_used(setting: Setting[Any]) -> None:
    Steps(setting).test.complete()
    folder = setting.run.path / "train"
    words = f"remove the folder {folder} and repeat the command that began the run"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"letters", "stage.json"}  # the lock is gone

    def refusal(take: Callable[[Stage[str]], object] = Stage.result) -> str:
        run = begin(setting.run.path)  # each process looks once
        with pytest.raises(ExperimentError) as error:
            take(Steps(setting_of(run)).train)
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        return str(error.value)

    (folder / "letters").write_text("tx")
    assert refusal() == f"{folder / 'letters'} is damaged: {words}"
    (folder / "letters").write_text("tx")
    assert refusal(lambda stage: stage.file("stage.json")) == (
        f"{folder / 'letters'} is damaged: {words}"
    )
    (folder / "letters").unlink()
    assert refusal() == f"{folder / 'letters'} is missing: {words}"
    for old, new in ((b'"t"', b'"u"'), (b'"letters"', b'"letter5"'), (b'"files"', b'"filez"')):
        (folder / "stage.json").write_bytes(kept["stage.json"].replace(old, new))
        assert "stage.json is damaged" in refusal()

    (folder / "log.jsonl").write_text("added")  # what a training keeps for itself is not looked at
    steps = Steps(setting_of(begin(setting.run.path)))
    assert steps.train.result() == "tt"
    (folder / "letters").write_text("tx")
    assert steps.train.result() == "tx"  # looked at once


def test_a_damaged_stage_is_not_taken_by_those_after_it(setting: Setting[Any]) -> None:
    Steps(setting).train.complete()
    (setting.run.path / "text/letters").write_text("x")
    steps = Steps(setting_of(begin(setting.run.path)))
    shutil.rmtree(setting.run.path / "train")
    with pytest.raises(ExperimentError, match="text/letters is damaged: remove the folder"):
        steps.test.complete()
    shutil.rmtree(setting.run.path / "text")
    assert Steps(setting_of(begin(setting.run.path))).test.result() == "ttt"


def test_what_an_interrupted_try_was_writing_is_swept(setting: Setting[Any]) -> None:
    folder = setting.run.path / "text"
    (folder / ".tokenizer.77.part").mkdir(parents=True)
    (folder / ".tokenizer.77.part/codes").write_text("half")
    (folder / ".weights.safetensors.77.part").write_text("half")
    (folder / "log.jsonl").write_text("goes on")
    Steps(setting).text.complete()
    assert {path.name for path in folder.iterdir()} == {"log.jsonl", "letters", "stage.json"}
    assert list(read_json(folder / "stage.json")["files"]) == ["letters"]


def test_what_a_kill_left_beside_a_complete_stage_is_swept(setting: Setting[Any]) -> None:
    """As between the name of "stage.json" and the end of the folder that it was written in."""
    steps = Steps(setting)
    steps.text.complete()
    folder = setting.run.path / steps.text.folder_name
    (folder / ".stage.json.0123456789abcdef.evalrec-part").mkdir()
    again = Steps(setting)
    assert again.text.complete()["letter"] == "t"
    assert again.filled == []
    assert [path.name for path in folder.glob(".*")] == []


def test_a_full_disk_in_a_stage_names_its_folder(setting: Setting[Any]) -> None:
    def during(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExperimentError, match="run/text cannot be written: No space left on dev"):
        Steps(setting, during).text.complete()
    assert Steps(setting).text.result() == "t"


def test_of_two_runs_that_begin_at_once_one_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.asdict(Config(seed=3))
    write = run_module.write_sealed

    def later(path: Path, value: Any, **options: Any) -> None:
        monkeypatch.setattr(run_module, "write_sealed", write)
        Run.begin(path.parent, app="any", config=other, data="0", screen=Screen())
        write(path, value, **options)

    monkeypatch.setattr(run_module, "write_sealed", later)
    with pytest.raises(ExperimentError, match=r"another run .seed is 3 there and 0 now"):
        begin(tmp_path / "run")
    assert read_json(tmp_path / "run/run.json")["config"]["seed"] == 3


def test_what_a_run_is_of_is_read_with_care(setting: Setting[Any]) -> None:
    marker = setting.run.path / "run.json"
    text = marker.read_text()
    for old, new, words in (
        ('"seed": 0', '"seed": 1', r"run\.json is damaged"),
        ('"format": 2', '"format": 3', r"run\.json is damaged"),
        (text, '{"format": 3, "app": "any", "config": {}}', "format 3, this version reads 1 to 2"),
        (text, '{"format": true, "app": "any", "config": {}}', "choose the folder of a run"),
        (text, '{"format": 2, "app": "any", "config": []}', "choose the folder of a run"),
        (text, '{"format": 2, "app": "any", "config": {}}', "lacks its own digest"),
        (text, "[" * 100_000, "not JSON"),
    ):
        marker.write_text(text.replace(old, new))
        for take in (begin, lambda path: Run.reopen(path, Screen())):
            with pytest.raises(ExperimentError, match=words):
                take(setting.run.path)


def test_a_run_of_the_first_format_goes_on(setting: Setting[Any]) -> None:
    """It had no digests."""
    Steps(setting).text.complete()
    for path in (setting.run.path / "run.json", setting.run.path / "text/stage.json"):
        value = read_json(path)
        value.pop("files", None)
        path.write_text(json.dumps(value | ({"format": 1} if "format" in value else {})))
    steps = Steps(setting_of(begin(setting.run.path)))
    assert steps.test.result() == "ttt"
    assert steps.filled == ["train", "test"]


def test_another_environment_is_said_once_and_goes_on(
    setting: Setting[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    note_environment(setting.run, cpu)
    kept = read_json(setting.run.path / "environment.json")["environments"]
    assert kept == [environment(cpu)]
    assert kept[0]["threads"] == threads
    assert all(kept[0][name] for name in ("semrec", "torch", "cpu", "device"))
    note_environment(setting.run, cpu)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    for _ in range(2):
        note_environment(begin(setting.run.path), cpu)
    shown = capsys.readouterr().err
    assert shown.count("begun under another environment") == 1
    assert f"(threads {threads} then, {threads + 1} now)" in shown
    begun = read_json(setting.run.path / "environment.json")["made_by"]
    assert set(begun) == {"command", "version", "begun"}
    assert made_by(setting.run) == begun
    # Of a run that an earlier version began it is not known, and is not made up.
    write_json(setting.run.path / "environment.json", {"environments": [{"torch": "1"}]})
    note_environment(setting.run, cpu)
    assert made_by(setting.run) == {}
    (setting.run.path / "environment.json").write_text("[")
    note_environment(setting.run, cpu)
    assert len(read_json(setting.run.path / "environment.json")["environments"]) == 1


def test_what_is_shown_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("[red]a\x1b[2J\x9b\u202eb\udc80\u2028")
    assert capsys.readouterr().err == "[red]a\\x1b[2J\\x9b\\u202eb\\udc80\\u2028\n"
    assert visible("Les Misérables 🙂 שלום") == "Les Misérables 🙂 שלום"
