"""Configurations: all mistakes of a file at once, and what `config` says that it may hold."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from semrec.shared.configuration import build_config, load_config, set_keys
from semrec.shared.errors import ConfigError
from semrec.shared.schema import json_schema, toml_text
from semrec.shared.sizes import following_keys, sized

APPS = Path(__file__).resolve().parents[2]
NAMES = ("prorec", "cocorec", "tssr")
FILES = sorted(APPS.glob("semrec/*/*.toml"))

Launch = Callable[..., subprocess.CompletedProcess[str]]


def config_of(name: str) -> Any:
    return importlib.import_module(f"semrec.{name}.app").APP.config


def mistakes(name: str, values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_config(config_of(name), values, "f.toml")
    assert all(line.startswith("f.toml: ") for line in caught.value.mistakes)
    return [line.removeprefix("f.toml: ") for line in caught.value.mistakes]


def leaves(config: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Each value of a configuration by its path."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, place = getattr(config, field.name), (*path, field.name)
        is_table = dataclasses.is_dataclass(value)
        values |= leaves(value, place) if is_table else {".".join(place): value}
    return values


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """The tables of values by their paths."""
    tables: dict[str, Any] = {}
    for path, value in values.items():
        *names, last = path.split(".")
        table = tables
        for name in names:
            table = table.setdefault(name, {})
        table[last] = value
    return tables


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_defaults_are_the_defaults(name: str, launch: Launch, tmp_path: Path) -> None:
    done = launch(name, "config", "--defaults")
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "defaults.toml"
    path.write_text(done.stdout)
    default = config_of(name)()
    assert load_config(config_of(name), path) == default
    lines = done.stdout.splitlines()
    for place, value in leaves(default).items():
        key = place.rpartition(".")[2]
        starts = (f"# {key}: not set",) if value is None else (f"{key} = ", f"# {key} = ")
        rows = [row for row, line in enumerate(lines) if line.startswith(starts)]
        assert rows, place
        assert all(lines[row - 1].startswith("# ") for row in rows), place
    # A run by this file is one without a file: what follows the data still does.
    everything = {place for place, value in leaves(default).items() if value is not None}
    assert set_keys(path) == everything - following_keys(default)


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_the_data_is_what_sizes_change(name: str, data: Path) -> None:
    from semrec.shared.data import read_data
    from semrec.shared.screen import Screen

    default = config_of(name)()
    small = sized(default, frozenset(), read_data(data, default.columns, Screen()))
    before, after = leaves(default), leaves(small)
    changed = {place for place, value in before.items() if after[place] != value}
    assert changed
    assert changed <= following_keys(default) <= before.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_shown_as_what_it_becomes(path: Path, launch: Launch, tmp_path: Path) -> None:
    name = path.parent.name
    done = launch(name, "config", path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = tmp_path / "shown.toml"
    shown.write_text(done.stdout)
    assert load_config(config_of(name), shown) == load_config(config_of(name), path)
    assert set_keys(path) <= set_keys(shown)


@settings(deadline=None, max_examples=15)
@given(st.text(), st.lists(st.text(min_size=1), min_size=1, unique=True), st.floats(1e-9, 1e9))
def test_any_text_and_number_is_printed_as_toml_that_gives_it(
    text: str, fields: list[str], number: float
) -> None:
    kind = config_of("prorec")
    values = {"embedding": f"x{text}", "fields": fields}
    config = build_config(kind, {"text": values, "stage_two": {"temperature": number}}, "f")
    assert build_config(kind, tomllib.loads(toml_text(config, ())), "f") == config


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_describes_every_key_and_takes_what_is_taken(name: str, launch: Launch) -> None:
    done = launch(name, "config", "--schema")
    schema = json.loads(done.stdout)
    assert schema == json_schema(config_of(name))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for node in (schema, *schema["$defs"].values()):
        assert node["description"]
        assert node["additionalProperties"] is False
        for key, entry in node["properties"].items():
            assert entry.get("description") or "$ref" in entry, key
    validator.validate(tomllib.loads(toml_text(config_of(name)(), ())))
    for path in FILES:
        if path.parent.name == name:
            validator.validate(tomllib.loads(path.read_text()))


WRONG = {
    "seed": "three",
    "codes.quantizer": "kmeans",
    "codes.codebook_size": 2.5,
    "evaluation.ks": [5, "ten"],
    "evaluation.users": 3,
    "nothing.at_all": 1,
}


@pytest.mark.parametrize("name", ["prorec", "cocorec"])
def test_every_mistake_is_named_with_its_path(name: str) -> None:
    named = mistakes(name, nested(WRONG))
    assert len(named) == len(WRONG)
    kinds = leaves(config_of(name)())
    for path, value in WRONG.items():
        table, _, key = path.rpartition(".")
        if path in kinds:
            shown = tuple(value) if isinstance(value, list) else value
            words = (f"{path} must be ", f", got {shown!r}")
        elif table == "nothing":
            words = ("unknown key 'nothing'; known keys are seed, columns, ", "evaluation")
        else:
            words = (f"[{table}]: unknown key {key!r}; known keys are ", "")
        assert [line for line in named if line.startswith(words[0]) and line.endswith(words[1])]
    alone = [mistakes(name, nested({path: value})) for path, value in WRONG.items()]
    assert sorted(named) == sorted(line for lines in alone for line in lines)
    wrong = Draft202012Validator(json_schema(config_of(name)))
    assert not any(wrong.is_valid(nested({path: value})) for path, value in WRONG.items())


def test_a_table_s_rules_are_named_too_beside_what_is_wrong_otherwise() -> None:
    values = {
        "seed": -1,
        "stage_two.epochs": 0,
        "stage_two.batch_size": "many",
        "stage_two.beta": -0.5,
        "stage_one.dropout": 1,
        "stage_one.patience": 0,
        "text.dim": 0,
    }
    assert sorted(mistakes("prorec", nested(values))) == [
        "seed must be at least 0 and below 2**32, got -1",
        "stage_one.dropout must be in [0, 1), got 1.0",
        "stage_one.patience must be at least 1, got 0",
        "stage_two.batch_size must be int, got 'many'",
        "stage_two.beta must be at least 0, got -0.5",
        "stage_two.epochs must be at least 1, got 0",
        "text.dim must be at least 1, got 0",
    ]


def test_no_rule_is_said_to_be_broken_because_of_another_mistake() -> None:
    """With four heads, the default, a width of 30 would not do."""
    values = {"stage_one.dim": 30, "stage_one.num_heads": "five", "stage_two.dim": 30}
    assert mistakes("prorec", nested({**values, "stage_two.num_heads": 5})) == [
        "stage_one.num_heads must be int, got 'five'"
    ]


def test_rules_between_tables_are_named_by_their_paths() -> None:
    assert mistakes("prorec", {"stage_one": {"dim": 64}}) == [
        'stage_two.dim must be stage_one.dim where stage_two.history_input is "backbone", '
        "got 128 and 64"
    ]
    assert mistakes("tssr", {"content": {"encoder": {"lora_rank": 0, "rank": 3}, "dim": 0}}) == [
        "[content.encoder]: unknown key 'rank'; known keys are trained, trained_layers, "
        "lora_rank, checkpointing, precision, max_length, batch_items, image_size",
        "content.dim must be at least 1, got 0",
        "content.encoder.lora_rank must be at least 1, got 0",
    ]
    assert mistakes("tssr", {"content": {"encoder": 3}}) == [
        "content.encoder must be a table, [content.encoder], got 3"
    ]


DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), 2**63, True, "1", 1.0, [1], pytest.param(DEEP, id="deep")]
)
def test_types_are_strict(value: object) -> None:
    (line,) = mistakes("tssr", {"model": {"num_layers": value}})
    assert line.startswith("model.num_layers must be int, got ")
    build_config(config_of("tssr"), {"model": {"learning_rate": 1}}, "f")


def test_a_file_s_mistakes_are_a_line_each(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('seed = 2026-01-01\n[model]\nepochs = 0\ncolour = "red"\n')
    done = launch("tssr", "config", path)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (1, "", 3)
    assert lines[0] == f"error: {path}: seed must be int, got datetime.date(2026, 1, 1)"
    assert lines[1].startswith(f"error: {path}: [model]: unknown key 'colour'; known keys are ")
    assert lines[2] == f"error: {path}: model.epochs must be at least 1, got 0"


@pytest.mark.parametrize("arguments", [(), ("--schema", "--defaults"), ("f.toml", "--schema")])
def test_config_takes_one_of_three(arguments: tuple[str, ...], launch: Launch) -> None:
    done = launch("tssr", "config", *arguments)
    words = "error: config takes one of a FILE, --schema and --defaults\n"
    assert (done.returncode, done.stderr) == (1, words)
