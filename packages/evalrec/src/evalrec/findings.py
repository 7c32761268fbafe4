"""What a check found: how bad it is, how often, one sentence, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that would mislead.

    Attributes:
        code: What it is, in a word for programs.
        severity: "error": figures on this data mean little; "warning": they need a word beside
            them; "info": good to know.
        count: How often.
        message: One sentence.
        advice: What to do.
    """

    code: str
    severity: Severity
    count: int
    message: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then what is good to know."""
    rank = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: rank.index(finding.severity))
