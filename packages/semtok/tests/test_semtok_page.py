from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import semtok.page
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok.collisions import Collisions
from semtok.health import CodeHealth, measure_health
from semtok.page import write_page
from semtok.page.tree import make_tree, tree_note
from semtok.semantic_ids import SemanticIds

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Outline(HTMLParser):
    """Checks that elements are closed in order, and keeps text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def make_ids(num_items: int, sizes: tuple[int, ...] = (4, 4, 4), seed: int = 0) -> SemanticIds:
    generator = np.random.default_rng(seed)
    return SemanticIds(
        codes=np.column_stack([generator.integers(0, size, num_items) for size in sizes]),
        codebook_sizes=sizes,
        item_ids=[f"i{row}" for row in range(num_items)],
        allow_collisions=True,
    )


def full_health(ids: SemanticIds) -> CodeHealth:
    return measure_health(
        ids,
        collisions=Collisions(rate=0.25, largest_bucket=9),
        distortion=[0.5, 0.25],
        neighbour_overlap=0.375,
        sequences=[list(range(len(ids)))],
    )


def parsed(path: Path) -> Outline:
    outline = Outline()
    outline.feed(path.read_text(encoding="utf-8"))
    outline.close()
    assert outline.open == []
    return outline


def tree_data(path: Path) -> dict[str, list[object]]:
    script = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S
    )
    assert script
    data = json.loads(script[1])
    assert isinstance(data, dict)
    return data


NASTY = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    'Tom & "Jerry" <b>',
    "\u2028 line \x00 end",
    "lone \ud800 surrogate",
    "x" * 500,
    "日本語 🎁",
    None,
]


def test_the_page_holds_together_and_loads_nothing(tmp_path: Path) -> None:
    ids = make_ids(40)
    titles = [NASTY[row % len(NASTY)] for row in range(40)]
    path = tmp_path / "page.html"
    heading = "</title><script>alert(2)</script>"
    details = {"quantizer": "<i>rq</i>"}
    write_page(
        path,
        health=full_health(ids),
        semantic_ids=ids,
        titles=titles,
        heading=heading,
        details=details,
    )
    outline = parsed(path)
    assert outline.tags.count("script") == 2  # the data and the code
    assert not {"link", "img", "iframe"} & set(outline.tags)
    for name, value in outline.attributes:
        assert name not in ("src", "href", "onclick", "onload")
        assert "http" not in (value or "")
    script = re.findall(r"<script>(.*?)</script>", path.read_text(encoding="utf-8"), re.DOTALL)[-1]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for name, value in outline.attributes if "default-src" in (value or ""))
    assert policy == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{allowed}'"
    )
    assert {heading, "<i>rq</i>"} <= set(outline.texts["bdi"])
    assert outline.texts["title"][0] == heading
    assert [child.name for child in tmp_path.iterdir()] == ["page.html"]

    data = tree_data(path)
    assert len(data["ids"]) == 40
    by_id = dict(zip(data["ids"], data["titles"], strict=True))
    assert by_id["i0"] == NASTY[0]
    assert by_id["i4"] == "lone ? surrogate"
    assert str(by_id["i5"]).endswith("x\N{HORIZONTAL ELLIPSIS}")
    assert len(str(by_id["i5"])) == 140
    assert by_id["i6"] == NASTY[6]
    assert by_id["i7"] == ""


def test_the_page_says_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    ids = make_ids(30)
    write_page(tmp_path / "full.html", health=full_health(ids), semantic_ids=ids)
    full = (tmp_path / "full.html").read_text()
    for part in ("37.5%", "25.00%", "largest bucket 9", "Distortion after", "29 pairs of", "0.25"):
        assert part in full
    write_page(tmp_path / "plain.html", health=measure_health(ids), semantic_ids=ids)
    plain = (tmp_path / "plain.html").read_text()
    for part in ("neighbour overlap", "Distortion after", "pairs of", "by chance"):
        assert part not in plain
    assert tree_data(tmp_path / "plain.html")["titles"] is None
    again = tmp_path / "again.html"
    write_page(again, health=full_health(ids), semantic_ids=ids)
    assert again.read_bytes() == (tmp_path / "full.html").read_bytes()


def test_the_page_leads_with_its_verdict(tmp_path: Path) -> None:
    good = SemanticIds.fit(np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    for name, ids, health, words in (
        ("good", good, good.health, '<p class="verdict good"><b>Good.</b> No two items share'),
        ("bad", make_ids(80), full_health(make_ids(80)), '<p class="verdict bad"><b>Worth a look.'),
    ):
        write_page(tmp_path / f"{name}.html", health=health, semantic_ids=ids)
        page = (tmp_path / f"{name}.html").read_text()
        assert 0 < page.index(words) < page.index('class="tiles"') < page.index("<svg")
        assert page.count('class="verdict') == 1


def grids(page: str, caption: str) -> list[list[tuple[str, str]]]:
    """The labels of each chart's axis, with the heights that they stand at."""
    charts = re.findall(rf"<figcaption>{caption}.*?</figure>", page, re.S)
    return [
        re.findall(r'<text x="36" y="([\d.]+)"[^>]*>([\d,.]+)</text>', chart) for chart in charts
    ]


