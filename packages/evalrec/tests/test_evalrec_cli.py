from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from importlib import metadata

import polars as pl
import pytest
from evalrec import FORMATS, write_synthetic
from evalrec import __version__ as evalrec_version
from evalrec.cli import main
from evalrec.importing import PRESETS
from evalrec.prepare_cli import FORMAT_NAMES, TABLE_NAMES


@pytest.fixture
def evalrec(monkeypatch, capsys):
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evalrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def test_the_formats_of_the_help_are_those_that_there_are():
    assert tuple(FORMATS) == FORMAT_NAMES
    assert tuple(PRESETS) == TABLE_NAMES


def test_help_is_quick_and_loads_neither_torch_nor_polars():
    code = (
        "import sys; sys.argv = ['evalrec', '--help']\n"
        "from evalrec.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'polars', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for command in ("prepare", "check", "floors", "compare", "gate"):
        assert f" {command} " in result.stdout


def test_the_version_is_the_distributions(evalrec):
    assert evalrec_version == metadata.version("evalrec")
    assert evalrec("--version") == (0, f"evalrec {evalrec_version}\n", "")


def test_prepare_says_what_it_did(evalrec, raw, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = evalrec("prepare", raw.format, raw.folder, "--out", out)
    assert code == 0, stderr
    assert "5-core" in stdout
    assert "48" in stdout
    assert f"wrote {out}, content " in stdout.replace("\n", "")
    assert json.loads((out / "dataset.json").read_text())["interactions"] == 48


def test_prepare_takes_its_options(evalrec, make_raw, tmp_path):
    raw, out = make_raw("movielens-1m"), tmp_path / "out"
    options = ["--k-core", 1, "--min-rating", 4, "--duplicates", "first", "--max-history", 2]
    code, stdout, _ = evalrec("prepare", "movielens", raw.folder, "-o", out, *options)
    assert code == 0
    for words in ("rated too low", "first of repeated pairs", "last 2 of each user"):
        assert words in stdout
    description = json.loads((out / "dataset.json").read_text())
    assert description["options"] == {
        "min_rating": 4.0,
        "unknown_items": "keep",
        "duplicates": "first",
        "min_interactions": 1,
        "k_core": 1,
        "sample_users": None,
        "max_history": 2,
        "seed": 0,
        "keep_images": False,
    }
    code, _, stderr = evalrec("prepare", "movielens", raw.folder, "-o", out)
    assert (code, stderr.count("\n")) == (1, 1)
    assert "exists already; --force" in stderr
    assert evalrec("prepare", "movielens", raw.folder, "-o", out, "--force")[0] == 0


def test_broken_files_end_in_one_sentence(evalrec, raw, tmp_path):
    name = next(iter(raw.texts))
    lines = raw.texts[name].splitlines(keepends=True)
    lines[-1] = lines[-1][: len(lines[-1]) // 3]
    path = raw.write(name, "".join(lines).encode())
    code, stdout, stderr = evalrec("prepare", raw.format, raw.folder, "--out", tmp_path / "out")
    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"evalrec: {path}, line {len(lines)}: ")
    assert stderr.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == [raw.layout]


def test_wrong_calls_end_in_one_sentence(evalrec, tmp_path):
    code, _, stderr = evalrec("prepare", "netflix", tmp_path, "--out", tmp_path / "out")
    assert (code, stderr.count("\n")) == (1, 1)
    assert stderr.startswith("evalrec: format must be one of native, amazon2014, ")
    assert evalrec("prepare", "native")[0] == 2
    assert evalrec("check", tmp_path / "none") == (
        *(1, ""),
        f"evalrec: {tmp_path / 'none'} is missing\n",
    )


STEERING = "\x1b[2J\x1b]0;title\x07 \x9b31m\x00 [red]x[/red] [/] \u202e \u2028 \r"


def test_nothing_of_a_file_or_a_path_steers_the_terminal(evalrec, tmp_path):
    folder = tmp_path / STEERING.replace("\x00", "").replace("/", "")
    assert steers(evalrec("check", folder)) is False
    write_synthetic(folder, num_items=200, num_users=60)
    assert steers(evalrec("check", folder)) is False
    code, stdout, stderr = evalrec("floors", folder, "--no-bpr", "--out", tmp_path / "runs")
    assert (code, steers((code, stdout, stderr))) == (0, False), stderr
    for run in (tmp_path / "runs").iterdir():
        document = json.loads(run.read_text())
        run.write_text(json.dumps({**document, "name": f"{STEERING} {document['name']}"}))
    for output in ("table", "markdown", "latex", "json"):
        code, stdout, stderr = evalrec("compare", tmp_path / "runs", "--format", output)
        assert (code, steers((code, stdout, stderr))) == (0, False), stderr
    out = tmp_path / f"{folder.name} out"
    code, stdout, stderr = evalrec("prepare", "native", folder, "--out", out, "--k-core", 1)
    assert (code, steers((code, stdout, stderr))) == (0, False), stderr
    assert "[red]" in stdout


def test_ids_and_wrong_calls_do_not_steer_the_terminal(evalrec, tmp_path):
    rows = [{"user_id": "u", "item_id": STEERING, "timestamp": time} for time in (1, 2, 3)]
    (tmp_path / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert steers(evalrec("check", tmp_path)) is False
    (tmp_path / "items.jsonl").write_text('{"item_id": "x"}\n')
    code, _, stderr = evalrec("check", tmp_path)
    assert (code, "\\x1b[2J" in stderr, steers(stderr)) == (1, True, False)
    for call in (["check", tmp_path, STEERING], [STEERING], ["check", "--k" + STEERING, tmp_path]):
        code, stdout, stderr = evalrec(*call)
        assert (code, steers((stdout, stderr))) == (2, False), call


def steers(output) -> bool:
    return any(
        unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl") and sign != "\n"
        for part in (output if isinstance(output, tuple) else (output,))
        for sign in str(part)
    )


def test_check_prints_findings_and_counts(evalrec, tmp_path):
    folder = write_synthetic(tmp_path / "data", num_items=200, num_users=300)
    code, stdout, stderr = evalrec("check", folder)
    assert code == 0, stderr
    assert "300 users, 200 items" in stdout
    assert "300 test queries" in stdout


def test_check_exits_1_on_an_error_and_prints_json(evalrec, tmp_path):
    folder = write_synthetic(tmp_path / "data", num_items=200, num_users=300)
    path = folder / "interactions.parquet"
    frame = pl.read_parquet(path)
    ranks = frame["item_id"].rank("dense").cast(pl.Int64)
    frame.with_columns(ranks.alias("timestamp")).write_parquet(path)
    code, stdout, _ = evalrec("check", folder, "--json")
    assert code == 1
    report = json.loads(stdout)
    assert report["findings"][0]["code"] == "sorted-by-id"
    assert set(report["findings"][0]) == {"code", "severity", "count", "message", "advice"}
    assert report["counts"]["users"] == 300
    code, stdout, _ = evalrec("check", folder)
    assert code == 1
    assert "sorted-by-id" in stdout


def test_check_takes_a_split_of_others(evalrec, tmp_path):
    folder = write_synthetic(tmp_path / "data", num_items=200, num_users=50)
    frame = pl.read_parquet(folder / "interactions.parquet").with_row_index()
    last = frame.group_by("user_id").agg(pl.col("index").max())["index"].implode()
    test = frame.filter(pl.col("index").is_in(last)).drop("index")
    train = frame.filter(~pl.col("index").is_in(last)).drop("index")
    files = [tmp_path / "a.train.parquet", tmp_path / "a.test.parquet"]
    train.write_parquet(files[0])
    test.write_parquet(files[1])
    code, stdout, stderr = evalrec("check", folder, "--split", files[0], "--split", files[1])
    assert "50 test queries" in stdout, stderr
    leaky = pl.concat([train, test.head(1)])
    leaky.write_parquet(files[0])
    code, stdout, _ = evalrec("check", folder, "--split", files[0], "--split", files[1], "--json")
    assert code == 1
    assert "target-in-training" in {each["code"] for each in json.loads(stdout)["findings"]}


def test_check_reads_a_folder_without_items(evalrec, tmp_path):
    folder = write_synthetic(tmp_path / "data", num_items=200, num_users=50)
    (folder / "items.jsonl").unlink()
    code, stdout, _ = evalrec("check", folder)
    assert code == 0
    used = pl.read_parquet(folder / "interactions.parquet")["item_id"].n_unique()
    assert f"{used} items" in stdout
