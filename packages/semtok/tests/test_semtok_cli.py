from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semtok import SemanticIds
from semtok.storage import alone_with

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}


Semtok = Callable[..., Any]


def lines_of_items(start: int = 0, stop: int = 30) -> str:
    things = ("red polish", "blue cream", "soap", "hair brush", "comb")
    brands = ("Acme", "Bolt", None)
    rows = [
        {"item_id": row, "title": f"{things[row % 5]} {row % 7}", "brand": brands[row % 3]}
        for row in range(start, stop)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_items(path: Path, start: int = 0, stop: int = 30) -> Path:
    path.write_text(lines_of_items(start, stop))
    return path


def parsed(text: str) -> dict[str, tuple[int, ...]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return {row["item_id"]: tuple(row["codes"]) for row in rows}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_encode_fit_inspect_and_encode_with_a_tokenizer(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    done = semtok("encode", "items.jsonl", "--codebook-size", 4)
    assert done.code == 0, done.stderr
    assert "30 items" in done.stdout
    assert "collisions: 0.00% of items" in done.stdout
    assert "collisions resolved" not in done.stdout  # there were none
    assert "quantizing" in done.stderr
    codes = parsed((tmp_path / "items.codes.jsonl").read_text())
    assert list(codes) == [str(row) for row in range(30)]
    assert len(set(codes.values())) == 30
    assert names(tmp_path) == ["items.codes.jsonl", "items.jsonl"]

    done = semtok("fit", "items.jsonl", "-o", "t", "--codebook-size", 4)
    assert done.code == 0, done.stderr
    shown = json.loads(semtok("inspect", "t", "--json").stdout)
    assert shown["num_items"] == 30
    assert 0 < shown["neighbour_overlap"] <= 1
    assert "30 items" in semtok("inspect", "items.codes.jsonl").stdout

    write_items(tmp_path / "more.jsonl", 20, 50)
    arguments = ("encode", "more.jsonl", "--tokenizer", "t", "--extend")
    done = semtok(*arguments)
    assert done.code == 0, done.stderr
    assert "20 new items, each beside its nearest fitted item" in done.stdout
    assert "; remembered\n" in done.stdout
    assert done.stdout.count("drift: ") == 1
    assert "taken" not in done.stdout  # in a tree each new item arrives at a fitted one
    assert done.stdout.count("20 new items") == 1
    later = parsed((tmp_path / "more.codes.jsonl").read_text())
    assert [later[str(row)] for row in range(20, 30)] == [codes[str(row)] for row in range(20, 30)]
    assert len({**codes, **later}) == len({*codes.values(), *later.values()}) == 50
    before = (tmp_path / "more.codes.jsonl").read_bytes()
    done = semtok(*arguments, "--force")
    assert "new items" not in done.stdout
    assert (tmp_path / "more.codes.jsonl").read_bytes() == before


@pytest.mark.parametrize("link", [False, True])
def test_one_run_at_a_time_changes_a_tokenizer(semtok: Semtok, tmp_path: Path, link: bool) -> None:
    write_items(tmp_path / "items.jsonl")
    assert semtok("fit", "items.jsonl", "-o", "t", "--codebook-size", 4).code == 0
    if link:
        (tmp_path / "link").symlink_to("t")
    name = "link" if link else "t"
    before = tree(tmp_path / "t")
    extend = ("encode", "items.jsonl", "--tokenizer", name, "--extend", "-o", "-")
    with alone_with(tmp_path / "t"):
        for arguments in (extend, ("fit", "items.jsonl", "-o", name, "--force")):
            done = semtok(*arguments)
            assert (done.code, done.stdout) == (1, "")
            assert f"semtok: {name}: another run changes it" in done.stderr
        assert semtok(*extend[:4], "-o", "-").code == 0
    assert tree(tmp_path / "t") == before
    assert semtok(*extend).code == 0
    (tmp_path / "t" / "page.html").write_text("mine")
    for arguments in (extend, ("fit", "items.jsonl", "-o", name, "--force")):
        done = semtok(*arguments)
        assert done.code == 1
        assert "also holds page.html, which would be lost" in done.stderr
    assert (tmp_path / "t" / "page.html").read_text() == "mine"


def test_a_pipe_gives_what_files_give(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    options = ("--codebook-size", 4, "--views", "title,brand", "--pca", 2)
    assert semtok("encode", "items.jsonl", *options).code == 0
    done = semtok("encode", "-", *options, stdin=lines_of_items())
    assert done.code == 0, done.stderr
    assert done.stdout == (tmp_path / "items.codes.jsonl").read_text()
    assert "30 items" in done.stderr
    assert semtok("encode", "items.jsonl", "-o", "-", *options).stdout == done.stdout
    quiet = semtok("encode", "-", "--quiet", *options, stdin=lines_of_items())
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")
    assert names(tmp_path) == ["items.codes.jsonl", "items.jsonl"]
    broken = semtok("encode", "-", stdin='{"item_id": "a"}\n{"item_id":')
    assert (broken.code, broken.stdout) == (1, "")
    assert "semtok: standard input, line 2: malformed JSON" in broken.stderr


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_every_format_in_and_out(semtok: Semtok, tmp_path: Path, suffix: str) -> None:
    import polars as pl

    write_items(tmp_path / "items.jsonl")
    frame = pl.read_ndjson(tmp_path / "items.jsonl").cast({"item_id": pl.String})
    made = tmp_path / f"made{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(made)
    else:
        data = lines_of_items() if "json" in suffix else frame.write_csv()
        made.write_bytes(gzip.compress(data.encode()) if suffix.endswith("gz") else data.encode())
    for name, output in (("items.jsonl", "a.jsonl"), (made.name, f"b{suffix}")):
        done = semtok("encode", name, "-o", output, "--codebook-size", 4)
        assert done.code == 0, done.stderr
    first, second = (
        SemanticIds.read(tmp_path / "a.jsonl"),
        SemanticIds.read(tmp_path / f"b{suffix}"),
    )
    assert first.item_ids == second.item_ids
    np.testing.assert_array_equal(first.codes, second.codes)
    assert semtok("inspect", f"b{suffix}").code == 0


def test_stored_embeddings(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    x = np.random.default_rng(0).normal(size=(36, 5))
    np.save(tmp_path / "x.npy", x[:30])
    stored = ("--embedding", "x.npy", "--codebook-size", 6)
    assert semtok("fit", "items.jsonl", *stored, "--balanced", "-o", "t").code == 0
    assert semtok("encode", "items.jsonl", *stored, "--balanced").code == 0
    codes = parsed((tmp_path / "items.codes.jsonl").read_text())
    firsts = [path[0] for path in codes.values()]
    assert [firsts.count(code) for code in range(6)] == [5] * 6
    write_items(tmp_path / "more.jsonl", 0, 36)
    done = semtok("encode", "more.jsonl", "--tokenizer", "t")
    assert (done.code, done.stdout) == (1, "")
    assert "more.jsonl: holds 6 new items without vectors, but the tokenizer was" in done.stderr
    np.save(tmp_path / "more.npy", x)
    done = semtok("encode", "more.jsonl", "--tokenizer", "t", "--embedding", "more.npy")
    assert done.code == 0, done.stderr
    later = parsed((tmp_path / "more.codes.jsonl").read_text())
    assert {item: later[item] for item in codes} == codes
    assert len(set(later.values())) == 36


def test_views_of_words_and_stored_vectors(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x[:30])
    np.save(tmp_path / "more.npy", x)
    options = ("--quantizer", "pq", "--levels", 1, "--codebook-size", 4, "--collisions", "suffix")
    views = ("--views", "title,brand,sound=x.npy")
    done = semtok("fit", "items.jsonl", "-o", "t", *views, *options)
    assert done.code == 0, done.stderr
    assert "30 items, 4 levels" in done.stdout
    assert "collisions resolved by suffix" in done.stdout
    assert (
        semtok("fit", "items.jsonl", "-o", "s", "--views", "sound=x.npy,title", *options).code == 0
    )
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert [view["name"] for view in config["views"]] == ["sound", "title"]
    done = semtok("fit", "items.jsonl", "-o", "f", *views, *options, "--fuse", "--pca", 2)
    assert "30 items, 2 levels" in done.stdout, done.stderr
    write_items(tmp_path / "more.jsonl", 0, 40)
    done = semtok("encode", "more.jsonl", "--tokenizer", "t", "--views", "sound=more.npy")
    assert done.code == 0, done.stderr
    assert "10 new items" in done.stdout
    done = semtok(
        "encode", "more.jsonl", "--tokenizer", "t", "--force", "--views", "title=more.npy"
    )
    assert done.code == 2
    assert "embeds view 'title' itself" in flat(done.stderr)


@pytest.mark.parametrize(
    "options",
    [
        ("hierarchical", "--balanced"),
        ("pq", "--levels", 2),
        ("opq", "--levels", 2),
        ("rq", "--levels", 2, "--beams", 2),
        ("random",),
    ],
)
def test_every_quantizer_by_name(semtok: Semtok, tmp_path: Path, options: tuple[object]) -> None:
    write_items(tmp_path / "items.jsonl")
    arguments = ("fit", "items.jsonl", "-o", "t", "--codebook-size", 8, "--pca", 4, "--quantizer")
    done = semtok(*arguments, *options)
    assert done.code == 0, done.stderr
    done = semtok("encode", "items.jsonl", "--tokenizer", "t")
    assert done.code == 0, done.stderr
    codes = parsed((tmp_path / "items.codes.jsonl").read_text())
    assert len(set(codes.values())) == 30


def test_a_cache_embeds_only_what_is_new(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    assert semtok("fit", "items.jsonl", "-o", "t", "--cache", "kept").code == 0
    kept = tree(tmp_path / "kept")
    assert kept
    done = semtok("encode", "items.jsonl", "--cache", "kept")
    assert done.code == 0, done.stderr
    assert tree(tmp_path / "kept") == kept


def test_inspect_with_sequences_and_a_page(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    assert semtok("fit", "items.jsonl", "-o", "t", "--codebook-size", 4).code == 0
    events = "".join(f"{user},{item},{-item}\n" for user in range(5) for item in range(user, 30, 5))
    (tmp_path / "bought.csv").write_text("user_id,item_id,timestamp\n" + events)
    done = semtok(
        "inspect", "t", "--sequences", "bought.csv", "--html", "t.html", "--catalog", "items.jsonl"
    )
    assert done.code == 0, done.stderr
    assert "next shares: of 25 pairs" in done.stdout
    assert "wrote t.html" in done.stdout
    assert "red polish 0" in (tmp_path / "t.html").read_text()
    again = semtok("inspect", "t", "--html", "t.html")
    assert (again.code, again.stdout) == (1, "")
    assert "t.html: exists already; --force replaces it" in again.stderr
    health = json.loads(semtok("inspect", "t", "--json", "--sequences", "bought.csv").stdout)
    assert health["levels"][0]["shared_prefix"] > health["levels"][0]["shared_by_chance"]
    (tmp_path / "bad.csv").write_text("user_id,item_id,timestamp\nu,1,soon\n")
    bad = semtok("inspect", "t", "--sequences", "bad.csv")
    assert "bad.csv, line 2: timestamp must be a number, got 'soon'" in bad.stderr


def test_same_seed_same_file(semtok: Semtok, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    for name in ("a.jsonl", "b.jsonl"):
        semtok("encode", "items.jsonl", "-o", name, "--codebook-size", 3, "--seed", 7)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


REFUSALS = [
    ("encode absent.jsonl", 1, "absent.jsonl: no such file"),
    ("encode items.txt", 1, "must end in one of"),
    ("encode bad.jsonl", 1, "bad.jsonl, line 2: malformed JSON"),
    ("encode twice.jsonl", 1, "line 2: item id 'a' is already that of line 1"),
    ("encode empty.jsonl", 1, "empty.jsonl: holds no items"),
    ("encode blank.jsonl", 1, "must hold words for at least one item"),
    ("encode done.jsonl", 1, "done.codes.jsonl: exists already; --force replaces it"),
    ("encode items.jsonl -o items.jsonl --force", 1, "is the catalogue itself"),
    ("encode items.jsonl -o no/x.jsonl", 1, "no: no such folder"),
    ("encode items.jsonl -o x.txt", 1, "must end in one of .jsonl, .jsonl.gz, .csv"),
    ("encode items.jsonl --id-column sku", 1, "no column 'sku' (columns: item_id, t"),
    ("encode items.jsonl --fields title,colour", 1, "got 'colour'"),
    ("encode items.jsonl --views title,colour", 1, "got 'colour'"),
    ("encode items.jsonl --codebook-size 1", 2, "Invalid value for '--codebook-size'"),
    ("encode items.jsonl --seed -1", 2, "Invalid value for '--seed'"),
    ("encode items.jsonl --quantizer rq --levels 0", 2, "Invalid value for '--levels'"),
    ("encode items.jsonl --pca 0", 2, "Invalid value for '--pca'"),
    (
        "encode items.jsonl --pca 500",
        1,
        "--pca must be at most 30, as view 'embedding' has",
    ),
    ("encode items.jsonl --embedding short.npy", 1, "has 3 rows for 30 item ids"),
    ("encode items.jsonl --embedding nan.npy", 1, "row 4 (item '4'): holds NaN"),
    ("encode items.jsonl --tokenizer absent", 1, "not a semtok folder"),
    ("encode items.jsonl --tokenizer t --seed 1", 2, "no effect with --tokenizer"),
    ("encode items.jsonl --tokenizer t --quantizer rq", 2, "no effect with --tokenizer"),
    ("encode items.jsonl --tokenizer t --embedding nan.npy", 2, "the tokenizer embeds"),
    ("encode items.jsonl --tokenizer t --device cpu", 2, "has no model"),
    ("encode items.jsonl --extend", 2, "needs --tokenizer"),
    ("encode items.jsonl --tokenizer absent --extend", 1, "absent: is not a tokenizer"),
    ("encode items.jsonl --tokenizer folder --extend", 1, "folder: is not a tokenizer"),
    ("encode items.jsonl --refit-above 2", 2, "needs --tokenizer"),
    ("encode items.jsonl --whiten", 2, "needs --pca"),
    ("encode items.jsonl --fuse", 2, "needs several --views"),
    ("encode items.jsonl --views title,title", 2, "must name each view once"),
    ("encode items.jsonl --views title --fields brand", 2, "no effect with --views"),
    ("encode items.jsonl --embedding nan.npy --fields title", 2, "no effect with stored"),
    ("encode items.jsonl --embedding nan.npy --cache c", 2, "no effect with stored"),
    ("encode items.jsonl --levels 3", 2, "no effect with --quantizer hierarchical"),
    ("encode items.jsonl --quantizer pq --beams 3", 2, "no effect with --quantizer pq"),
    ("encode items.jsonl --quantizer rq --balanced", 2, "no effect with --quantizer rq"),
    ("encode items.jsonl --quantizer kmeans", 2, "must be one of"),
    ("encode items.jsonl --precision bf16", 2, "needs a text model"),
    ("encode items.jsonl --prompt item:", 2, "needs a text model"),
    ("encode items.jsonl --truncate-dim 64", 2, "needs a text model"),
    ("encode items.jsonl --missing-images empty", 2, "needs a view of images"),
    ("encode items.jsonl --quantizer random --device cpu", 2, "needs a model of texts or images"),
    ("encode items.jsonl --threads 0", 2, "Invalid value for '--threads'"),
    ("encode", 2, "Missing argument"),
    ("fit items.jsonl", 2, "Missing option"),
    ("fit items.jsonl -o t", 1, "t: exists already"),
    ("fit items.jsonl -o folder --force", 1, "is not a tokenizer"),
    ("inspect absent", 1, "not a semtok folder"),
    ("inspect items.jsonl", 1, "no column 'codes'"),
    ("inspect t --catalog items.jsonl", 2, "needs --html"),
    ("inspect t --force", 2, "needs --html"),
    ("inspect t --html x.pdf", 1, "must end in .html"),
    ("inspect t --sequences items.jsonl", 1, "line 1: no column 'user_id'"),
]


@pytest.mark.parametrize(
    "options", [(), ("--views", "title,brand", "--fuse"), ("--embedding", "x.npy")]
)
def test_too_few_codes_are_refused_before_anything_is_embedded(
    semtok: Semtok, tmp_path: Path, options: tuple[str, ...]
) -> None:
    write_items(tmp_path / "items.jsonl")
    np.save(tmp_path / "x.npy", np.eye(30))
    few = ("--quantizer", "rq", "--levels", 2, "--codebook-size", 5)
    done = semtok("encode", "items.jsonl", *few, *options)
    assert done.code == 1
    assert "codes must leave a free one, got 30 items for 25: give more" in done.stderr
    assert "words" not in done.stderr + done.stdout
    assert "quantizing" not in done.stderr
    assert semtok("encode", "items.jsonl", *few, *options, "--collisions", "suffix").code == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from semtok import LsaEmbedding, Tokenizer, read_catalog, save_tokenizer

    folder = tmp_path_factory.mktemp("cli")
    items = read_catalog(write_items(folder / "items.jsonl"))
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
    save_tokenizer(folder / "t", Tokenizer.fit(items, source=LsaEmbedding.fit(items)))
    return folder


def flat(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSALS)
def test_refusals_are_one_sentence_and_write_nothing(
    semtok: Semtok, folder: Path, arguments: str, code: int, words: str
) -> None:
    before = tree(folder)
    done = semtok(*arguments.split(), cwd=folder)
    assert done.code == code
    assert words in flat(done.stderr)
    if code == 1:
        assert done.stderr.splitlines()[-1].startswith("semtok: ")
        assert sum(line.startswith("semtok: ") for line in done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert tree(folder) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_writes_nothing(tmp_path: Path, number: int, code: int) -> None:
    items = write_items(tmp_path / "items.jsonl", 0, 20_000)
    # A shell that runs the tests in the background has them, and so this, ignore SIGINT.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from semtok.cli import main; main()"
    )
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20_000, 16)))
    stored = ("--embedding", str(tmp_path / "x.npy"))
    command = [sys.executable, "-c", script, "encode", str(items), *stored]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENV) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if line.startswith("quantizing"):
                break
        time.sleep(0.05)
        process.send_signal(number)
        seen += process.stderr.read()
    assert process.returncode == code, seen
    assert code != 130 or seen.splitlines()[-1] == "semtok: interrupted; nothing is half-written"
    assert "Traceback" not in seen
    assert names(tmp_path) == ["items.jsonl", "x.npy"]


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", 0, 3000)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3000, 4)))
    script = "from semtok.cli import main; main()"
    command = f"{sys.executable} -c '{script}' encode items.jsonl --embedding x.npy -o -"
    semtok = f"{command} | head -n 1"
    done = subprocess.run(
        semtok, shell=True, capture_output=True, text=True, env=ENV, cwd=tmp_path, check=False
    )
    assert json.loads(done.stdout)["item_id"] == "0"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_help_needs_none_of_the_heavy_modules() -> None:
    code = (
        "import sys, semtok, semtok.cli; sys.argv = ['semtok', 'encode', '--help']; "
        "import contextlib\n"
        "with contextlib.suppress(SystemExit): semtok.cli.main()\n"
        "heavy = {'numpy', 'sklearn', 'faiss', 'torch', 'polars', 'safetensors', 'scipy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENV
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for option in ("--views", "--pca", "--quantizer", "--collisions", "--engine", "--tokenizer"):
        assert option in done.stdout


def test_help_lists_the_commands(semtok: Semtok) -> None:
    done = semtok("--help")
    assert done.code == 0
    for command in ("fit", "encode", "inspect", "compare"):
        assert command in done.stdout


def test_every_public_name_is_there() -> None:
    import semtok as package

    for name in package.__all__:
        value = getattr(package, name)
        assert getattr(value, "__name__", name) == name  # a table such as QUANTIZERS has none
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        package.absent  # noqa: B018


@pytest.mark.slow
def test_beauty_as_a_user_would(semtok: Semtok, tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "amazon14_beauty"
    if not data.exists():
        pytest.skip("needs shared/data/amazon14_beauty beside the checkout")
    (tmp_path / "items.jsonl.gz").symlink_to(data / "items.jsonl.gz")
    done = semtok("encode", "items.jsonl.gz")
    assert done.code == 0, done.stderr
    codes = parsed((tmp_path / "items.codes.jsonl").read_text())
    assert len(codes) == len(set(codes.values())) == 12_101
    assert len(next(iter(codes.values()))) in (2, 3)


HOSTILE = "\x1b[31m\x1b]0;x\x07\x9b2J\x00\u202e[red]\u2028"


def test_nothing_from_data_reaches_the_terminal_as_a_command(
    semtok: Semtok, tmp_path: Path
) -> None:
    items = write_items(tmp_path / "items.jsonl")
    name = HOSTILE.replace("\x00", "").replace("/", "")
    folder = tmp_path / name
    done = semtok("fit", "items.jsonl", "-o", folder, "--quantizer", "rq")
    assert done.code == 0, done.stderr
    (tmp_path / "bad.jsonl").write_text(json.dumps({"item_id": "a", HOSTILE: 1}) + "\n" + "{}")
    field = HOSTILE.replace("[red]", "")
    rows = [{"item_id": f"i{n}", field: f"soap {n}"} for n in range(9)]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for outcome in (
        done,
        semtok("encode", items, "--tokenizer", folder, "-o", tmp_path / name / "x.jsonl"),
        semtok("encode", f"{name}.jsonl"),
        semtok("encode", "bad.jsonl"),
        semtok("encode", "odd.jsonl", "--views", f"{field},title"),
        semtok("encode", "odd.jsonl", "--views", field, "--codebook-size", 4),
        semtok("inspect", folder),
    ):
        shown = outcome.stdout + outcome.stderr
        assert not set("\x1b\x07\x9b\x00\u202e\u2028") & set(shown), shown


def test_names_of_stages_are_no_markup_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from semtok.console import Console

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Console() as console:
        console("embedding [bold]x[/nothing]\x1b]0;title", 1, 2)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/nothing]\\x1b]0;title" in shown


def test_results_do_not_follow_the_number_of_threads(tmp_path: Path) -> None:
    script = """
import hashlib
import numpy as np
from semtok import Catalog, LsaEmbedding, Pca
draws = np.random.default_rng(0).zipf(1.3, size=(4000, 12)).clip(max=2999)
titles = [" ".join(f"w{word}" for word in row) for row in draws.tolist()]
catalog = Catalog(item_ids=[f"i{row}" for row in range(4000)], fields={"title": titles})
lsa = LsaEmbedding.fit(catalog)
x = np.random.default_rng(1).normal(size=(4000, 768)).astype(np.float32)
for array in (lsa.components, lsa.embed(catalog), Pca.fit(x, dim=128, whiten=True).components):
    print(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
"""
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**ENV, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count},
            capture_output=True, text=True, check=True,
        ).stdout
        for count in ("1", "2")
    }  # fmt: skip
    assert len(outcomes) == 1
