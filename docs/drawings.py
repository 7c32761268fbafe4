"""The drawings of the site and of the README, as SVG files that follow the reader's light or dark.

    .venv/bin/python docs/drawings.py

It needs the standard library alone and writes the same bytes each time; a test compares them with
the files that are there. The bars are the figures of the table in README.md.
"""

from __future__ import annotations

import random
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
STYLE = """
text{font:15px system-ui,sans-serif;fill:#1b2030}
.small{font-size:13px;fill:#4a5163}
.strong{font-weight:600}
.code{font-family:ui-monospace,monospace}
.box{fill:#eef1f8;stroke:#8a93a8}
.line{stroke:#59627a;stroke-width:1.5;fill:none}
.faint{stroke:#9aa3b8;stroke-dasharray:4 4}
.kept{stroke:#2f5fd0;stroke-width:3}
.first{fill:#2f5fd0}.second{fill:#b4541a}.third{fill:#2b7a4b}.none{fill:#9aa3b8}
@media (prefers-color-scheme:dark){
text{fill:#e8ebf4}
.small{fill:#b9c0d2}
.box{fill:#262c3d;stroke:#6d7690}
.line{stroke:#a3acc2}
.faint{stroke:#6d7690}
.kept{stroke:#8fb0ff}
.first{fill:#8fb0ff}.second{fill:#f0a36b}.third{fill:#7fd0a0}.none{fill:#6d7690}
}
"""
ROW = re.compile(r"^\| \**([^|*]+?)\** \|(.*)\|$", re.MULTILINE)
BARS = {
    "PRORec, scores joined": "first",
    "PRORec, generation alone": "first",
    "floor: graph + text": "second",
    "stage I (SASRec, ids and text)": "third",
    "SASRec, ids alone": "third",
    "floor: graph": "second",
}
"""Rows of the README's table, with the colour of their kind."""


class Drawing:
    """Elements on a surface of so many pixels, with a title and a description to be read out."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width, self.height = width, height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img" aria-labelledby="t d">',
            f'<title id="t">{escape(title)}</title><desc id="d">{escape(description)}</desc>',
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8" class="line"/></marker></defs>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """Words whose baseline starts, ends or has its middle at a point."""
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
        self.parts.append(f'<text {place} class="{kind}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float) -> None:
        """A box with round corners, given by its left upper one."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" class="box"/>'
        )

    def line(self, *points: tuple[float, float], kind: str = "line", tip: bool = False) -> None:
        """A line through points, with a tip at its end where wished."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        marker = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<polyline points="{path}" class="{kind}"{marker}/>')

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """A filled circle."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled bar, given by its left upper corner."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{kind}"/>'
        )

    def svg(self) -> str:
        """The file's content."""
        return "\n".join([*self.parts, "</svg>", ""])


def overview() -> Drawing:
    """Items and histories to codes to recommendations."""
    drawing = Drawing(
        500,
        330,
        "From items and histories to recommendations",
        "The texts of items become codes in which similar items begin alike. A model reads the "
        "history of a user and writes the codes of the next item; the answer is judged beside "
        "simple floors.",
    )
    drawing.text(10, 22, "items and their texts", "strong")
    drawing.box(10, 32, 170, 96)
    for place, words in enumerate(("A1  Green tea", "A2  Black tea", "A3  Olive soap")):
        drawing.text(24, 58 + 28 * place, words)
    drawing.line((186, 80), (296, 80), tip=True)
    drawing.text(238, 70, "semtok", "strong", "middle")
    drawing.text(306, 22, "codes: semantic IDs", "strong")
    drawing.box(306, 32, 180, 96)
    for place, (item, codes) in enumerate((("A1", "5 0"), ("A2", "5 1"), ("A3", "2 0"))):
        drawing.text(322, 58 + 28 * place, item)
        drawing.text(366, 58 + 28 * place, codes, "code")
    drawing.text(408, 62, "A1 and A2", "small")
    drawing.text(408, 82, "begin alike", "small")
    drawing.text(10, 176, "what a user had", "strong")
    drawing.box(10, 186, 170, 44)
    drawing.text(24, 214, "A3, A7, A1")
    drawing.line((186, 208), (296, 208), tip=True)
    drawing.text(238, 198, "genrec", "strong", "middle")
    drawing.line((396, 134), (396, 178), tip=True)
    drawing.text(306, 176, "the next", "strong")
    drawing.box(306, 186, 180, 44)
    drawing.text(322, 214, "5 1", "code")
    drawing.text(366, 214, "= A2  Black tea")
    drawing.line((396, 236), (396, 270), tip=True)
    drawing.box(10, 276, 476, 44)
    drawing.text(24, 304, "evalrec", "strong")
    drawing.text(92, 304, "was it right, and better than simple counting (the floors)?", "small")
    return drawing


