"""docs/shop.md, from a German shop's exports to answers for all, and guides that go on from it."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[1] / "docs/shop.md"
GUIDES = sorted(PAGE.parent.glob("guides/*.md"))
SHOP_BLOCK = re.compile(r"^```(console|python) shop\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BERLIN = timezone(timedelta(hours=2))
KINDS = ("Tee", "Kaffee", "Gewürze", "Öle", "Süßes")
# A training in seconds: what the page shows is in minutes.
QUICK = """
[text]
dim = 16
[stage_one]
dim = 16
num_heads = 2
num_layers = 1
epochs = 3
[stage_two]
dim = 16
num_heads = 2
feedforward_dim = 32
epochs = 2
[evaluation]
reference = false
num_beams = 40
"""


def sections() -> dict[str, list[str]]:
    """The commands of each section of the page."""
    commands: dict[str, list[str]] = {}
    for title, text in re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S):
        blocks = re.findall(r"^```console shop\n(.*?)^```$", text, re.M | re.S)
        commands[title] = re.findall(r"^\$ (.*)$", "".join(blocks), re.M)
    return commands


def write_shop(folder: Path, *, num_articles: int, weeks: int) -> None:
    """Writes orders.csv and articles.csv; more weeks or articles leave the earlier orders alone.

    Articles past the 75th are bought from the third week on.
    """
    articles = [f"{number:05d}" for number in range(1, 81)][:num_articles]
    lines = ["Artikelnummer;Titel;Marke;Kategorie"]
    for number, article in enumerate(articles):
        kind = KINDS[number % len(KINDS)]
        title = "" if number % 17 == 3 else f"{kind} Sorte {number // 5} für Genießer"
        lines.append(f"{article};{title};Müller {number % 3};Küche > {kind}")
    (folder / "articles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["Kundennummer;Artikelnummer;Bestelldatum;Menge;Einzelpreis"]
    start = datetime(2026, 6, 1, 9, 0, tzinfo=BERLIN)
    for customer in range(1, 151):
        draw = random.Random(customer)
        taste = draw.randrange(len(KINDS))
        for order in range(4 + weeks):
            on_sale = len(articles) if order > 5 else 75
            place = draw.randrange(on_sale // len(KINDS)) * len(KINDS)
            kind = taste if draw.random() < 0.8 else draw.randrange(len(KINDS))
            time = start + timedelta(days=7 * order, minutes=customer)
            line = f"{customer:04d};{articles[place + kind]};{time.isoformat()}"
            lines.append(f"{line};1;{draw.randrange(1, 20)},50")
            if draw.random() < 0.05:  # sent back
                lines.append(f"{line};-1;1,00")
    text = "\n".join(lines) + "\n"
    (folder / "orders.csv").write_text(text, encoding="utf-8-sig")


def type_in(command: str, folder: Path) -> str:
    """Runs a command as it stands, a run with a quick configuration; returns what it printed."""
    if command.startswith("prorec run "):
        command += " --config quick.toml"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Monday's commands were run."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "quick.toml").write_text(QUICK)
    write_shop(folder, num_articles=75, weeks=2)
    printed = "".join(type_in(command, folder) for command in sections()["Monday"])
    (folder / "printed.txt").write_text(printed)
    return folder


def test_monday(shop: Path) -> None:
    printed = (shop / "printed.txt").read_text()
    assert "; separated, UTF-8 with BOM, decimal comma" in printed
    assert re.search(r"NDCG@10 of .* validation users", printed)
    with (shop / "monday.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    customers = {row["user"] for row in rows}
    assert customers == {f"{number:04d}" for number in range(1, 151)}  # leading zeros, all of them
    assert len(rows) == 150 * 20
    assert all(re.fullmatch(r"000\d\d", row["item"]) for row in rows)
    assert any("Genießer" in row["title"] for row in rows)
    (answer,) = [json.loads(line) for line in (shop / "one.jsonl").read_text().splitlines()]
    assert answer["user"] == "0007"
    mine = [row["item"] for row in rows if row["user"] == "0007"]
    assert [item["item_id"] for item in answer["items"]] == mine[: len(answer["items"])]


@pytest.mark.parametrize(
    "guide", [page for page in GUIDES if SHOP_BLOCK.search(page.read_text())], ids=lambda p: p.stem
)
def test_a_guide_goes_on_from_monday(guide: Path, shop: Path) -> None:
    for kind, text in SHOP_BLOCK.findall(guide.read_text()):
        if kind == "python":
            type_in(shlex.join(["python", "-c", text]), shop)
        for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
            type_in(command, shop)


def test_next_monday(shop: Path) -> None:
    """Two weeks and five articles later: published codes stay, all customers are answered again."""
    codes = "tokenizer/tokenizer/codes.parquet"
    before = (shop / "runs/monday" / codes).read_bytes()
    write_shop(shop, num_articles=80, weeks=4)
    printed = "".join(type_in(command, shop) for command in sections()["Next Monday"])
    assert re.search(
        r"^80 items, 5 new; overlap of top 10: \d+ %; NDCG@10 \S+ to \S+ on the purchases since",
        printed,
        re.M,
    )
    assert (shop / "runs/monday" / codes).read_bytes() == before
    published = pl.read_parquet(shop / "runs/monday" / codes)
    assert pl.read_parquet(shop / "runs/next-monday" / codes)[: len(published)].equals(published)
    with (shop / "next-monday.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 150 * 20
    assert {row["item"] for row in rows} & {f"{number:05d}" for number in range(76, 81)}
