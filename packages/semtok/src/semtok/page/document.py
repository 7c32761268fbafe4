"""The parts of every page: a document that loads nothing, and cards in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from semtok.page.markup import Html, tag, text
from semtok.verdict import Verdict

_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "


def document(heading: str, body: Sequence[Html]) -> str:
    """A whole page, whose policy forbids to load anything or to run other scripts than its own."""
    folder = Path(__file__).parent
    style = Html((folder / "page.css").read_text(encoding="utf-8"))
    script = Html((folder / "page.js").read_text(encoding="utf-8"))
    # No script but this one runs, whatever the data are.
    policy = f"{_POLICY}script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"{tag('title', text(heading))}\n{tag('style', style)}\n</head>\n"
        f"<body>{tag('main', *body)}\n{tag('script', script)}\n</body>\n</html>\n"
    )


def card(title: str, *body: Html, note: str = "") -> Html:
    """A part of the page with a heading, and a remark at its end."""
    closing = [tag("p", text(note), css="note")] if note else []
    return tag("section", tag("h2", text(title)), *body, *closing)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A table that scrolls where the page is narrower."""
    lines = [tag("tr", *(tag("td", text(cell)) for cell in cells)) for cells in rows]
    titles = tag("tr", *(tag("th", tag("bdi", text(name))) for name in head))
    return tag("div", tag("table", tag("thead", titles), tag("tbody", *lines)), css="scroll")


def verdict_line(verdict: Verdict) -> Html:
    """The first line of the page: good or not, and the numbers that show it."""
    word, css = ("Good.", "good") if verdict.is_good else ("Worth a look.", "bad")
    return tag("p", tag("b", text(word)), Html(" "), text(verdict.sentence), css=f"verdict {css}")
