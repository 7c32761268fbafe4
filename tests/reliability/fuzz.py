"""Every command line on files that were changed by chance: an answer, or one sentence.

    python tests/reliability/fuzz.py --seconds 600 --seed 0 [--runs FOLDER]

FOLDER holds complete runs, in folders `prorec`, `cocorec` and `tssr`. A case is decided by the seed
and its number: `--first N --cases 1` repeats one alone. Ends with 1 if any has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LONGEST = 60  # seconds of a case
MOST_FAILURES = 10
TOKENS = [
    *(b"NaN", b"Infinity", b"1e999", b"-1", b"true", b"null", b"{}", b"[]", b'""', b"1" * 400),
    *(b"9007199254740993.0", b"\\ud83d", b"\\u0000", b"\\u2028", b"\\u001b[31m", b"\x1b]0;x\x07"),
    *("\u202e".encode(), "\u2028".encode(), b"\xff", b"\0", b"\r\n", b"\n\n", b'"', b"[" * 3000),
    *(b"[red]", b"[/x]", b"<script>", b"../..", b"1970-01-01", b"PAR1", b"\xef\xbb\xbf", b","),
]
FIT = ["--quantizer", "rq", "--codebook-size", "8", "--levels", "2", "--quiet"]
MAINS = {"semtok": "semtok.cli", "evalrec": "evalrec.cli"}


def commands(apps: list[str]) -> list[tuple[str, list[str], list[str]]]:
    """Each command with its program and what may be changed: files, or files of folders."""
    listed: list[tuple[str, list[str], list[str]]] = []
    for suffix in ("jsonl", "csv", "parquet", "jsonl.gz"):
        items, table = f"items.{suffix}", f"tables/{suffix}/interactions.{suffix}"
        listed += [
            ("semtok", ["fit", items, "-o", "new", *FIT], [items]),
            ("semtok", ["encode", items, "-o", "-", *FIT], [items]),
            ("semtok", ["encode", items, "-o", "-", "--tokenizer", "tok"], [items, "tok"]),
            ("evalrec", ["check", f"tables/{suffix}"], [table]),
            ("evalrec", ["check", f"tables/{suffix}", "--json"], [table]),
            ("evalrec", ["prepare", "native", f"tables/{suffix}", "-o", "out"], [table]),
        ]
    listed += [
        ("semtok", ["inspect", "tok"], ["tok"]),
        ("semtok", ["inspect", "tok", "--html", "page.html"], ["tok"]),
        ("semtok", ["inspect", "codes.jsonl", "--json"], ["codes.jsonl"]),
        ("semtok", ["inspect", "codes.csv"], ["codes.csv"]),
        ("evalrec", ["floors", "tables/jsonl"], ["tables/jsonl"]),
        ("evalrec", ["compare", "a=report.json", "b=report.json"], ["report.json"]),
    ]
    for raw in ("amazon2014", "amazon2018", "amazon2023", "movielens", "mind", "hm", "yelp"):
        listed.append(("evalrec", ["prepare", raw, "items.jsonl", "-o", "out"], ["items.jsonl"]))
    for app in apps:
        ask = ["recommend", "--run", app, "--device", "cpu"]
        files = ["--input", "histories.jsonl", "--output", "answers.jsonl"]
        lists = ["--deny", "denied.txt", "--allow", "allowed.txt"]
        listed += [
            (app, [*ask, *files], ["histories.jsonl", app]),
            (app, [*ask, *files, *lists], ["denied.txt", "allowed.txt", "histories.jsonl"]),
            (app, [*ask, "--history", "item-00001"], [app]),
            (
                app,
                ["run", "--data", "tables/jsonl", "--out", "out", "--config", "bad.toml"],
                ["tables/jsonl"],
            ),
        ]
    return listed


def change(data: bytes, draw: random.Random) -> bytes:
    """Some bytes of a file changed, cut, doubled, moved, or replaced by what has hurt before."""
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        first, second = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        second = min(second, first + draw.choice((1, 8, 100, 10**6)))
        token = draw.choice(TOKENS)
        number = re.compile(rb"-?\d+(\.\d+)?|\"[^\"\n]*\"").search(data, first)
        match draw.randrange(7):
            case 0 if first < len(data):
                flipped = bytes([data[first] ^ 1 << draw.randrange(8)])
                data = data[:first] + flipped + data[first + 1 :]
            case 1:
                data = data[:first]
            case 2:
                data = data[:first] + data[second:]
            case 3:
                data = data[:second] + data[first:]
            case 4 if number is not None:
                data = data[: number.start()] + token + data[number.end() :]
            case 5:
                lines = data.split(b"\n")
                draw.shuffle(lines)
                data = b"\n".join(lines)
            case _:
                data = data[:first] + token + data[first:]
    return data


def spoil(place: Path, names: list[str], draw: random.Random) -> str:
    """Changes one file of those that a command reads."""
    path = place / draw.choice(names)
    if path.is_dir():
        path = draw.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    data = path.read_bytes()
    if path.suffix == ".gz" and draw.random() < 0.7:
        data = gzip.compress(change(gzip.decompress(data), draw), mtime=0)
    else:
        data = change(data, draw)
    path.write_bytes(data)
    return str(path.relative_to(place))


def run(program: str, arguments: list[str]) -> tuple[object, str, str]:
    """The exit code of a command line in this process, and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [program, *arguments]
    code: object = 0

    def late(*_: object) -> None:
        raise TimeoutError("it took too long")

    handler = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        main = importlib.import_module(MAINS.get(program, f"semrec.{program}.app")).main
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        code = traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, handler)
    return code, out.getvalue(), err.getvalue()