def test_bars_of_all_levels_have_one_scale(tmp_path: Path) -> None:
    codes = np.column_stack([np.arange(60) % 2, np.arange(60) % 20, np.arange(60)])
    ids = SemanticIds(
        codes=codes, codebook_sizes=(2, 20, 60), item_ids=[f"i{row}" for row in range(60)]
    )
    write_page(tmp_path / "page.html", health=measure_health(ids), semantic_ids=ids)
    page = (tmp_path / "page.html").read_text()
    first, second, third = grids(page, "Level ")
    assert first == second == third != []
    # A bucket of all items of a level is as high wherever it stands: buckets of 30, 3 and 1 items.
    full = re.findall(r'<rect [^>]*height="(\d[\d.]*)"[^>]*><title>[^:]*: 100.0%', page)
    assert len(full) == 3
    assert len(set(full)) == 1
    labels = re.findall(r"<title>([^:<]*): [^<]*</title>", page)
    assert labels[: len(labels) // 3] == labels[len(labels) // 3 : 2 * len(labels) // 3]


def test_clusters_are_named_by_words_that_may_be_anything(tmp_path: Path) -> None:
    codes = np.column_stack([np.arange(12) % 3, np.arange(12)])
    ids = SemanticIds(
        codes=codes, codebook_sizes=(3, 12), item_ids=[f"i{row}" for row in range(12)]
    )
    names = ("red </script> soap", "blue <b>oil</b>", "lone\ud800 日本語")
    titles = [names[row % 3] for row in range(12)]
    titles[0] = None  # type: ignore[call-overload]
    path = tmp_path / "page.html"
    write_page(path, health=measure_health(ids), semantic_ids=ids, titles=titles)
    assert tree_data(path)["words"][0] == [
        "red · script · soap",
        "blue · oil",
        "lone · 日本 · 本語",
    ]
    assert parsed(path).tags.count("script") == 2
    write_page(path, health=measure_health(ids), semantic_ids=ids)
    assert tree_data(path)["words"] is None


def test_nothing_on_the_page_is_wider_than_a_phone() -> None:
    style = (Path(semtok.page.__file__).parent / "page.css").read_text()
    widths = re.findall(r"(?<!max-)(?:min-width|minmax|width):?\(?\s*([\d.]+)rem", style)
    assert all(16 * float(width) < 375 - 2 * 30 for width in widths)
    columns = re.findall(r"minmax\(([^,]+),", style)
    assert all(column.startswith(("min(", "0")) for column in columns), columns


@settings(max_examples=60, deadline=None)
@given(
    num_items=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    max_items=st.integers(1, 45),
    seed=st.integers(0, 5),
)
def test_the_tree_counts_all_and_lists_evenly(
    num_items: int, sizes: tuple[int, ...], max_items: int, seed: int
) -> None:
    ids = make_ids(num_items, sizes, seed)
    tree = make_tree(ids, max_items=max_items)
    shown = [tuple(path) for path in ids.codes[tree.rows].tolist()]
    assert shown == sorted(shown)
    assert len(set(tree.rows.tolist())) == len(shown) <= max_items
    for level, counts in enumerate(tree.counts, start=1):
        prefixes = sorted({path[:level] for path in shown})
        groups = ids.groups(level)
        assert counts.tolist() == [len(groups[prefix]) for prefix in prefixes]
    if num_items <= max_items:
        assert len(shown) == num_items
        assert tree_note(tree, num_items) == ""
    else:
        kept = tree.cut_level - 1
        assert tree.cut_size >= 1
        for prefix, rows in ids.groups(kept).items():
            listed = sum(path[:kept] == prefix for path in shown)
            assert listed == min(len(rows), tree.cut_size)
        assert f"lists {len(shown):,}" in tree_note(tree, num_items)


def test_a_cut_tree_says_so(tmp_path: Path) -> None:
    ids = make_ids(600)
    path = tmp_path / "page.html"
    write_page(path, health=measure_health(ids), semantic_ids=ids, max_items=40)
    assert (
        "Of 600 items the tree lists 32: the first 2 items of every prefix of 2 codes"
        in path.read_text()
    )


@pytest.mark.parametrize("num_items", [1, 2])
@pytest.mark.parametrize("sizes", [(1,), (3000, 2), (2,) * 20])
def test_small_and_odd_tables(tmp_path: Path, num_items: int, sizes: tuple[int, ...]) -> None:
    ids = make_ids(num_items, sizes)
    health = measure_health(ids, distortion=[0.0])
    write_page(tmp_path / "page.html", health=health, semantic_ids=ids, titles=[None] * num_items)
    assert parsed(tmp_path / "page.html").tags.count("svg") > len(sizes)


def test_refusals_leave_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, path = make_ids(5), tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"titles must be as many as items \(5\), got 1"):
        write_page(path, health=measure_health(ids), semantic_ids=ids, titles=["a"])
    with pytest.raises(ValueError, match="health must be that of the 5 items in 3 levels, got one"):
        write_page(path, health=measure_health(make_ids(6)), semantic_ids=ids)
    with pytest.raises(ValueError, match="max_items must be at least 1, got 0"):
        write_page(path, health=measure_health(ids), semantic_ids=ids, max_items=0)

    def fails(self: Path, *_: object, **__: object) -> int:
        self.touch()
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fails)
        with pytest.raises(OSError, match="disk full"):
            write_page(path, health=measure_health(ids), semantic_ids=ids)
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["page.html"]


