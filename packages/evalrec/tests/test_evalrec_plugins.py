"""Readers of other packages: by their names, and only if trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from evalrec import DataError, prepare, read_catalogue, read_raw
from evalrec.cli import app
from typer.testing import CliRunner

ODD, TRUST = "mypackage.odd:ODD", ("mypackage",)
UNTRUSTED = f"^{ODD} is code of the package mypackage, which runs only where you trust it: add"
ORDERS = [("20", "a2", "u1"), ("10", "a1", "u1"), ("5", "a1", "u2"), ("6", "a3", "u2")]


@pytest.fixture
def odd(page_module: Callable[[str], ModuleType]) -> ModuleType:
    return page_module("mypackage.odd")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    orders, articles = tmp_path / "shop.orders", tmp_path / "shop.articles"
    orders.write_text("".join(f"{';'.join(order)}\n" for order in ORDERS))
    articles.write_text("a1;Tea\na2;Söme salt\na9;Oil\n", encoding="utf-8")
    return [orders, articles]


def test_a_reader_of_another_package_reads(odd: ModuleType, files: list[Path]) -> None:
    done: list[tuple[int, int]] = []
    table = read_raw(
        ODD, files, trust=TRUST, progress=lambda _, part, whole: done.append((part, whole))
    ).interactions
    rows = {
        (str(time), table.item_ids[item], table.user_ids[user])
        for time, item, user in zip(table.timestamps, table.items, table.users, strict=True)
    }
    assert rows == set(ORDERS)
    assert done[-1] == (files[0].stat().st_size,) * 2
    records = read_catalogue(ODD, files, ["a2", "a3"], trust=TRUST)
    assert records == {"a2": {"item_id": "a2", "title": "Söme salt"}}


def test_a_folder_says_who_read_it(odd: ModuleType, files: list[Path], tmp_path: Path) -> None:
    command = ["prepare", ODD, *map(str, files), "-o", str(tmp_path / "data"), "--k-core", "1"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, DataError)
    assert "--trust mypackage" in str(refused.exception)
    assert not (tmp_path / "data").exists()
    result = CliRunner().invoke(app, [*command, "--trust", "mypackage"])
    assert result.exit_code == 0, result.output
    description = json.loads((tmp_path / "data/dataset.json").read_text())
    assert (description["source"], description["version"]) == (ODD, None)
    assert len(pl.read_parquet(tmp_path / "data/interactions.parquet")) == len(ORDERS)


def test_what_cannot_read_is_refused(
    odd: ModuleType, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=UNTRUSTED):
        read_raw(ODD, files)
    with pytest.raises(DataError, match=UNTRUSTED):
        read_catalogue(ODD, files, [], trust=("mypack",))
    with pytest.raises(DataError, match=UNTRUSTED):
        prepare(ODD, files, tmp_path / "data")
    monkeypatch.setattr(odd, "ODD", "odd")
    with pytest.raises(DataError, match=r"mypackage.odd:ODD must be an evalrec.Format, got str"):
        read_raw(ODD, files, trust=TRUST)
    with pytest.raises(DataError, match=r"mypackage.odd has no EVEN"):
        read_raw("mypackage.odd:EVEN", files, trust=TRUST)
    monkeypatch.delitem(sys.modules, "mypackage.odd")
    with pytest.raises(DataError, match=r"cannot be imported \(ModuleNotFoundError"):
        read_raw(ODD, files, trust=TRUST)
    with pytest.raises(ValueError, match=r"format must be one of native, .*package.module:NAME"):
        read_raw("nosuch", files)


def test_a_line_that_is_wrong_is_named(odd: ModuleType, files: list[Path]) -> None:
    files[0].write_text("10;a1;u1\n20;a1\n")
    with pytest.raises(DataError, match=r"shop.orders, line 2: must have 3 cells, got 2"):
        read_raw(ODD, files, trust=TRUST)
    files[0].write_text("10;a1;u1\nnoon;a1;u1\n")
    with pytest.raises(DataError, match=r"shop.orders, line 2: time must be a whole number"):
        read_raw(ODD, files, trust=TRUST)
