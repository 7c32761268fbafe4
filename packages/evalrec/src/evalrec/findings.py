"""The finding of a check: its severity, a count, one sentence, and advice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that would mislead a reader of the figures.

    Attributes:
        code: A short name for programs.
        severity: "error": figures on this data mean little; "warning": they need an explanation;
            "info": good to know.
        count: How often it occurs.
        message: One sentence.
        advice: What to do.
    """

    code: str
    severity: Severity
    count: int
    message: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """The finding as a dict for JSON."""
        return asdict(self)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then infos."""
    rank = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: rank.index(finding.severity))