def fault(program: str, code: object, out: str, err: str) -> str:
    """What is wrong with how a command ended; "" if nothing is."""
    if code not in (0, 1, 2):
        return f"ended with {code}"
    if "Traceback" in err:
        return "shows a traceback"
    if "took too long" in err:
        return "does not end"
    if CONTROLS.search(err) or CONTROLS.search(out.replace("\x0d", "")):
        return "prints control characters"
    start = f"{program}: " if program in MAINS else "error: "
    said = [line for line in err.splitlines() if line.startswith(start)]
    if code == 1 and not out and (len(said) != 1 or err.splitlines()[-1] != said[0]):
        return "says not one sentence"
    return ""


def make(place: Path, runs: Path | None) -> list[str]:
    """Good inputs of every command; the apps that there are runs of."""
    import polars as pl
    from evalrec import write_synthetic

    write_synthetic(place / "data", num_items=60, num_users=60, seed=3)
    (place / "data/items.jsonl").replace(place / "items.jsonl")
    text = (place / "items.jsonl").read_bytes()
    items = [json.loads(line) for line in text.splitlines()]
    frame = pl.DataFrame([{**item, "categories": ", ".join(item["categories"])} for item in items])
    table = pl.read_parquet(place / "data/interactions.parquet")
    shutil.rmtree(place / "data")
    writers = {"jsonl": "write_ndjson", "csv": "write_csv", "parquet": "write_parquet"}
    for suffix, write in writers.items():
        folder = place / "tables" / suffix
        folder.mkdir(parents=True)
        (folder / "items.jsonl").write_bytes(text)
        getattr(table, write)(folder / f"interactions.{suffix}")
        if suffix != "jsonl":
            getattr(frame, write)(place / f"items.{suffix}")
    (place / "items.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
    packed = place / "tables" / "jsonl.gz"
    packed.mkdir()
    (packed / "items.jsonl").write_bytes(text)
    table = (place / "tables/jsonl/interactions.jsonl").read_bytes()
    (packed / "interactions.jsonl.gz").write_bytes(gzip.compress(table, mtime=0))
    ids = [item["item_id"] for item in items]
    histories = [json.dumps({"user": row, "history": ids[row : row + row % 4]}) for row in range(9)]
    (place / "histories.jsonl").write_text("\n".join(histories) + "\n")
    (place / "denied.txt").write_text("\n".join(ids[:9]) + "\n")
    (place / "allowed.txt").write_text("\n".join(ids[5:30]) + "\n")
    (place / "bad.toml").write_text("[unknown]\nx = 1\n")
    os.chdir(place)
    for arguments in (
        ["fit", "items.jsonl", "-o", "tok", *FIT],
        ["encode", "items.jsonl", "-o", "codes.jsonl", *FIT],
        ["encode", "items.jsonl", "-o", "codes.csv", *FIT],
    ):
        done = run("semtok", arguments)
        assert done[0] == 0, done
    apps = []
    for name in ("prorec", "cocorec", "tssr"):
        if runs is not None and (runs / name).is_dir():
            shutil.copytree(runs / name, place / name)
            apps.append(name)
    reports = [path for app in apps for path in sorted((place / app).rglob("report.json"))]
    if reports:
        shutil.copy(reports[0], place / "report.json")
    else:
        (place / "report.json").write_text('{"format": 2}')
    return apps


def cases(
    seed: int, first: int, good: Path, apps: list[str]
) -> Iterator[tuple[int, str, object, str]]:
    """Runs one case after another: its number, what it was, its code, and what was wrong."""
    listed, work = commands(apps), good.with_name("work")
    number = first
    while True:
        draw = random.Random(f"{seed} {number}")
        program, arguments, names = draw.choice(listed)
        os.chdir(good.parent)
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(good, work)
        os.chdir(work)
        spoiled = spoil(work, names, draw)
        code, out, err = run(program, arguments)
        wrong = fault(program, code, out, err)
        if wrong:
            wrong = f"{wrong}\n{err[-2000:]}"
        yield number, f"{program} {' '.join(arguments)} ({spoiled})", code, wrong
        number += 1


def main() -> int:
    """Fuzzes for some seconds, or some cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--runs", type=Path)
    options = parser.parse_args()
    runs = options.runs.resolve() if options.runs else None
    failures = count = answered = 0
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder) / "good"
        good.mkdir()
        apps = make(good, runs)
        stop = time.monotonic() + options.seconds
        for number, what, code, wrong in cases(options.seed, options.first, good, apps):
            count += 1
            answered += code == 0
            if wrong:
                failures += 1
                print(f"case {number}: {what}\n{wrong}\n", flush=True)
            is_over = time.monotonic() > stop or count >= options.cases
            if is_over or failures >= MOST_FAILURES:
                break
        os.chdir("/")
    print(f"{count} cases, {answered} answered, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
