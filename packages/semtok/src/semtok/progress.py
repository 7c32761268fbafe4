"""How work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much: 0 where that is not known yet."""

StageProgress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and of how much."""


def report(progress: Progress | None, done: int, total: int) -> None:
    """Calls `progress`, if there is one."""
    if progress is not None:
        progress(done, total)
