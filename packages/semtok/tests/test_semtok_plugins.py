"""Quantizers and embedding sources of other packages: by their names, and only if trusted."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from semtok import (
    Catalog,
    CatalogError,
    LsaEmbedding,
    SemanticIds,
    Tokenizer,
    ViewQuantizer,
    check_source,
    embedding_source,
    load_quantizer,
    load_source,
    load_tokenizer,
    plugins,
    quantizer_kind,
    save_part,
    save_tokenizer,
)
from semtok.cli import app
from typer.testing import CliRunner

X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
ITEMS = Catalog(
    item_ids=[f"i{row}" for row in range(50)],
    fields={"title": [f"thing {'abcdefgh'[row % 8] * row}" for row in range(50)]},
)
LSH, CHARACTERS = "mypackage.lsh:LshQuantizer", "mypackage.characters:CharacterCounts"
TRUST = ("mypackage",)
UNTRUSTED = (
    r"is code of the package mypackage, which runs only where you trust it: add --trust mypackage, "
    r"in Python trust=\('mypackage',\)"
)


@pytest.fixture
def lsh(page_module: Callable[[str], ModuleType]) -> ModuleType:
    return page_module("mypackage.lsh")


@pytest.fixture
def characters(page_module: Callable[[str], ModuleType]) -> ModuleType:
    return page_module("mypackage.characters")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module mypackage.other, to be filled."""
    module = ModuleType("mypackage.other")
    monkeypatch.setitem(sys.modules, "mypackage.other", module)
    return module


def test_what_is_the_name_of_a_part() -> None:
    assert plugins.is_plugin(LSH)
    assert plugins.is_plugin("package:Name")
    for name in ("lsa", "a.b", "a.b:", ":b", "a b:c", "a..b:c", "hf-hub:a/b", "a:b:c", "a:b.c", ""):
        assert not plugins.is_plugin(name), name


def test_a_quantizer_of_another_package_is_fitted_saved_and_loaded(
    lsh: ModuleType, tmp_path: Path
) -> None:
    table = SemanticIds.fit(X, quantizer=LSH, trust=TRUST, num_levels=2, codebook_size=16, seed=3)
    fitted = lsh.LshQuantizer.fit(X, num_levels=2, codebook_size=16, seed=3)
    codes = fitted.encode(X)
    unmoved = (table.codes == codes).all(axis=1)
    _, first = np.unique(codes, axis=0, return_index=True)
    assert unmoved[first].all()  # of those that share codes, the first keeps them
    save_part(tmp_path / "q", table.quantizer)
    with pytest.raises(
        CatalogError, match=f"^{tmp_path}/q: mypackage.lsh:LshQuantizer {UNTRUSTED}"
    ):
        load_quantizer(tmp_path / "q")
    loaded = load_quantizer(tmp_path / "q", trust=TRUST)
    assert type(loaded) is lsh.LshQuantizer
    np.testing.assert_array_equal(loaded.encode(X), codes)
    config = json.loads((tmp_path / "q/config.json").read_text())
    assert config["kind"] == LSH
    assert list(config["files"]) == ["part/lsh.npz"]


