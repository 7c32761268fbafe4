"""A report as a data frame: its means, or the values of its users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evalrec.frames import make_frame

if TYPE_CHECKING:
    from evalrec.report import Estimate, Report


def means_frame(report: Report, user_groups: Sequence[str] | None, backend: str) -> Any:
    """A row per mode and metric; with groups of users, for each group.

    Raises:
        ImportError: If the library of the frame is not installed.
        ValueError: If narwhals makes no tables of that name, or the groups are not one per query.
    """
    by_users: list[tuple[str | None, dict[str, dict[str, Estimate]]]] = [(None, report.metrics)]
    if user_groups is not None:
        by_users = [*report.by_user_group(user_groups).items()]
    rows = [
        {
            "name": report.name,
            **({} if users is None else {"users": users}),
            "mode": mode,
            "metric": metric,
            **estimate._asdict(),
        }
        for users, by_mode in by_users
        for mode, estimates in by_mode.items()
        for metric, estimate in estimates.items()
    ]
    return make_frame({name: [row[name] for row in rows] for name in rows[0]}, backend)


def users_frame(report: Report, backend: str) -> Any:
    """A row per query and mode, one mode after the other.

    Raises:
        ImportError: If the library of the frame is not installed.
        ValueError: If narwhals makes no tables of that name.
    """
    num_users, modes = report.counts["users"], tuple(report.ranks)
    columns = {
        "name": [report.name] * (num_users * len(modes)),
        "query": np.tile(np.arange(num_users), len(modes)),
        "mode": [mode for mode in modes for _ in range(num_users)],
        "group": [report.group_names[group] for group in report.groups] * len(modes),
        "rank": np.concatenate([report.ranks[mode] for mode in modes]),
        **{
            metric: np.concatenate([report.per_user(metric, mode) for mode in modes])
            for metric in report.metric_names
        },
    }
    return make_frame(columns, backend)
