"""The gate of a pipeline: its rule, held against a plain bootstrap, and its command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from evalrec import Queries, Report, evaluate, gate, gate_text
from evalrec.cli import main

NUM_USERS, NUM_ITEMS = 400, 50


@pytest.fixture(scope="module")
def queries() -> Queries:
    rng = np.random.default_rng(0)
    return Queries(
        histories=list(rng.integers(NUM_ITEMS, size=(NUM_USERS, 2))),
        targets=rng.integers(NUM_ITEMS, size=NUM_USERS),
        num_items=NUM_ITEMS,
        cold=np.zeros(NUM_USERS, dtype=bool),
    )


@pytest.fixture(scope="module")
def reports(queries) -> dict[str, Report]:
    """An old system, a bad one, and `slips`: the old one but for five users, whom it fails."""
    rng = np.random.default_rng(1)
    scores = rng.random((NUM_USERS, NUM_ITEMS))
    users = np.arange(NUM_USERS)
    scores[users, queries.targets] += 0.6
    slips = scores.copy()
    slips[users[:5], queries.targets[:5]] = -1.0
    models = {"old": scores, "bad": rng.random((NUM_USERS, NUM_ITEMS)), "slips": slips}
    return {name: evaluate(queries, model, name=name) for name, model in models.items()}


def plain_lower_end(new: Report, old: Report, metric: str, mode: str) -> float:
    """The 2.5 % percentile of the mean difference of users drawn with replacement, one by one."""
    differences = new.per_user(metric, mode) - old.per_user(metric, mode)
    rng = np.random.default_rng(5)
    means = [differences[rng.integers(NUM_USERS, size=NUM_USERS)].mean() for _ in range(4000)]
    return float(np.percentile(means, 2.5))


@pytest.mark.parametrize("mode", ["filtered", "unfiltered"])
def test_new_passes_where_the_worst_end_of_the_interval_is_within_the_tolerance(reports, mode):
    new, old = reports["slips"], reports["old"]
    lower = plain_lower_end(new, old, "recall@10", mode)
    assert -0.03 < lower < -0.01
    options = {"metric": "recall@10", "mode": mode}
    assert not gate([new], [old], tolerance=f"{0.8 * -lower:.5f}", **options).passed
    passing = gate([new], [old], tolerance=f"{1.2 * -lower:.5f}", **options)
    assert passing.passed
    assert passing.worst == passing.difference.low == pytest.approx(lower, abs=0.002)
    share = 100 * 1.2 * -lower / passing.old.mean
    of_mean = gate([new], [old], tolerance=f"{share:.4f} %", **options)
    assert of_mean.passed
    assert of_mean.allowed == pytest.approx(passing.allowed, abs=1e-4)
    mean = passing.difference.mean
    assert mean == pytest.approx(
        (new.per_user("recall@10", mode) - old.per_user("recall@10", mode)).mean()
    )
    between = gate([new], [old], tolerance=f"{-(mean + lower) / 2:.5f}", **options)
    assert (between.passed, between.undecided) == (False, True)
    assert "few users cannot show it" in gate_text(between)


def test_the_same_passes_and_the_bad_fails(reports):
    old, bad = reports["old"], reports["bad"]
    assert gate([old], [old], tolerance="0").passed
    worse = gate([bad], [old], tolerance="50%")
    assert (worse.passed, worse.undecided) == (False, False)
    assert gate([old], [bad], tolerance="0").passed
    pooled = gate([old, bad], [old, bad])
    assert pooled.passed
    assert pooled.difference == (0.0, 0.0, 0.0)


def test_where_less_is_better_the_upper_end_counts(reports):
    users = np.linspace(0.0, 1.0, NUM_USERS)

    def with_values(shift: float) -> Report:
        values = {"miscalibration@10": users + shift}
        return replace(reports["old"], list_values={"unfiltered": values, "filtered": values})

    options = {"metric": "miscalibration@10", "tolerance": "0.05"}
    assert gate([with_values(0.04)], [with_values(0.0)], **options).passed
    assert not gate([with_values(0.06)], [with_values(0.0)], **options).passed
    assert gate([with_values(-0.5)], [with_values(0.0)], **options).passed


def test_a_tolerance_that_lets_everything_pass_is_refused(reports):
    old = reports["old"]
    mean = old.estimate("ndcg@10", "unfiltered").mean
    assert gate([old], [old], tolerance=f"{mean * 0.99:.5f}").passed
    with pytest.raises(
        ValueError, match=r"less than OLD's mean of .*, got 2: .* the sign %, as 2%"
    ):
        gate([old], [old], tolerance="2")


@pytest.mark.parametrize("tolerance", ["", "x", "-1", "100%", "1e-3", "nan", "0.5 percent"])
def test_a_tolerance_that_is_none_is_refused(reports, tolerance):
    with pytest.raises(ValueError, match="tolerance must be a share below 100 % such as 0"):
        gate([reports["old"]], [reports["old"]], tolerance=tolerance)


@pytest.fixture
def evalrec(monkeypatch, capsys):
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evalrec", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def runs(reports, tmp_path):
    """Two runs as the apps leave them, and a report of other users."""
    for run, model in (("new", "slips"), ("old", "old")):
        test = {}
        for name, report in (("model", reports[model]), ("floor: graph", reports["bad"])):
            folder = tmp_path / run / name.replace(": ", "_")
            folder.mkdir(parents=True)
            report.write_json(folder / "report.json")
            test[name] = report.to_json(per_user=False)
        (tmp_path / run / "metrics.json").write_text(json.dumps({"test": test}))
    replace(reports["old"], queries="other").write_json(tmp_path / "other.json")
    return tmp_path


def test_the_command_says_yes_no_or_wrong_call_by_its_exit_code(evalrec, runs):
    new, old = runs / "new" / "model" / "report.json", runs / "old" / "model" / "report.json"
    code, out, err = evalrec("gate", new, old, "--metric", "recall@10", "--tolerance", "5%")
    assert (code, err) == (0, "")
    means, difference, verdict, rule = out.splitlines()
    assert means.startswith("Recall@10, filtered, 400 users: NEW 0.")
    assert "tolerance" in difference
    assert difference.endswith("5% of OLD")
    assert verdict == "passed"
    assert rule.startswith("Rule: NEW passes where the lower end of the paired 95 % interval")
    code, out, _ = evalrec("gate", new, old, "--metric", "recall@10", "--tolerance", "0.001")
    assert code == 1
    assert out.splitlines()[2] == "failed"
    code, out, _ = evalrec("gate", old, new, "--json", "--mode", "unfiltered")
    assert code == 0
    document = json.loads(out)
    assert (document["passed"], document["mode"], document["metric"]) == (
        True,
        "unfiltered",
        "ndcg@10",
    )
    for wrong, words in (
        (["--metric", "recall"], "metric must be one of recall@5"),
        (["--tolerance", "much"], "tolerance must be a share below 100 %"),
        (["--mode", "both"], "'both' is not one of"),
        (["--samples", "1"], "--samples"),
    ):
        code, out, err = evalrec("gate", new, old, *wrong)
        assert (code, out) == (2, "")
        assert words in err
    assert evalrec("gate", new)[0] == 2


def test_the_command_takes_runs_and_refuses_other_queries(evalrec, runs):
    code, out, err = evalrec("gate", runs / "new", runs / "old")
    assert (code, out) == (2, "")
    assert "holds model, floor: graph: --system must name one of them" in err
    assert evalrec("gate", runs / "new", runs / "old", "--system", "floor: graph")[0] == 0
    assert evalrec("gate", runs / "new", runs / "old", "--system", "model")[0] == 1
    assert evalrec("gate", f"x={runs / 'new'}", runs / "old", "--system", "floor: graph")[0] == 0
    report = runs / "new" / "model" / "report.json"
    code, out, err = evalrec("gate", report, runs / "other.json")
    assert (code, out) == (1, "")
    assert "reports must be of the same queries, got other histories or targets" in err
    assert evalrec("gate", report, runs / "nowhere.json")[0] == 1