def semantic_id() -> Drawing:
    """Groups in the plane of embeddings, and the codes that name them."""
    drawing = Drawing(
        520,
        250,
        "A semantic ID names the group of an item, then the group within it",
        "Points are items. Three groups of points have the first codes 0, 1 and 2; each group is "
        "parted again, which gives the second code.",
    )
    draw = random.Random(3)
    drawing.text(10, 20, "similar items lie close", "strong")
    drawing.box(10, 30, 240, 210)
    centres = (("first", 70, 85), ("second", 185, 90), ("third", 125, 190))
    for code, (kind, x, y) in enumerate(centres):
        for _ in range(14):
            drawing.dot(x + draw.gauss(0, 15), y + draw.gauss(0, 15), 4, kind)
        drawing.text(x + 34, y + 34, str(code), "strong")
    drawing.text(275, 20, "codes: first the group, then", "strong")
    drawing.text(275, 40, "the group within the group", "strong")
    rows = (
        ("first", "Green tea", "0 3"),
        ("first", "Black tea", "0 1"),
        ("second", "Olive soap", "1 0"),
        ("second", "Rose soap", "1 2"),
        ("third", "Horn comb", "2 0"),
    )
    for place, (kind, words, codes) in enumerate(rows):
        y = 78 + 32 * place
        drawing.dot(284, y - 5, 5, kind)
        drawing.text(300, y, words)
        drawing.text(430, y, codes, "code")
    return drawing


def trie() -> Drawing:
    """The tree of the codes that exist, and what a beam search keeps of it."""
    drawing = Drawing(
        520,
        270,
        "The tree of all codes that exist",
        "Each path from the root to a leaf is an item. A beam search goes down level by level and "
        "keeps the most probable prefixes; it cannot leave the tree, so each answer is an item.",
    )
    nodes = {"0": (110, 110), "1": (260, 110), "2": (410, 110)}
    leaves = {
        "0 1": (60, 190, "Black tea"),
        "0 3": (150, 190, "Green tea"),
        "1 0": (225, 190, "Olive soap"),
        "1 2": (310, 190, "Rose soap"),
        "2 0": (410, 190, "Horn comb"),
    }
    kept = {"0", "1", "0 3", "1 0"}
    for code, (x, y) in nodes.items():
        drawing.line((260, 45), (x, y - 16), kind="line kept" if code in kept else "line faint")
    for codes, (x, y, _) in leaves.items():
        start = nodes[codes[0]]
        kind = "line kept" if codes in kept else "line faint"
        drawing.line((start[0], start[1] + 10), (x, y - 16), kind=kind)
    drawing.text(260, 38, "start", "strong", "middle")
    for code, (x, y) in nodes.items():
        drawing.text(x, y + 4, code, "code strong", "middle")
    for codes, (x, y, words) in leaves.items():
        drawing.text(x, y + 2, codes, "code strong", "middle")
        drawing.text(x, y + 22, words, "small", "middle")
    drawing.line((20, 246), (60, 246), kind="line kept")
    drawing.text(68, 251, "kept by a beam of two", "small")
    drawing.line((250, 246), (290, 246), kind="line faint")
    drawing.text(298, 251, "not followed", "small")
    return drawing


