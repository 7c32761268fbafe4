from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}


def semtok(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from semtok.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENV, check=False)


def write_items(path: Path, start: int = 0, stop: int = 30) -> Path:
    things = ("red polish", "blue cream", "soap", "hair brush", "comb")
    rows = [{"item_id": row, "title": f"{things[row % 5]} {row % 7}"} for row in range(start, stop)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_codes(path: Path) -> dict[str, tuple[int, ...]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["item_id"]: tuple(row["codes"]) for row in rows}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_encode_fit_inspect_and_encode_with_a_tokenizer(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl")
    done = semtok("encode", items.name, "--codebook-size", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 items" in done.stdout
    assert "collisions: 0.00% of items" in done.stdout
    assert "clustering" in done.stderr
    codes = read_codes(tmp_path / "items.codes.jsonl")
    assert list(codes) == [str(row) for row in range(30)]
    assert len(set(codes.values())) == 30

    done = semtok("fit", items, "-o", tmp_path / "t", "--codebook-size", 4)
    assert done.returncode == 0, done.stderr
    shown = semtok("inspect", tmp_path / "t", "--json")
    assert json.loads(shown.stdout)["num_items"] == 30
    assert "30 items" in semtok("inspect", tmp_path / "items.codes.jsonl").stdout

    more = write_items(tmp_path / "more.jsonl", 20, 50)
    arguments = ("encode", more, "--tokenizer", tmp_path / "t", "--extend")
    done = semtok(*arguments)
    assert done.returncode == 0, done.stderr
    assert "20 new items, remembered" in done.stdout
    later = read_codes(tmp_path / "more.codes.jsonl")
    assert [later[str(row)] for row in range(20, 30)] == [codes[str(row)] for row in range(20, 30)]
    assert len({**codes, **later}) == len({*codes.values(), *later.values()}) == 50
    before = (tmp_path / "more.codes.jsonl").read_bytes()
    done = semtok(*arguments, "--force")
    assert "new items" not in done.stdout
    assert (tmp_path / "more.codes.jsonl").read_bytes() == before


def test_stored_embeddings_gzip_and_parquet(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl")
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress(items.read_bytes()))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 5)))
    stored = ("--embedding", tmp_path / "x.npy")
    done = semtok(
        "encode", tmp_path / "items.jsonl.gz", *stored, "--balanced", "--codebook-size", 6
    )
    assert done.returncode == 0, done.stderr
    codes = read_codes(tmp_path / "items.codes.jsonl")
    firsts = [path[0] for path in codes.values()]
    assert [firsts.count(code) for code in range(6)] == [5] * 6
    done = semtok("encode", items, *stored, "-o", tmp_path / "c.parquet")
    assert done.returncode == 0, done.stderr
    assert semtok("inspect", tmp_path / "c.parquet").returncode == 0