def test_an_embedding_source_of_another_package_is_made_saved_and_loaded(
    characters: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(CatalogError, match=f"^{CHARACTERS} {UNTRUSTED}"):
        embedding_source(CHARACTERS, catalog=ITEMS)
    chunks = (ITEMS.take(list(range(start, start + 25))) for start in (0, 25))
    source = embedding_source(CHARACTERS, catalog=chunks, fields=("title",), trust=TRUST)
    assert type(source) is characters.CharacterCounts
    vectors = source.embed(ITEMS)
    assert vectors[9, source.alphabet.index("b")] == np.sqrt(9)  # type: ignore[attr-defined]
    save_part(tmp_path / "source", source)
    with pytest.raises(CatalogError, match=f"^{tmp_path}/source: {CHARACTERS} {UNTRUSTED}"):
        load_source(tmp_path / "source")
    loaded = load_source(tmp_path / "source", trust=TRUST)
    np.testing.assert_array_equal(loaded.embed(ITEMS), vectors)
    assert loaded.fingerprint == source.fingerprint


def test_a_tokenizer_of_two_views_holds_them(
    lsh: ModuleType, characters: ModuleType, tmp_path: Path
) -> None:
    sources = {
        "letters": embedding_source(CHARACTERS, catalog=ITEMS, trust=TRUST),
        "words": LsaEmbedding.fit(ITEMS, dim=4),
    }
    quantizer = quantizer_kind(LSH, trust=TRUST)
    tokenizer = Tokenizer.fit(
        ITEMS,
        source=sources,
        fuse=False,
        quantizer=lambda x, **options: quantizer.fit(x, codebook_size=8, num_levels=2, **options),
    )
    save_tokenizer(tmp_path / "t", tokenizer)
    with pytest.raises(CatalogError, match=f"^{tmp_path}/t/quantizer/0: {LSH} {UNTRUSTED}"):
        load_tokenizer(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t", trust=TRUST)
    assert isinstance(loaded.quantizer, ViewQuantizer)
    assert [type(part) for part in loaded.quantizer.parts] == [lsh.LshQuantizer] * 2
    new = Catalog(item_ids=["n"], fields={"title": ["thing bbb"]})
    np.testing.assert_array_equal(
        loaded.encode(new).semantic_ids.codes, tokenizer.encode(new).semantic_ids.codes
    )


def test_no_code_runs_before_it_is_trusted(tmp_path: Path) -> None:
    """The package does not exist, so that importing it would say so."""
    for refused in (
        lambda: quantizer_kind("absent.lsh:Q"),
        lambda: quantizer_kind("absent.lsh:Q", trust=("absent.lsh", "abs", "other")),
        lambda: check_source("absent:E"),
    ):
        with pytest.raises(
            CatalogError, match="which runs only where you trust it: add --trust abs"
        ):
            refused()
    with pytest.raises(TypeError, match=r"such as \('absent',\), got 'absent'"):
        quantizer_kind("absent.lsh:Q", trust="absent")


def needed(**changes: Any) -> dict[str, Any]:
    """The methods of a quantizer, some of them others."""
    names = ("fit", "load", "save", "encode", "decode", "distortion")
    return {**dict.fromkeys(names, lambda *arguments, **options: None), **changes}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "mypackage.other has no Q"),
        (7, "mypackage.other:Q must be a class, to be a quantizer"),
        (needed(decode=None), "mypackage.other:Q cannot be a quantizer: it lacks decode"),
        (
            needed(decode=None, distortion=3),
            "mypackage.other:Q cannot be a quantizer: it lacks decode, distortion",
        ),
    ],
)
def test_what_is_no_quantizer_is_refused(module: ModuleType, value: Any, words: str) -> None:
    if value is not None:
        module.Q = type("Q", (), value) if isinstance(value, dict) else value  # type: ignore[attr-defined]
    with pytest.raises(CatalogError, match=words):
        quantizer_kind("mypackage.other:Q", trust=TRUST)


def test_what_fits_no_quantizer_is_refused(module: ModuleType) -> None:
    def fit(x: np.ndarray, **options: object) -> object:
        return module.Q()  # type: ignore[attr-defined]

    module.Q = type("Q", (), needed(fit=fit, dim=6))  # type: ignore[attr-defined]
    with pytest.raises(CatalogError, match="it lacks num_levels, codebook_sizes"):
        quantizer_kind("mypackage.other:Q", trust=TRUST).fit(X)


def test_a_module_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CatalogError, match=r"^absent.lsh:Q cannot be imported \(ModuleNotFoundErr"):
        quantizer_kind("absent.lsh:Q", trust=("absent",))

    def fails(name: str) -> ModuleType:
        raise ZeroDivisionError("in\nits code")

    monkeypatch.setattr(plugins, "import_module", fails)
    with pytest.raises(CatalogError, match=r"\(ZeroDivisionError: in its code\)"):
        quantizer_kind("absent.lsh:Q", trust=("absent",))


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"quantizer must be one of hier.*, or package.module:Name"
    ):
        quantizer_kind("nosuch")
    result = CliRunner().invoke(app, ["fit", "x.jsonl", "-o", "t", "--quantizer", "nosuch"])
    assert result.exit_code == 2
    assert "nosuch" in result.output


def test_every_file_of_a_part_has_its_digest(lsh: ModuleType, tmp_path: Path) -> None:
    class Q(lsh.LshQuantizer):  # type: ignore[name-defined, misc]
        """Its folder has a config.json, as one of semtok's has."""

        def save(self, folder: str | Path) -> None:
            super().save(folder)
            (Path(folder) / "config.json").write_text("{}")

    with pytest.raises(TypeError, match=r"test_every_file.*Q must be a class of a module that can"):
        save_part(tmp_path / "q", Q.fit(X))
    lsh.Q, Q.__module__, Q.__qualname__ = Q, "mypackage.lsh", "Q"
    save_part(tmp_path / "q", Q.fit(X))
    load_quantizer(tmp_path / "q", trust=TRUST)
    with (tmp_path / "q/part/lsh.npz").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CatalogError, match=r"lsh.npz: damaged"):
        load_quantizer(tmp_path / "q", trust=TRUST)


def test_another_version_is_said(
    lsh: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    versions = {"mypackage": "1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    save_part(tmp_path / "q", lsh.LshQuantizer.fit(X))
    with caplog.at_level(logging.WARNING):
        load_quantizer(tmp_path / "q", trust=TRUST)
        assert caplog.messages == []
        versions["mypackage"] = "1.1"
        load_quantizer(tmp_path / "q", trust=TRUST)
        del versions["mypackage"]
        load_quantizer(tmp_path / "q", trust=TRUST)
    words = f"{tmp_path}/q: {LSH} was saved by version 1.0"
    assert caplog.messages == [f"{words}, 1.1 is here", f"{words}, unknown is here"]