def collision() -> Drawing:
    """Two items with the same codes, and the three things that can be done about it."""
    drawing = Drawing(
        520,
        220,
        "A collision, and three ways to deal with it",
        "Two items have the codes 1 0. Reassign gives the second the nearest free codes, 1 1. "
        "Suffix adds a code to all items, which numbers those that share the others. Allow lets "
        "them share the codes.",
    )
    drawing.text(10, 24, "two items, the same codes", "strong")
    drawing.box(10, 36, 170, 76)
    drawing.text(24, 64, "Olive soap")
    drawing.text(130, 64, "1 0", "code")
    drawing.text(24, 94, "Olive soap 2")
    drawing.text(130, 94, "1 0", "code")
    ways = (
        ("reassign", "1 0", "1 1", "the nearest free code"),
        ("suffix", "1 0 0", "1 0 1", "one more code for all"),
        ("allow", "1 0", "1 0", "they share the codes"),
    )
    for place, (name, one_item, other, words) in enumerate(ways):
        y = 36 + 62 * place
        drawing.line((186, 74), (236, y + 22), tip=True)
        drawing.text(244, y + 18, name, "strong")
        drawing.text(244, y + 38, words, "small")
        drawing.text(430, y + 18, one_item, "code")
        drawing.text(430, y + 38, other, "code")
    return drawing


def readme_figures() -> dict[str, float]:
    """NDCG@10 with seen items filtered, by the row of the README's table of results."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = {}
    for name, cells in ROW.findall(text):
        last = cells.split("|")[-1].strip().strip("*").split(" ")[0]
        if name in BARS and last.startswith("."):
            figures[name] = float(last)
    return figures


def floors() -> Drawing:
    """The README's table as bars: models beside the floors."""
    figures = readme_figures()
    drawing = Drawing(
        520,
        60 + 34 * len(figures),
        "Models beside the floors on Amazon Beauty",
        "NDCG@10 on the test, all items ranked, seen items filtered: "
        + "; ".join(f"{name} {value:.4f}" for name, value in figures.items()),
    )
    drawing.text(10, 22, "NDCG@10, Amazon Beauty, seen items filtered", "strong")
    longest = max(figures.values())
    for place, (name, value) in enumerate(sorted(figures.items(), key=lambda pair: -pair[1])):
        y = 40 + 34 * place
        drawing.text(10, y + 16, re.sub(r" \(.*\)", "", name))
        drawing.bar(225, y, 220 * value / longest, 22, BARS[name])
        drawing.text(452, y + 16, f"{value:.4f}".lstrip("0"), "code")
    bottom = 40 + 34 * len(figures)
    for x, kind, words in ((10, "first", "ours"), (100, "third", "sequence model")):
        drawing.dot(x + 6, bottom + 8, 6, kind)
        drawing.text(x + 18, bottom + 13, words, "small")
    drawing.dot(256, bottom + 8, 6, "second")
    drawing.text(268, bottom + 13, "floor: counting, no training", "small")
    return drawing


def leave_one_out() -> Drawing:
    """A user's items in time, and which part each of them is of."""
    drawing = Drawing(
        520,
        190,
        "Leave-one-out: the last item is the test, the one before it validation",
        "Seven items of a user in the order of time. The first five train, the sixth validates, "
        "the seventh tests. At the test the model reads all six before it.",
    )
    drawing.text(10, 22, "one user, oldest to newest", "strong")
    for place in range(7):
        x = 10 + 72 * place
        kind = "none" if place < 5 else "third" if place == 5 else "first"
        drawing.box(x, 40, 58, 44)
        drawing.dot(x + 29, 62, 11, kind)
    drawing.line((10, 100), (356, 100))
    drawing.text(183, 122, "training", "", "middle")
    drawing.line((370, 100), (428, 100))
    drawing.text(399, 122, "validation", "", "middle")
    drawing.line((442, 100), (500, 100))
    drawing.text(471, 122, "test", "", "middle")
    drawing.line((10, 150), (428, 150), kind="line faint")
    drawing.text(10, 174, "read at the test: all items before the last one", "small")
    return drawing


DRAWINGS = {
    "overview.svg": overview,
    "semantic-id.svg": semantic_id,
    "trie.svg": trie,
    "collision.svg": collision,
    "floors.svg": floors,
    "leave-one-out.svg": leave_one_out,
}


def main() -> None:
    """Writes all drawings."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (IMAGES / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
