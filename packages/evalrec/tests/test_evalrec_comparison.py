from __future__ import annotations

import gzip
import io
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from evalrec import (
    DataError,
    Grid,
    Queries,
    Report,
    compare,
    comparison_table,
    evaluate,
    read_report,
    systems_grid,
    to_latex,
    to_markdown,
    write_synthetic,
)
from evalrec.reporting_cli import compare as compare_command
from evalrec.reporting_cli import floors as floors_command
from evalrec.runs import read_runs
from evalrec.significance import holm
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

NUM_ITEMS = 60
NUM_USERS = 300


@pytest.fixture(scope="module")
def queries() -> Queries:
    rng = np.random.default_rng(0)
    return Queries(
        histories=list(rng.integers(NUM_ITEMS, size=(NUM_USERS, 3))),
        targets=rng.integers(NUM_ITEMS, size=NUM_USERS),
        num_items=NUM_ITEMS,
        cold=np.zeros(NUM_USERS, dtype=bool),
    )


def report_of(queries: Queries, skill: float, seed: int, name: str = "") -> Report:
    """A model that adds `skill` to the target's random score."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(queries), queries.num_items, generator=generator)
    scores[torch.arange(len(queries)), torch.from_numpy(queries.targets)] += skill
    rows = iter(scores)
    return evaluate(queries, lambda h: torch.stack([next(rows) for _ in h]), name=name)


@pytest.fixture(scope="module")
def systems(queries) -> dict[str, list[Report]]:
    return {
        "weak": [report_of(queries, 0.0, 0)],
        "strong": [report_of(queries, 0.5, seed) for seed in (1, 2, 3)],
        "as weak": [report_of(queries, 0.0, 4)],
    }


@pytest.fixture(scope="module")
def comparison(systems):
    return compare(systems, num_samples=500)


def test_figures_are_the_plain_means(systems, comparison):
    for system in comparison.systems:
        reports = systems[system.name]
        assert system.num_seeds == len(reports)
        for (mode, metric), estimate in system.figures.items():
            means = [report.per_user(metric, mode).mean() for report in reports]
            assert estimate.mean == pytest.approx(np.mean(means))
            assert estimate.low < estimate.mean < estimate.high
            if len(reports) > 1:
                assert system.seed_spread[mode, metric] == pytest.approx(np.std(means, ddof=1))
            else:
                assert system.seed_spread is None


def test_differences_are_paired_and_from_the_first(systems, comparison):
    baseline = systems["weak"][0]
    for difference in comparison.differences:
        column = difference.metric, difference.mode
        seeds = [report.per_user(*column) for report in systems[difference.system]]
        by_user = np.mean(seeds, axis=0) - baseline.per_user(*column)
        assert difference.estimate.mean == pytest.approx(by_user.mean())
        error = by_user.std() / np.sqrt(NUM_USERS)
        width = difference.estimate.high - difference.estimate.low
        assert width == pytest.approx(2 * 1.96 * error, rel=0.2)
    by_system = {
        name: [difference for difference in comparison.differences if difference.system == name]
        for name in ("strong", "as weak")
    }
    assert len(comparison.differences) == 8
    for difference in by_system["strong"]:
        assert difference.bootstrap_p < 0.05
        assert difference.t_test_p < 1e-6
        assert difference.wilcoxon_p < 1e-6
    for difference in by_system["as weak"]:
        assert difference.bootstrap_p > 0.05
        assert difference.t_test_p > 0.05
        assert difference.wilcoxon_p > 0.05


def test_a_system_does_not_differ_from_itself(systems):
    comparison = compare({"first": systems["weak"], "second": systems["weak"]}, num_samples=100)
    for difference in comparison.differences:
        assert difference.estimate == (0.0, 0.0, 0.0)
        p_values = difference.bootstrap_p, difference.t_test_p, difference.wilcoxon_p
        assert p_values == (1.0, 1.0, 1.0)


def test_p_values_grow_with_the_number_of_comparisons(systems):
    alone = compare({name: systems[name] for name in ("weak", "as weak")}, num_samples=500)
    metrics = ("recall@5", "recall@10", "ndcg@10", "mrr@20")
    more = compare(systems, metrics=metrics, num_samples=500)
    corrected = {(o.mode, o.metric): o for o in more.differences if o.system == "as weak"}
    for difference in alone.differences:
        assert corrected[difference.mode, difference.metric].t_test_p >= difference.t_test_p


def test_each_test_is_scipys_corrected_for_itself(systems):
    comparison = compare(systems, metrics=["ndcg@10", "hit_rate@5"], num_samples=100)
    differences = [
        np.mean(
            [report.per_user(each.metric, each.mode) for report in systems[each.system]], axis=0
        )
        - systems["weak"][0].per_user(each.metric, each.mode)
        for each in comparison.differences
    ]
    t_tests = holm([stats.ttest_1samp(values, 0.0).pvalue for values in differences])
    signed = holm([stats.wilcoxon(np.round(values, 12)).pvalue for values in differences])
    assert [each.t_test_p for each in comparison.differences] == pytest.approx(t_tests, rel=1e-9)
    assert [each.wilcoxon_p for each in comparison.differences] == pytest.approx(signed, rel=1e-9)


def test_reports_of_other_queries_are_refused(queries, systems):
    swapped = Queries(
        histories=queries.histories,
        targets=np.roll(queries.targets, 1),
        num_items=NUM_ITEMS,
        cold=queries.cold,
    )
    with pytest.raises(ValueError, match="same queries, got other histories or targets in 'b'"):
        compare({"a": systems["weak"], "b": [report_of(swapped, 0.0, 0)]})
    fewer = Queries(
        histories=queries.histories[1:],
        targets=queries.targets[1:],
        num_items=NUM_ITEMS,
        cold=queries.cold[1:],
    )
    with pytest.raises(ValueError, match="same queries, got 300 and, in 'b', 299 users"):
        compare({"a": systems["weak"], "b": [report_of(fewer, 0.0, 0)]})
    with pytest.raises(ValueError, match="got none of 'b'"):
        compare({"a": systems["weak"], "b": []})
    with pytest.raises(ValueError, match=r"metrics must be among .*'a' has, got 'recall@7'"):
        compare({"a": systems["weak"]}, metrics=("recall@7",))
    with pytest.raises(ValueError, match="at least one each"):
        compare({})


def shown(renderable: object) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_every_form_holds_every_figure(systems, comparison):
    document = json.loads(json.dumps(comparison.to_json()))
    assert document["baseline"] == "weak"
    assert [system["seeds"] for system in document["systems"]] == [1, 3, 1]
    assert len(document["differences"]) == 8
    for text in (
        shown(comparison_table(comparison)),
        to_markdown(comparison),
        to_latex(comparison),
    ):
        flat = " ".join(text.split())
        for system in comparison.systems:
            for estimate in system.figures.values():
                mean = f"{estimate.mean:.4f}".removeprefix("0")
                assert mean in flat
        for difference in comparison.differences:
            assert f"{abs(difference.estimate.mean):.4f}".removeprefix("0") in flat
        assert "Holm-corrected over 8 comparisons" in flat
        assert "300 users" in flat


def test_latex_escapes_and_balances(systems):
    text = to_latex(compare({"a_b & 5%": systems["weak"], "c": systems["strong"]}))
    assert r"a\_b \& 5\%" in text
    tables = re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, flags=re.DOTALL)
    assert len(tables) == 2
    for shape, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1
        assert {line.replace(r"\&", "").count("&") for line in rows} == {len(shape) - 1}


def test_markdown_is_a_table(comparison):
    lines = to_markdown(comparison).splitlines()
    for start in (0, lines.index("") + 1):
        width = lines[start].count("|")
        assert set(lines[start + 1]) <= set("|-: ")
        rows = lines[start + 2 : lines.index("", start)]
        assert rows
        assert {line.count("|") for line in rows} == {width}


def test_a_grid_of_systems_takes_further_columns(comparison):
    facts = {"weak": {"epochs": 3, "codes": "a|b"}, "strong": {"epochs": 4.5}}
    grid = systems_grid(comparison, intervals=False, p_values=True, facts=facts)
    columns = [
        f"{metric}, {mode}"
        for mode in ("unfiltered", "filtered")
        for metric in ("Recall@10", "NDCG@10")
    ]
    with_p = [name for column in columns for name in (column, "p")]
    assert grid.header == ["system", "seeds", *with_p, "epochs", "codes"]
    weak, strong, as_weak = grid.rows
    assert (weak[:2], strong[:2]) == (["weak", "1"], ["strong", "3"])
    assert [row[-2:] for row in grid.rows] == [["3", "a|b"], ["4.5", ""], ["", ""]]
    for place, (mode, metric) in enumerate(
        (mode, metric) for mode in ("unfiltered", "filtered") for metric in ("recall@10", "ndcg@10")
    ):
        cell, p_cell = 2 + 2 * place, 3 + 2 * place
        system = comparison.systems[1]
        mean, spread = system.figures[mode, metric].mean, system.seed_spread[mode, metric]
        assert strong[cell] == f"{mean:.4f} ± {spread:.4f}".replace("0.", ".")
        assert (weak[p_cell], weak[cell][0]) == ("", ".")
        (p_value,) = (
            difference.bootstrap_p
            for difference in comparison.differences
            if (difference.system, difference.mode, difference.metric) == ("as weak", mode, metric)
        )
        assert as_weak[p_cell] == f"{p_value:.3f}".removeprefix("0")
        assert (1, cell) in grid.best
    assert len(grid.best) == 4
    assert r"a\|b" in grid.markdown()
    assert f"**{strong[2]}**" in grid.markdown()
    with pytest.raises(ValueError, match=r"facts must be of the systems \[.*\], got \['other'\]"):
        systems_grid(comparison, facts={"other": {"epochs": 1}})


def test_a_grid_is_written_as_it_is():
    grid = Grid(
        header=["a", "b_c"], rows=[["x|y", "-.5 ±.1"], ["[z]", "1"], ["p", "< .001"]], best={(1, 1)}
    )
    assert grid.markdown().splitlines() == [
        "| a | b_c |",
        "| --- | ---: |",
        r"| x\|y | -.5 ±.1 |",
        "| [z] | **1** |",
        "| p | < .001 |",
    ]
    assert r"a & b\_c \\" in grid.latex()
    assert r"x\textbar{}y & $-$.5 $\pm$.1 \\" in grid.latex()
    assert r"p & \textless{} .001 \\" in grid.latex()  # in OT1 fonts "<" would show as "¡"
    assert r"[z] & \textbf{1} \\" in grid.latex()
    assert "[z]" in shown(grid.table())
    with pytest.raises(ValueError, match="rows must have 2 cells, got 1 in row 0"):
        Grid(header=["a", "b"], rows=[["x"]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, systems, queries):
    """Two runs as the apps leave them, and single reports."""
    root = tmp_path_factory.mktemp("runs")
    for run, seed in (("s0", 0), ("s1", 1)):
        (root / run / "test").mkdir(parents=True)
        (root / run / "floors").mkdir()
        systems["strong"][seed].write_json(root / run / "test" / "report.json")
        systems["weak"][0].write_json(root / run / "floors" / "0.json")
        (root / run / "run.json").write_text('{"format": 1, "config": {}}')
        (root / run / "metrics.json").write_text(
            json.dumps(
                {
                    "test": {
                        "PRORec": systems["strong"][seed].to_json(per_user=False),
                        "graph": systems["weak"][0].to_json(per_user=False),
                    }
                }
            )
        )
        (root / run / "study").mkdir()
        systems["strong"][1 - seed].write_json(root / run / "study" / "report.json")
    report_of(queries, 0.0, 9, name="named").write_json(root / "alone.json")
    return root


def test_reports_are_grouped_by_the_names_given(folder):
    systems, files = read_runs([f"ours={folder}/s0", f"ours={folder}/s1", f"{folder}/alone.json"])
    assert {name: len(reports) for name, reports in systems.items()} == {
        "ours: PRORec": 2,
        "ours: graph": 2,
        "named": 1,
    }
    assert [path.parent.name for path in files["ours: PRORec"]] == ["test", "test"]
    assert list(read_runs([f"{folder}/s0"])[0]) == [f"{folder}/s0: PRORec", f"{folder}/s0: graph"]
    systems, _ = read_runs([f"{folder}/s0/test", f"{folder}/s1/test"])
    assert list(systems) == [f"{folder}/s0/test", f"{folder}/s1/test"]
    systems, _ = read_runs([f"x={folder}/s0/test", f"x={folder}/s1/test/report.json"])
    assert {name: len(reports) for name, reports in systems.items()} == {"x": 2}


@pytest.mark.parametrize("names", [("", ""), ("m", "m"), ("m", "n"), ("m", "")])
@pytest.mark.parametrize("prefix", [None, "ours"])
def test_reports_of_one_folder_are_never_pooled(systems, tmp_path, names, prefix):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            report = replace(systems["strong"][number], name=name)
            report.write_json(tmp_path / folder / f"{number}.json")
    paths = [str(tmp_path / folder) for folder in ("a", "b")]
    by_system, _ = read_runs(paths if prefix is None else [f"{prefix}={path}" for path in paths])
    inner = ("0", "1") if names[0] == names[1] else [name or "1" for name in names]
    called = {f"{system}: {name}" for system in ([prefix] if prefix else paths) for name in inner}
    assert {name: len(reports) for name, reports in by_system.items()} == dict.fromkeys(
        called, 2 if prefix else 1
    )


def test_a_runs_folder_that_lacks_a_report_is_refused(systems, tmp_path):
    test = {"PRORec": systems["strong"][0].to_json(per_user=False), "gone": {"format": 2}}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": test}))
    systems["strong"][0].write_json(tmp_path / "report.json")
    with pytest.raises(
        DataError, match=r"metrics\.json says that 'gone' was tested, but no report"
    ):
        read_runs([str(tmp_path)])


def test_names_and_files_that_cannot_be_used_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"are both called 'named': give NAME=PATH"):
        read_runs([f"{folder}/alone.json", f"{folder}/alone.json"])
    with pytest.raises(DataError, match="holds no report"):
        read_runs([str(tmp_path)])
    bad = tmp_path / "bad.json"
    for text, words in (
        ("{", "bad.json is malformed JSON: Expecting"),
        ("[]", "bad.json must be a JSON object, got list"),
        ("{}", "bad.json is not a report of evalrec"),
        (
            '{"format": 1}',
            "bad.json is damaged: format must be 2, got 1: a report of another version",
        ),
        ('{"format": 2, "ranks": {}}', "bad.json is damaged: it lacks 'code_ranks'"),
    ):
        bad.write_text(text)
        with pytest.raises(DataError, match=words):
            read_report(bad)
    with pytest.raises(FileNotFoundError):
        read_runs([str(tmp_path / "nowhere.json")])


@pytest.fixture(scope="module")
def app():
    made = typer.Typer()
    made.command()(floors_command)
    made.command()(compare_command)
    return made


def test_the_compare_command_prints_every_form(folder, app):
    runs = [f"weak={folder}/s0/floors", f"ours={folder}/s0/test", f"ours={folder}/s1/test"]
    run = CliRunner().invoke

    def output(*options):
        result = run(app, ["compare", *runs, "--samples", "200", *options])
        assert result.exit_code == 0, result.output
        return result.output

    assert "ours: 2 seeds" in output()
    document = json.loads(output("--format", "json", "--metric", "mrr@5"))
    assert document["baseline"] == "weak"
    assert document["files"]["ours"][1].endswith("s1/test/report.json")
    assert {difference["metric"] for difference in document["differences"]} == {"mrr@5"}
    assert all(0 <= difference["wilcoxon_p"] <= 1 for difference in document["differences"])
    assert "p, Wilcoxon" in output("--format", "markdown", "--metric", "map@10")
    assert output("--format", "latex").startswith(r"\begin{tabular}")
    assert output("--format", "markdown").startswith("| system | seeds |")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("native") / "d", num_items=60, num_users=80)


def test_the_floors_command_prints_and_writes_every_floor(native, app, tmp_path):
    run = CliRunner().invoke
    result = run(app, ["floors", str(native), "--no-bpr", "--out", str(tmp_path / "reports")])
    assert result.exit_code == 0, result.output
    names = ["popularity", "markov", "item-knn", "graph", "text", "graph + text"]
    for name in names:
        assert f" {name} " in result.output
    files = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert files == sorted(f"{n.replace(' + ', '_and_')}.json" for n in names)
    compared = run(app, ["compare", str(tmp_path / "reports"), "--samples", "100"])
    assert "graph + text: 1 report" in compared.output
    result = run(app, ["floors", str(native), "--no-bpr", "--json", "--k", "3"])
    document = json.loads(result.stdout)
    assert list(document) == names
    assert document["graph"]["ks"] == [3]
    assert document["graph"]["parameters"].keys() == {"last_items", "decay"}
    assert document["graph"]["group_sizes"].keys() <= {"head", "middle", "tail", "cold"}


def test_floors_are_asked_for_what_there_is(app, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    rows = [f"u{user},i{(user + step) % 15},{step}\n" for user in range(20) for step in range(5)]
    (small / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    (small / "items.jsonl").write_text("".join(f'{{"item_id": "i{n}"}}\n' for n in range(15)))
    (tmp_path / "file").write_text("x")
    run = CliRunner().invoke
    result = run(app, ["floors", str(small), "--no-bpr", "--json"])
    assert json.loads(result.stdout)["graph"]["ks"] == [5, 10, 15]
    monkeypatch.setattr("evalrec.floors.fit_floors", None)
    for options, words in (
        (["--k", "16"], "--k must be at most the number of items, 15, got 16"),
        (["--out", str(tmp_path / "file")], "file is a file, not a folder"),
    ):
        result = run(app, ["floors", str(small), "--no-bpr", *options])
        assert words in str(result.exception)
    assert run(app, ["floors", str(small), "--k", "0"]).exit_code == 2


def test_floors_without_text_or_implicit_say_so(native, app, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.bpr", None)
    with (native / "items.jsonl").open() as lines:
        ids = [json.loads(line)["item_id"] for line in lines]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "interactions.parquet").write_bytes((native / "interactions.parquet").read_bytes())
    with gzip.open(plain / "items.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"item_id": item_id}) + "\n" for item_id in ids)
    result = CliRunner().invoke(app, ["floors", str(plain), "--json"])
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)) == ["popularity", "markov", "item-knn", "graph"]
    assert "left out: matrix factorisation needs the implicit library" in result.stderr
    result = CliRunner().invoke(app, ["floors", str(plain), "--text-field", "title"])
    assert isinstance(result.exception, DataError)
    assert "no item has a text in title" in str(result.exception)
