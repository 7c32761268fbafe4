"""`--logger`: what each tracker keeps of a run's trainings is what `log.jsonl` says of them."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from semrec.shared.curves import Curves, check_logger

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]
Points = dict[str, list[tuple[int, float]]]
"""By name, the steps and the figures."""


def logged(folder: Path) -> Points:
    """What the log of a training says, as a tracker is to have it."""
    points: Points = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        figures = {f"loss/{name}": value for name, value in record["losses"].items()}
        figures |= {f"validation/{name}": value for name, value in record["metrics"].items()}
        for name in ("learning_rate", "gradient_norm", "samples_per_second"):
            figures[name] = record[name]
        for name, value in figures.items():
            points.setdefault(name, []).append((record["step"], value))
    return points


def of_csv(folder: Path, stage: str) -> Points:
    with (folder / stage / "version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["epoch"]]
    names = [name for name in rows[0] if not name.startswith("step") and name != "epoch"]
    return {name: [(int(row["step"]), float(row[name])) for row in rows] for name in names}


def of_tensorboard(folder: Path, stage: str) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / stage / "version_0"))
    events.Reload()
    return {
        name: [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def of_mlflow(folder: Path, stage: str) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tssr")
    (run,) = (
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.info.run_name.partition("/")[2] == stage
    )
    assert run.info.status == "FINISHED"
    return {
        name.replace(" at ", "@"): [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of an offline run: parts in blocks of 32 KiB, as in a log of LevelDB."""
    content, place, record = path.read_bytes(), 7, b""  # after the file's mark
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def of_wandb(folder: Path, stage: str) -> Points:
    from wandb.proto.wandb_internal_pb2 import Record

    points: Points = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        name, rows = "", []
        for data in wandb_records(path):
            record = Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            if record.HasField("history"):
                keys = (item.key or "/".join(item.nested_key) for item in record.history.item)
                values = (json.loads(item.value_json) for item in record.history.item)
                rows.append(dict(zip(keys, values, strict=True)))
        if name.partition("/")[2] != stage:
            continue
        for row in rows:
            step = row.pop("trainer/global_step")
            for key, value in row.items():
                points.setdefault(key, []).append((step, value))
    return points


@pytest.fixture(scope="module")
def resumed(
    launch: Launch, completed: OfApp, data: Path, small: OfApp, tmp_path_factory: Any
) -> Callable[[str], tuple[Path, str]]:
    """Trains TSSR again within a copy of a complete run, with a logger; what it printed."""

    def resumed(kind: str) -> tuple[Path, str]:
        run = tmp_path_factory.mktemp(kind) / "kept"
        shutil.copytree(completed("tssr"), run)
        shutil.rmtree(run / "tssr")
        done = again(launch, data, small, run, "--logger", kind)
        assert done.returncode == 0, done.stderr
        assert "data: complete, kept" in done.stderr
        return run, done.stdout

    return resumed


def again(launch: Launch, data: Path, small: OfApp, run: Path, *further: object) -> Any:
    same = ("--data", data, "--out", run, "--config", small("tssr"), "--device", "cpu")
    return launch("tssr", "run", *same, *further)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the trackers use
@pytest.mark.parametrize(
    ("kind", "read", "shows"),
    [
        ("csv", of_csv, "curves: {curves}, one metrics.csv per stage"),
        ("tensorboard", of_tensorboard, "curves: tensorboard --logdir {curves}"),
        pytest.param(
            "mlflow",
            of_mlflow,
            "curves: mlflow ui --backend-store-uri sqlite:///{curves}/mlflow.db",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "wandb", of_wandb, "curves: wandb sync {curves}/wandb/*run-*", marks=pytest.mark.slow
        ),
    ],
)
def test_a_tracker_has_the_figures_of_the_log(
    kind: str,
    read: Callable[[Path, str], Points],
    shows: str,
    resumed: Callable[[str], tuple[Path, str]],
    completed: OfApp,
) -> None:
    run, printed = resumed(kind)
    assert printed.splitlines()[-1] == shows.format(curves=run / "curves")
    points = read(run / "curves", "tssr")
    expected = logged(run / "tssr")
    assert "validation/ndcg@10 filtered" in expected
    for name, line in expected.items():
        steps, values = zip(*line, strict=True)
        assert [step for step, _ in points[name]] == list(steps)
        assert [value for _, value in points[name]] == pytest.approx(values, rel=1e-6)
    assert (run / "metrics.json").read_text() == (completed("tssr") / "metrics.json").read_text()


def test_a_complete_stage_stays_so_and_a_second_start_is_a_second_version(
    launch: Launch, data: Path, small: OfApp, resumed: Callable[[str], tuple[Path, str]]
) -> None:
    run, _ = resumed("csv")
    first = run / "curves/tssr/version_0/metrics.csv"
    before = first.read_bytes()
    done = again(launch, data, small, run, "--logger", "tensorboard")
    assert (done.returncode, "tssr: complete, kept" in done.stderr) == (0, True)
    assert [path.name for path in (run / "curves/tssr").iterdir()] == ["version_0"]
    shutil.rmtree(run / "tssr")
    assert again(launch, data, small, run, "--logger", "csv").returncode == 0
    assert first.read_bytes() == before
    assert (run / "curves/tssr/version_1/metrics.csv").exists()


def test_without_a_logger_there_are_no_curves(completed: OfApp) -> None:
    run = completed("tssr")
    assert not (run / "curves").exists()
    assert Curves(run=run, app="tssr", kind="csv").hint is None


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_extra_is_named_before_anything_is_read(
    kind: Any, module: str, launch: Launch, tmp_path: Path
) -> None:
    def without(name: str) -> Any:
        return None if name == module else find_spec(name)

    with mock.patch("semrec.shared.curves.find_spec", without):
        done = launch(
            *("tssr", "run", "--data", tmp_path / "none", "--out", tmp_path / "run"),
            *("--logger", kind),
        )
    assert (done.returncode, done.stderr) == (
        1,
        f"error: --logger {kind} needs an extra (no module {module}): "
        f"pip install 'semrec[{kind}]'\n",
    )
    assert not (tmp_path / "run").exists()
    check_logger("csv")
    check_logger(None)


@pytest.fixture
def failing() -> Iterator[None]:
    """TensorBoard's files cannot be written."""
    target = "lightning_fabric.loggers.TensorBoardLogger.log_metrics"
    with mock.patch(target, side_effect=OSError("No space left on device")):
        yield


@pytest.mark.usefixtures("failing")
def test_a_logger_that_fails_ends_the_run_in_a_sentence_and_it_goes_on(
    launch: Launch, data: Path, small: OfApp, completed: OfApp, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(completed("tssr"), run)
    shutil.rmtree(run / "tssr")
    done = again(launch, data, small, run, "--logger", "tensorboard")
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: TensorBoardLogger could not log step ")
    assert error.endswith(
        ": No space left on device; the same call resumes from the last checkpoint, with another "
        "logger or none"
    )
    assert again(launch, data, small, run).returncode == 0
    assert (run / "metrics.json").read_text() == (completed("tssr") / "metrics.json").read_text()
