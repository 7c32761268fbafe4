"""The pages of reports and of comparisons, from Python and from the command line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from evalrec import Queries, Report, compare, evaluate, write_synthetic
from evalrec.cli import main
from evalrec.page import comparison_page, report_page

NASTY = "<b>&\u202e"


@pytest.fixture(scope="module")
def queries() -> Queries:
    generator = np.random.default_rng(0)
    return Queries(
        histories=list(generator.integers(40, size=(50, 3))),
        targets=generator.integers(40, size=50),
        num_items=40,
        cold=np.zeros(50, dtype=bool),
    )


def report_of(queries: Queries, seed: int, ks: tuple[int, ...] = (5, 10)) -> Report:
    scores = np.random.default_rng(seed).permuted(np.tile(np.arange(40), (50, 1)), axis=1)
    return evaluate(queries, scores[:, :20], ks=ks)


@pytest.fixture(scope="module")
def reports(queries) -> dict[str, Report]:
    return {"popularity": report_of(queries, 0), NASTY: report_of(queries, 1)}


def test_a_page_of_reports_holds_every_mean_and_a_chart_a_headline(reports, tmp_path):
    path = tmp_path / "page.html"
    report_page(reports, path, title=NASTY, summary={"graph": {"decay": 0.8}})
    page = path.read_text(encoding="utf-8")
    assert NASTY not in page
    for report in reports.values():
        for mode in ("unfiltered", "filtered"):
            for metric in ("recall@5", "ndcg@5", "recall@10", "ndcg@10"):
                assert f">{report.metrics[mode][metric].mean:.4f}<" in page
    assert re.findall(r"<figcaption>([^<]*)<", page) == [
        f"{metric}, {mode}"
        for metric in ("Recall@10", "NDCG@10")
        for mode in ("unfiltered", "filtered")
    ]
    assert "50 users, each target ranked among all 40 items" in page
    assert "<dt>decay</dt><dd>0.8</dd>" in page
    assert 'class="model"' not in page
    repeated = reports["popularity"].counts["repeated_targets"]
    assert repeated > 0
    assert f"{repeated} targets are in the history already" in page


def test_a_page_shows_the_metrics_and_marks_the_model_asked_for(reports, tmp_path):
    path = tmp_path / "page.html"
    report_page(reports, path, title="t", metrics=["mrr@5"], model="popularity")
    page = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+@\d+", page)) == {"MRR@5"}
    assert '<tr class="model"><th>popularity</th>' in page


def test_reports_that_all_users_agree_on_are_drawn(queries, tmp_path):
    """Rounding puts such a mean outside its interval, by the last digit."""
    lists = np.full((50, 3), -1)
    lists[:, 1], lists[:, 0] = queries.targets, (queries.targets + 1) % 40
    same = evaluate(queries, lists, ks=(3,))
    report_page({"same": same}, tmp_path / "page.html", title="t")
    assert f">{1 / np.log2(3):.4f}<" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_reports_that_cannot_stand_together_are_refused(queries, reports, tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match="reports must be at least one, got none"):
        report_page({}, path, title="t")
    with pytest.raises(ValueError, match=r"reports must share ks, got \(5, 10\) and, in 'b', \(5"):
        report_page({**reports, "b": report_of(queries, 2, ks=(5,))}, path, title="t")
    with pytest.raises(ValueError, match=r"metrics must be among .*, got 'mrr@7'"):
        report_page(reports, path, title="t", metrics=["mrr@7"])
    with pytest.raises(ValueError, match=r"model must be one of popularity, .*, got 'x'"):
        report_page(reports, path, title="t", model="x")
    with pytest.raises(FileNotFoundError):
        report_page(reports, tmp_path / "none" / "page.html", title="t")
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_a_comparison_holds_means_seeds_and_differences(queries, reports, tmp_path):
    systems = {"base": [reports["popularity"]], NASTY: [report_of(queries, s) for s in (1, 2)]}
    comparison = compare(systems, num_samples=200)
    path = tmp_path / "page.html"
    comparison_page(comparison, path, title="t")
    page = path.read_text(encoding="utf-8")
    assert '<tr class="model"><th>base</th>' in page
    assert "<h2>Differences from base</h2>" in page
    assert "<bdi>&lt;b&gt;&amp;\u202e</bdi></dt><dd>2</dd>" in page
    for system in comparison.systems:
        for estimate in system.figures.values():
            assert f">{estimate.mean:.4f}<" in page
    assert page.count("<figcaption>") == 4
    for difference in comparison.differences:
        assert f"{abs(difference.estimate.mean):.4f}".removeprefix("0") in page
    comparison_page(compare({"base": systems["base"]}, num_samples=200), path, title="t")
    assert "Differences" not in path.read_text(encoding="utf-8")


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evalrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_commands_write_pages(command, tmp_path):
    data = write_synthetic(tmp_path / "data", num_items=60, num_users=40)
    page, runs = tmp_path / "floors.html", tmp_path / "runs"
    code, stdout, stderr = command(
        *("floors", data, "--no-bpr", "--json", "--k", 5, "--out", runs, "--page", page)
    )
    assert (code, stdout[0]) == (0, "{")
    assert f"wrote {page}" in stderr
    text = page.read_text(encoding="utf-8")
    for words in ("<h1>Floors, test, data</h1>", "<th>graph + text</th>", "Recall@5, filtered"):
        assert words in text
    page = tmp_path / "compared.html"
    code, _, stderr = command("compare", runs, "--metric", "recall@5", "--page", page)
    assert (code, stderr) == (0, f"wrote {page}\n")
    assert "Differences from" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [("floors", "data"), ("compare", "data")])
def test_a_page_that_cannot_be_written_is_refused_first(
    arguments, command, tmp_path: Path, monkeypatch
):
    """Before the data, which are missing, are looked at."""
    for page, words in (
        (tmp_path, f"{tmp_path} is a folder, not a file"),
        (
            tmp_path / "none" / "page.html",
            f"{tmp_path / 'none' / 'page.html'}: the folder {tmp_path / 'none'} is missing",
        ),
    ):
        assert command(*arguments, "--page", page) == (1, "", f"evalrec: {words}\n")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command(*arguments, "--page", tmp_path / "page.html") == (
        *(1, ""),
        "evalrec: charts need matplotlib: pip install 'evalrec[page]'\n",
    )