DRIVE = """
<script>
const say = (text) => { const p = document.createElement("output"); p.textContent = text;
  document.body.append(p); };
window.addEventListener("error", (event) => say("error: " + event.message));
const search = document.getElementById("search");
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
const tree = document.getElementById("tree");
say("top: " + [...tree.querySelectorAll(".size b")].map((b) => b.textContent).join(" "));
type("needle");
setTimeout(() => {
  say("found: " + document.getElementById("found").textContent);
  document.querySelector("#results .item").click();
  const here = document.querySelector(".here");
  say("here: " + here.textContent + " in " + tree.querySelectorAll("details[open]").length);
  type("PREFIX");
  setTimeout(() => say("prefix: " + document.getElementById("found").textContent), 400);
}, 400);
</script></body>
"""


def test_the_tree_works_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium or google-chrome")
    ids = make_ids(2000, (3, 700, 4))
    row = int(np.argmax(ids.codes[:, 1]))  # its siblings come in several batches
    titles = ["</script>" if other != row else "The <needle>" for other in range(2000)]
    path = tmp_path / "page.html"
    write_page(path, health=measure_health(ids), semantic_ids=ids, titles=titles)
    first = int(ids.codes[row, 0])
    script = DRIVE.replace("PREFIX", f"{first} {ids.codes[row, 1]}")
    text = path.read_text().replace("</body>", script)
    # The page's policy runs the page's scripts alone; the driver is let in by its digest.
    inner = script[script.index("<script>") + len("<script>") : script.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
    assert "script-src 'sha256-" in text
    path.write_text(text.replace("script-src '", f"script-src 'sha256-{digest}' '", 1))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000")
    done = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = re.findall(r"<output>(.*?)</output>", done.stdout)
    groups = ids.groups(1)
    below = len(ids.groups(2)[tuple(ids.codes[row, :2].tolist())])
    assert said[0] == "top: " + " ".join(f"{len(rows):,}" for rows in groups.values())
    assert said[1] == "found: 1 found"
    codes = "".join(map(str, ids.codes[row].tolist()))
    assert said[2].startswith(f"here: {codes}The &lt;needle&gt;i{row} in ")
    assert said[3] == f"prefix: {below} found"
