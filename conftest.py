"""Shapes and types in the libraries' signatures are checked while the tests run."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest

# Not by jaxtyping's own pytest option, which cannot read a checker's name with parentheses.
jaxtyping.install_import_hook(
    ["semtok", "fusion", "genrec", "evalrec"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switches the checks off, so that a refusal is met as a user meets it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
