"""How functions report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the work done and the total work; the total is 0 where it is not known yet."""

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, the work done and the total work."""


def report(progress: Progress | None, done: int, total: int) -> None:
    """Calls `progress`, if there is one."""
    if progress is not None:
        progress(done, total)
