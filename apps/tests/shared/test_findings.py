"""What the reports of all apps show."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from semrec.shared.findings import results_section
from semrec.shared.screen import duration


def test_a_duration_is_said_in_the_units_that_suit_it() -> None:
    assert duration(3.24) == "3.2 s"
    assert duration(59.96) == "1 min 0 s"
    assert duration(247) == "4 min 7 s"
    assert duration(4320) == "1 h 12 min"


@pytest.mark.parametrize(
    ("ks", "shown"),
    [((5,), {"recall@5", "ndcg@5"}), ((5, 15), {"recall@15", "ndcg@15"})],
)
def test_results_are_shown_at_the_cut_offs_that_there_are(
    ks: tuple[int, ...], shown: set[str]
) -> None:
    figures = {f"{name}@{k}": SimpleNamespace(mean=0.5) for name in ("recall", "mrr") for k in ks}
    figures |= {f"ndcg@{k}": SimpleNamespace(mean=0.25) for k in ks}
    report = SimpleNamespace(ks=ks, metrics={"unfiltered": figures})
    section = results_section(
        3,
        {"PRORec": report},  # type: ignore[dict-item]
        "PRORec",
    )
    assert set(re.findall(r"\w+@\d+", section.body[0])) == shown
