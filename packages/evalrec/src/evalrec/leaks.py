"""Leaks between the parts of a split, and targets that no model can learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from evalrec.findings import Finding, by_severity
from evalrec.interactions import Interactions, flatten
from evalrec.splits import Queries, Split

_Rows: TypeAlias = Int[np.ndarray, " _"]


def check_split(split: Split, interactions: Interactions | None = None) -> list[Finding]:
    """Look for leaks between the parts of a split, and for targets that cannot be learned.

    Args:
        split: From `leave_one_out` or a similar function, or made by hand.
        interactions: The table that was split, if available. With it, repeated items are
            distinguished from leaks, and histories from the future are found.

    Returns:
        Errors first; empty if nothing was found.

    Raises:
        ValueError: If the table has other items than the split.
    """
    if interactions is not None and interactions.num_items != split.num_items:
        raise ValueError(
            f"interactions must be of the split's {split.num_items} items, "
            f"got {interactions.num_items}"
        )
    owners, items = flatten(split.train)
    trained = (split.users[owners] if len(owners) else owners) * split.num_items + items
    findings: list[Finding] = []
    for part, queries in (("validation", split.validation), ("test", split.test)):
        findings.extend(_cold(part, queries, trained % split.num_items))
        findings.extend(_in_history(part, queries, interactions))
        if queries.users is not None:
            findings.extend(_in_training(part, queries, trained, interactions))
            findings.extend(_users(part, queries, split))
            if interactions is not None:
                findings.extend(_from_future(part, queries, interactions))
    findings.extend(_shared_targets(split, interactions))
    if split.num_dropped:
        findings.append(
            Finding(
                code="dropped-users",
                severity="info",
                count=split.num_dropped,
                message=f"{split.num_dropped:,} users are too short to split and are in no part.",
                advice="Say so beside the figures.",
            )
        )
    return by_severity(findings)


def _cold(part: str, queries: Queries, trained_items: _Rows) -> Iterator[Finding]:
    cold = ~np.isin(queries.targets, trained_items)
    count = int(cold.sum())
    if count:
        yield Finding(
            code="cold-targets",
            severity="warning",
            count=count,
            message=f"{count:,} of {len(queries):,} {part} targets ({count / len(queries):.1%}) "
            "never occur in training.",
            advice="Keep them in the mean, and say how many there are; dropping them makes figures "
            "too high.",
        )


def _in_history(
    part: str, queries: Queries, interactions: Interactions | None
) -> Iterator[Finding]:
    """Targets that are in their own history."""
    owners, items = flatten(queries.histories)
    times_seen = np.bincount(
        owners[items == queries.targets[owners]] if len(owners) else owners,
        minlength=len(queries),
    )
    repeated = times_seen > 0
    legitimate = np.zeros(len(queries), dtype=bool)
    if interactions is not None and queries.users is not None:
        pairs = queries.users * queries.num_items + queries.targets
        legitimate = repeated & (times_seen < _occurrences(interactions, pairs))
    leaked, count = int((repeated & ~legitimate).sum()), int(legitimate.sum())
    if leaked:
        yield Finding(
            code="target-in-history",
            severity="error",
            count=leaked,
            message=f"{leaked:,} of {len(queries):,} {part} targets are in the history that is "
            "given with them.",
            advice="Cut the history before the target"
            + (
                "."
                if interactions is not None
                else "; if users may have an item again here, "
                "give check_split the interactions too."
            ),
        )
    if count:
        yield Finding(
            code="repeated-targets",
            severity="warning",
            count=count,
            message=f"{count:,} of {len(queries):,} {part} targets are items that the user had "
            "before.",
            advice="With seen items filtered they are misses: report both modes.",
        )


def _in_training(
    part: str, queries: Queries, trained: _Rows, interactions: Interactions | None
) -> Iterator[Finding]:
    """Targets that the same user trains on; repeats in the table are not leaks."""
    assert queries.users is not None
    pairs = queries.users * queries.num_items + queries.targets
    leaked = np.isin(pairs, trained)
    if interactions is not None:
        known, counts = np.unique(trained, return_counts=True)
        places = np.searchsorted(known, pairs[leaked])
        leaked[leaked] = counts[places] >= _occurrences(interactions, pairs[leaked])
    count = int(leaked.sum())
    if count:
        yield Finding(
            code="target-in-training",
            severity="error",
            count=count,
            message=f"{count:,} of {len(queries):,} {part} targets are items that the same user "
            "trains on.",
            advice="Take the targets out of the training part.",
        )


def _users(part: str, queries: Queries, split: Split) -> Iterator[Finding]:
    assert queries.users is not None
    strangers = int((~np.isin(queries.users, split.users)).sum())
    if strangers:
        yield Finding(
            code="users-without-training",
            severity="warning",
            count=strangers,
            message=f"{strangers:,} of {len(queries):,} {part} queries are of users who train on "
            "nothing.",
            advice="Only models that read the history can serve them; count them apart.",
        )
    again = len(queries) - len(np.unique(queries.users))
    if again:
        yield Finding(
            code="several-queries-a-user",
            severity="info",
            count=again,
            message=f"{again:,} {part} queries are of users with another query there.",
            advice="Intervals over queries are too narrow then; average within users first.",
        )


def _from_future(part: str, queries: Queries, interactions: Interactions) -> Iterator[Finding]:
    """Histories with items that the user had after the target, by the times of the table."""
    assert queries.users is not None
    pairs = interactions.users * interactions.num_items + interactions.items
    unique, places, counts = np.unique(pairs, return_index=True, return_counts=True)
    owners, items = flatten(queries.histories)
    if len(owners) == 0:
        return
    times = []
    for wanted in (
        queries.users * queries.num_items + queries.targets,
        queries.users[owners] * queries.num_items + items,
    ):
        nearest = np.minimum(np.searchsorted(unique, wanted), len(unique) - 1)
        known = (unique[nearest] == wanted) & (counts[nearest] == 1)  # repeats have several times
        times.append((known, interactions.timestamps[places[nearest]]))
    (target_known, target_times), (item_known, item_times) = times
    later = item_known & target_known[owners] & (item_times > target_times[owners])
    count = len(np.unique(owners[later]))
    if count:
        yield Finding(
            code="history-from-future",
            severity="error",
            count=count,
            message=f"{count:,} of {len(queries):,} {part} histories hold items that the user had "
            "after the target.",
            advice="Cut histories by time.",
        )


def _shared_targets(split: Split, interactions: Interactions | None) -> Iterator[Finding]:
    validation, test = split.validation, split.test
    if validation.users is None or test.users is None:
        return
    shared = np.intersect1d(
        validation.users * split.num_items + validation.targets,
        test.users * split.num_items + test.targets,
    )
    if interactions is not None:
        shared = shared[_occurrences(interactions, shared) < 2]
    if len(shared):
        yield Finding(
            code="shared-targets",
            severity="error",
            count=len(shared),
            message=f"{len(shared):,} pairs of a user and an item are targets of validation and "
            "of test.",
            advice="Choosing by validation then sees the test; ask each pair once.",
        )


def _occurrences(interactions: Interactions, pairs: _Rows) -> _Rows:
    """How often the table holds each pair, user * num_items + item."""
    held = np.sort(interactions.users * interactions.num_items + interactions.items)
    return np.searchsorted(held, pairs, side="right") - np.searchsorted(held, pairs, side="left")