def test_same_seed_same_file(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl")
    for name in ("a.jsonl", "b.jsonl"):
        semtok("encode", items, "-o", tmp_path / name, "--codebook-size", 3, "--seed", 7)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


REFUSALS = [
    (("encode", "absent.jsonl"), 1, "absent.jsonl: no such file"),
    (("encode", "items.txt"), 1, "must end in one of"),
    (("encode", "bad.jsonl"), 1, "bad.jsonl, line 2: malformed JSON"),
    (("encode", "twice.jsonl"), 1, "line 2: item id 'a' is already that of line 1"),
    (("encode", "empty.jsonl"), 1, "empty.jsonl: holds no items"),
    (("encode", "blank.jsonl"), 1, "must hold words for at least one item"),
    (("encode", "done.jsonl"), 1, "done.codes.jsonl: exists already; --force replaces it"),
    (("encode", "items.jsonl", "-o", "items.jsonl", "--force"), 1, "is the catalogue itself"),
    (("encode", "items.jsonl", "-o", "no/x.jsonl"), 1, "no: no such folder"),
    (("encode", "items.jsonl", "-o", "x.csv"), 1, "must end in .jsonl or .parquet"),
    (("encode", "items.jsonl", "--id-column", "sku"), 1, "no column 'sku' (columns: item_id, t"),
    (("encode", "items.jsonl", "--fields", "title,colour"), 1, "got 'colour'"),
    (("encode", "items.jsonl", "--codebook-size", "1"), 1, "codebook_size must be at least 2"),
    (("encode", "items.jsonl", "--embedding", "short.npy"), 1, "has 3 rows, the catalogue 30"),
    (("encode", "items.jsonl", "--embedding", "nan.npy"), 1, "row 4 (item '4'): holds NaN"),
    (("encode", "items.jsonl", "--tokenizer", "absent"), 1, "not a semtok folder"),
    (("encode", "items.jsonl", "--tokenizer", "t", "--seed", "1"), 2, "no effect with --tokenizer"),
    (("encode", "items.jsonl", "--extend"), 2, "needs --tokenizer"),
    (("encode",), 2, "Missing argument"),
    (("fit", "items.jsonl", "-o", "t"), 1, "t: exists already"),
    (("fit", "items.jsonl", "-o", "folder", "--force"), 1, "is no tokenizer"),
    (("inspect", "absent"), 1, "not a semtok folder"),
    (("inspect", "items.jsonl"), 1, "no column 'codes'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_items(folder / "items.jsonl")
    write_items(folder / "done.jsonl")
    (folder / "done.codes.jsonl").write_text("old")
    (folder / "bad.jsonl").write_text('{"item_id": "a", "title": "b"}\n{"item_id":\n')
    (folder / "twice.jsonl").write_text('{"item_id": "a"}\n' * 2)
    (folder / "empty.jsonl").write_text("")
    (folder / "blank.jsonl").write_text('{"item_id": "a", "title": ""}\n' * 1)
    np.save(folder / "short.npy", np.zeros((3, 2)))
    holed = np.zeros((30, 2))
    holed[4, 1] = np.nan
    np.save(folder / "nan.npy", holed)
    (folder / "folder").mkdir()
    (folder / "folder" / "kept.txt").write_text("kept")
    assert semtok("fit", folder / "items.jsonl", "-o", folder / "t").returncode == 0
    return folder


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSALS)
def test_refusals_are_one_sentence_and_write_nothing(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    before = tree(folder)
    done = semtok(*arguments, cwd=folder)
    assert done.returncode == code
    flat = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split())
    assert words in flat
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.splitlines()[-1].startswith("semtok: ")
        assert sum(line.startswith("semtok: ") for line in done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert tree(folder) == before


def test_ctrl_c_ends_with_one_line_and_writes_nothing(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", 0, 20_000)
    # A shell that runs the tests in the background has them, and so this, ignore SIGINT.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from semtok.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "encode", str(items)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENV) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("clustering"):
            pass
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "semtok: interrupted; nothing is half-written"
    assert "Traceback" not in rest
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]


def test_help_needs_none_of_the_heavy_modules() -> None:
    code = (
        "import sys, semtok, semtok.cli; "
        "heavy = {'numpy', 'sklearn', 'faiss', 'torch', 'polars', 'safetensors', 'scipy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    helped = semtok("--help")
    assert helped.returncode == 0
    for command in ("fit", "encode", "inspect"):
        assert command in helped.stdout


def test_every_public_name_is_there() -> None:
    import semtok as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        package.absent  # noqa: B018


def test_the_readme_example_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=ENV,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_readme_commands_run(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    write_items(tmp_path / "new_items.jsonl", 25, 35)
    (block,) = re.findall(r"```sh\n(semtok .*?)```", README.read_text(), flags=re.S)
    for line in block.splitlines():
        done = semtok(*line.split("#")[0].split()[1:], cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
def test_beauty_as_a_user_would(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "amazon14_beauty"
    if not data.exists():
        pytest.skip("needs shared/data/amazon14_beauty beside the checkout")
    (tmp_path / "items.jsonl.gz").symlink_to(data / "items.jsonl.gz")
    done = semtok("encode", "items.jsonl.gz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    codes = read_codes(tmp_path / "items.codes.jsonl")
    assert len(codes) == len(set(codes.values())) == 12_101
    assert len(next(iter(codes.values()))) in (2, 3)
