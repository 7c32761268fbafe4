"""What `pip install` of each library brings does not grow: what is new is an extra.

A library may declare what it already had through another of its dependencies, as narwhals, which
scikit-learn brings.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# What each library is made of. A name that is to be added here makes everybody's install larger.
BASE = {
    "semtok": {
        "faiss-cpu", "jaxtyping", "numpy", "polars", "rich", "safetensors", "scikit-learn", "scipy",
        "threadpoolctl", "typer",
    },
    "fusion": {"jaxtyping", "numpy", "torch"},
    "genrec": {
        "einops", "jaxtyping", "lightning-fabric", "numpy", "rich", "safetensors", "torch",
    },
    "evalrec": {
        "jaxtyping", "numpy", "polars", "rich", "scikit-learn", "scipy", "torch", "typer",
    },
}  # fmt: skip


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements without an extra name, on this machine."""
    parsed = map(Requirement, requirements)
    return {
        canonicalize_name(requirement.name)
        for requirement in parsed
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def brought(wanted: set[str]) -> set[str]:
    """All distributions that come with some, themselves included."""
    known: set[str] = set()
    waiting = set(wanted)
    while waiting:
        name = waiting.pop()
        known.add(name)
        waiting |= names(metadata.requires(name) or []) - known
    return known


@pytest.mark.parametrize("library", BASE)
def test_an_install_brings_what_it_brought(library: str) -> None:
    text = (ROOT / "packages" / library / "pyproject.toml").read_text(encoding="utf-8")
    declared = names(tomllib.loads(text)["project"]["dependencies"])
    assert BASE[library] <= declared, "what is gone is to be taken off the list"
    assert declared <= brought(BASE[library]), "what is new is to be an extra"


def test_what_an_install_brings_is_seen() -> None:
    assert names(['x>=1; extra == "a"', "Y_z[b]>=2", 'w; python_version < "3"']) == {"y-z"}
    assert "narwhals" in brought({"scikit-learn"})
    assert "transformers" not in brought(BASE["semtok"])
