"""A configuration described for its users: a JSON Schema for editors, and TOML with comments.

Both describe each key by the docstring of its dataclass.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterator
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from semrec.shared.configuration import adapter
from semrec.shared.plugins import PLUGIN
from semrec.shared.sizes import following_keys
from semrec.shared.text import visible

_WIDTH = 98
_SECTION = re.compile(r"(?:Attributes|Args)(?:, those of `(\w+)\.(\w+)` aside)?:")
_ENTRY = re.compile(r"    (\w+): (.*)")
# A full stop that ends a sentence, unlike that of "eq. 5".
_SENTENCE_END = re.compile(r"(?<=[.])\s+(?=[A-Z\"])")
_WORDS = {int: "a whole number", float: "a number", str: "a text"}


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the TOML files of a configuration.

    Args:
        kind: A frozen dataclass as `load_config` takes it.
    """
    schema = adapter(kind).json_schema()
    for table in _tables(kind):
        node = schema if table is kind else schema["$defs"][table.__name__]
        node["description"] = _summary(table)
        node["additionalProperties"] = False
        for name, words in descriptions(table).items():
            node["properties"][name]["description"] = words
        for field in dataclasses.fields(table):
            if "known" in field.metadata:  # or a part of another package
                names = [{"enum": list(field.metadata["known"])}, {"pattern": PLUGIN}]
                node["properties"][field.name]["anyOf"] = names
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def toml_text(config: Any, keys: Collection[str]) -> str:
    """A configuration as TOML: each key with its value and a comment that describes it.

    Reading the text gives `config` again. Keys that follow the data and were not set are comments.
    Keys without a value are comments too, because TOML has no null.

    Args:
        config: A configuration.
        keys: The keys that were set, as `set_keys` returns them.
    """
    follows = following_keys(config) - set(keys)
    head = [
        *_comment(_summary(type(config))),
        *_comment("Keys that are commented out are not set."),
    ]
    return "\n".join([*head, *_table_lines(config, (), follows)]) + "\n"


def descriptions(table: type[Any]) -> dict[str, str]:
    """The description of each field, from the docstrings of a dataclass and its bases."""
    names = {field.name for field in dataclasses.fields(table)}
    words: dict[str, str] = {}
    for kind in reversed(table.__mro__):
        words |= _documented(kind)
    return {name: text for name, text in words.items() if name in names}


def _documented(kind: type[Any]) -> dict[str, str]:
    """The descriptions of fields in a class's docstring and in a docstring it refers to."""
    words: dict[str, str] = {}
    inside, name = False, ""
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        if section := _SECTION.fullmatch(line):
            inside, name = True, ""
            if section[1]:
                words |= _documented(getattr(import_module(section[1]), section[2]))
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (entry := _ENTRY.fullmatch(line)):
            name = entry[1]
            words[name] = entry[2]
        elif inside and name:
            words[name] = f"{words[name]} {line.strip()}".strip()
    return words


def _summary(table: type[Any]) -> str:
    return inspect.cleandoc(table.__doc__ or "").partition("\n")[0]


def _tables(kind: type[Any]) -> Iterator[type[Any]]:
    """Yields a dataclass and the dataclasses of all its tables, recursively."""
    yield kind
    for hint in get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            yield from _tables(hint)  # type: ignore[arg-type]


def _table_lines(config: Any, path: tuple[str, ...], follows: Collection[str]) -> Iterator[str]:
    """The lines of a table: its values, then the tables in it."""
    words, types = descriptions(type(config)), get_type_hints(type(config))
    inner = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            inner.append((field.name, value))
            continue
        yield ""
        about = _SENTENCE_END.split(words.get(field.name, ""))[0]
        yield from _comment(about)
        yield from _comment(_choices(types[field.name]))
        if value is None:
            yield f"# {field.name}: not set"
        elif ".".join((*path, field.name)) in follows:
            yield f"# {field.name} = {_toml(value)}  # follows the data unless it is set"
        else:
            yield f"{field.name} = {_toml(value)}"
    for name, value in inner:
        yield ""
        yield from _comment(_summary(type(value)))
        yield f"[{'.'.join((*path, name))}]"
        yield from _table_lines(value, (*path, name), follows)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]


def _choices(hint: Any) -> str:
    """The possible values, if they are a few words or the value may be unset."""
    words = [_toml(value) for value in _literals(hint)]
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType) and NoneType in parts:
        words += [_WORDS[part] for part in parts if part in _WORDS]
        words += ["true", "false"] if bool in parts else []
    return " | ".join(words)


def _literals(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for part in get_args(hint):
            yield from _literals(part)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "".join(map(_toml_sign, json.dumps(value, ensure_ascii=False)))
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _toml_sign(sign: str) -> str:
    """A character of a text, escaped if a terminal must not print it."""
    return sign if visible(sign) == sign else f"\\U{ord(sign):08x}"
