"""The page: escaped, self-contained, deterministic, and never half written."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from evalrec.page import (
    Bars,
    Example,
    Html,
    Panel,
    Section,
    bars,
    curves,
    examples_table,
    facts,
    histogram,
    read_series,
    results_table,
    scatter_panels,
    share_bars,
    table,
    tag,
    text,
    tsne_panel,
    write_page,
)
from hypothesis import given, strategies

NASTY = "<script>alert('&')</script> $x^2$ --> ]]> <g id=\"x\">\x07"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
RLO, RLI, PDI = "\u202e", "\u2067", "\u2069"
RESULTS = {
    "ours": {"unfiltered": {"Recall@10": 0.09, "NDCG@10": 0.05}, "filtered": {"Recall@10": 0.1}},
    "popularity": {
        "unfiltered": {"Recall@10": 0.01, "NDCG@10": 0.06},
        "filtered": {"Recall@10": 0.02},
    },
    "published": {"unfiltered": {"Recall@10": 0.08}},
}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps the text of each table row."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def sections() -> list[Section]:
    line = [(0.0, 2.0), (1.0, 1.0), (2.0, 1.5)]
    points = np.random.default_rng(0).normal(size=(40, 60))
    return [
        Section(title=NASTY, body=[results_table(RESULTS, model="ours")], note=NASTY),
        Section(
            title="Training",
            body=[
                curves(
                    [
                        Panel(title=NASTY, lines={NASTY: line}, mark="min"),
                        Panel(title="one epoch", lines={"loss": line[:1], "none": []}, mark="max"),
                    ]
                )
            ],
        ),
        Section(title="Codes", body=[histogram({2: 5, 3: 9}, title=NASTY, x_label=NASTY)]),
        Section(title="Bars", body=[bars([Bars(title=NASTY, values={NASTY: (0.2, 0.1, 0.3)})])]),
        Section(title="Share", body=[share_bars({NASTY: {"text": 0.6, "clicks": 0.4}})]),
        Section(title="t-SNE", body=[scatter_panels([tsne_panel(NASTY, points, max_points=30)])]),
        Section(
            title="Table", body=[table([NASTY, "n"], [[NASTY, 1234]]), facts({NASTY: {"a": 1}})]
        ),
        Section(
            title="Examples",
            body=[
                examples_table(
                    [Example(history=[NASTY], recommended=["a", "b"], target="b", hit=1)]
                )
            ],
        ),
    ]


def write(path: Path) -> str:
    write_page(path, title=NASTY, lead=NASTY, summary={NASTY: {NASTY: NASTY}}, sections=sections())
    return path.read_text(encoding="utf-8")


def test_a_page_is_well_formed_escaped_and_needs_nothing_else(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html")
    tags, attributes = outline(page).tags, outline(page).attributes
    assert "svg" in tags
    assert not tags & {"script", "link", "iframe", "base", "form", "object", "embed"}
    assert not [name for name in attributes if name.startswith("on")]
    references = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert references
    for reference in (a or b for a, b in references):
        assert reference.startswith(("#", "data:image/png;base64,")), reference
    assert "@import" not in page
    assert "@font-face" not in page
    # matplotlib's stand-in colours have all become the page's own.
    assert "#0a0a0" not in page
    assert "#0b0b0" not in page
    assert "var(--series-0)" in page


HOSTILE = "<script>alert(1)</script>"


def test_a_hostile_text_is_escaped_wherever_it_stands(tmp_path: Path, unchecked: None) -> None:
    example = Example(history=[HOSTILE], recommended=[HOSTILE] * 2, target=HOSTILE, hit=1)
    fragments = [
        results_table({HOSTILE: {HOSTILE: {HOSTILE: 0.5}}}, model=HOSTILE),
        table([HOSTILE, HOSTILE], [[HOSTILE, 1]]),
        examples_table([example]),
        share_bars({HOSTILE: {HOSTILE: 0.5, f"{HOSTILE}2": 0.5}}),
        facts({HOSTILE: {HOSTILE: HOSTILE}}),
        tag("p", HOSTILE, text(HOSTILE), css=f'">{HOSTILE}', title=f"'{HOSTILE}"),
        curves([Panel(title=HOSTILE, lines={HOSTILE: [(0.0, 1.0)]}, x_label=HOSTILE)]),
        bars([Bars(title=HOSTILE, values={HOSTILE: (0.2, 0.1, 0.3)})]),
        HOSTILE,  # no fragment, so that it is a text
    ]
    section = Section(title=HOSTILE, body=fragments, note=HOSTILE)
    path = tmp_path / "page.html"
    write_page(
        path,
        title=HOSTILE,
        lead=HOSTILE,
        summary={HOSTILE: {HOSTILE: HOSTILE}},
        sections=[section],
        opening=section,
    )
    page = path.read_text(encoding="utf-8")
    outside = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    # title, heading, lead, summary (3), and twice: results (3), table (3), examples (4), shares
    # (3), facts (3), an element (4), captions (2), itself, heading and note.
    assert outside.count("&lt;script&gt;") == 6 + 2 * (3 + 3 + 4 + 3 + 3 + 4 + 2 + 3)
    assert "script" not in outline(page).tags
    assert "<script" not in page


def test_a_column_of_less_is_better_has_its_smallest_in_bold() -> None:
    values = {"a": 0.5, "b": 0.25, "c": float("nan")}
    fragment = results_table({name: {"m": {"Miscalibration@5": v}} for name, v in values.items()})
    assert re.findall(r'best">([^<]*)<', fragment) == ["0.2500"]


def test_the_policy_of_a_page_is_what_the_page_keeps(tmp_path: Path) -> None:
    """Styles are in the page, pictures are data, and nothing else is loaded or run."""
    page = write(tmp_path / "page.html")
    head = page[: page.index("<style")]
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in head
    assert page.count("Content-Security-Policy") == 1
    outside = re.findall(r"(?:src|href|url)\W{1,3}(?:https?:)?//", page)
    assert outside == []
    for picture in re.findall(r"<image[^>]*>", page):
        assert 'xlink:href="data:image/png;base64,' in picture


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "one.html") == write(tmp_path / "two.html")


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    old = write(path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_page(path, title="new", lead="", summary={}, sections=[])
    assert path.read_text(encoding="utf-8") == old
    monkeypatch.undo()
    write_page(path, title="new", lead="", summary={}, sections=[])
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_results_are_grouped_by_mode_with_the_best_in_bold() -> None:
    fragment = results_table(RESULTS, model="ours")
    assert outline(fragment).rows == [
        ["", "unfiltered", "filtered"],
        ["", "Recall@10", "NDCG@10", "Recall@10"],
        ["ours", "0.0900", "0.0500", "0.1000"],
        ["popularity", "0.0100", "0.0600", "0.0200"],
        ["published", "0.0800", "–", "–"],  # noqa: RUF001
    ]
    best = re.findall(r'class="number[^"]*best">([^<]*)<', fragment)
    assert best == ["0.0900", "0.1000", "0.0600"]
    assert re.findall(r'<tr class="model"><th>([^<]*)<', fragment) == ["ours"]


def test_columns_of_numbers_are_set_to_the_right() -> None:
    rows = [["a", 1, "0.1 ± 0.2", "", "3 of 4"], ["b", 0.5, "12.5%", "+0.001", ""]]
    fragment = table(["name", "count", "figure", "p", "note"], rows)
    assert re.findall(r'<th class="number">([^<]*)<', fragment) == ["count", "figure", "p"]


def test_a_hit_is_marked_and_nothing_else() -> None:
    # Items may share a title.
    example = Example(history=["x", "b"], recommended=["b", "a", "b"], target="b", hit=2)
    items = re.findall(r"<li[^>]*>[^<]*</li>", examples_table([example]))
    assert (
        [item for item in items if 'class="hit"' in item]
        == items[-1:]
        == ['<li class="hit">b</li>']
    )
    missed = Example(history=["x"], recommended=["b"], target="b", hit=None)
    assert 'class="hit"' not in examples_table([missed])


def test_numbers_are_set_for_reading() -> None:
    rows = outline(table(["item", "count", "share"], [["a", 12101, 0.123456], ["b", 5, 2.0]])).rows
    assert rows[1:] == [["a", "12,101", "0.1235"], ["b", "5", "2"]]


def test_a_share_bar_is_as_wide_as_its_share() -> None:
    fragment = share_bars({"concatenated": {"semantic": 0.9733, "collaborative": 0.0267}})
    assert re.findall(r"width:([\d.]+)%", fragment) == ["97.33", "2.67"]
    assert "97.3% / 2.7%" in fragment


def test_series_are_read_from_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [
        {"epoch": 1, "losses": {"next": 2.5}, "metrics": {"ndcg@10": 0.1}},
        {"epoch": 2, "losses": {"next": 2}, "metrics": {}},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    series = read_series(path, {"total": "losses.next", "NDCG": "metrics.ndcg@10"})
    assert series == {"total": [(1, 2.5), (2, 2)], "NDCG": [(1, 0.1)]}
    path.write_text('{"epoch": 0}\n{"epo\n')
    with pytest.raises(ValueError, match=r"log\.jsonl:2: log must be JSON lines"):
        read_series(path, {"total": "losses.next"})


def test_tsne_panels_of_one_seed_show_the_same_items() -> None:
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 8) * 30, 20, axis=0)
    x = centres + generator.normal(size=centres.shape)
    panel = tsne_panel("x", x, max_points=45, clusters=3, seed=1)
    assert panel.points.shape == (45, 2)
    again = tsne_panel("y", x * 2, max_points=45, clusters=3, seed=1)
    assert np.array_equal(panel.clusters, again.clusters)
    rows = np.sort(np.random.default_rng(1).choice(60, size=45, replace=False))
    for group in range(3):
        assert len(set(panel.clusters[rows // 20 == group])) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\x00b\x1bc\x7fd\x85e\x9f", "a\ufffdb\ufffdc\ufffdd\ufffde\ufffd"),
        ("tab\tline\n", "tab\tline\n"),
        ("half \ud83d", "half \ufffd"),
        ("one\u2029two", "one\ufffdtwo"),
        ("caf\u00e9 \u65e5\u672c \U0001f600", "caf\u00e9 \u65e5\u672c \U0001f600"),
        ("<a href='x'>&", "&lt;a href=&#x27;x&#x27;&gt;&amp;"),
    ],
)
def test_control_characters_are_shown_and_markup_is_escaped(value: str, shown: str) -> None:
    assert text(value) == shown
    assert tag("i", title=value) == f'<i title="{shown}"></i>'


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
        ("\u0661\u0662", "\u0661\u0662"),
        (f"a{RLO}b", f"a{RLO}b"),
        (f"a{RLI}b{PDI}c", f"a{RLI}b{PDI}c"),
        # An isolate left open would take the end of <bdi> for its own; a stray end would be taken
        # for that of <bdi>.
        (f"a{RLI}b{RLI}c", f"a{RLI}b{RLI}c{PDI}{PDI}"),
        (f"a{PDI}{RLO}b", f"a\ufffd{RLO}b"),
        (f"{RLO}<b>", f"{RLO}&lt;b&gt;"),
    ],
)
def test_a_direction_ends_with_its_text(value: str, inside: str) -> None:
    assert text(value) == f"<bdi>{inside}</bdi>"


@given(strategies.text(f"a<&\x00\u05e9{RLO}{RLI}\u2068{PDI}\u202c"))
def test_any_text_is_whole_in_itself(value: str) -> None:
    shown = text(value)
    assert shown.startswith("<bdi>") == bool(set(value) - set("a<&\x00"))
    inside = html.unescape(shown.removeprefix("<bdi>").removesuffix("</bdi>"))
    depth = 0
    for sign in inside:
        depth += (sign in f"{RLI}\u2068") - (sign == PDI)
        assert depth >= 0
    assert depth == 0
    assert "\x00" not in inside
    for sign, kept in zip(value, inside, strict=False):
        assert kept == sign or (kept == "\ufffd" and sign in f"\x00{PDI}")
    assert set(inside[len(value) :]) <= {PDI}


def test_a_direction_turns_no_list_and_no_title_round(tmp_path: Path) -> None:
    example = Example(history=[f"{RLO}x"], recommended=["a", f"{RLO}b"], target=f"{RLO}b", hit=1)
    fragment = examples_table([example])
    assert f'<li class="hit"><bdi>{RLO}b</bdi></li>' in fragment
    assert f"came next: <bdi>{RLO}b</bdi></p>" in fragment
    path = tmp_path / "page.html"
    write_page(path, title=f"{RLO}t", lead="l", summary={}, sections=[])
    page = path.read_text(encoding="utf-8")
    assert f"<title>{RLO}t</title>" in page  # where no element may be
    assert f"<h1><bdi>{RLO}t</bdi></h1>" in page


def test_labels_of_charts_are_visible_and_in_any_script() -> None:
    label = "\u65e5\u672c \u05e9\x07"
    chart = curves([Panel(title="x", lines={label: [(0.0, 1.0)]}, x_label=label)])
    chart += bars([Bars(title="x", values={label: (0.5, 0.4, 0.6)})])
    chart += histogram({1: 2}, title="x", x_label=label)
    assert chart.count("\u65e5\u672c \u05e9\ufffd") == 4
    assert "\x07" not in chart


def test_bars_reach_as_far_as_their_intervals_and_stand_out_as_told() -> None:
    values = {"a": (0.5, 0.4, 0.6), "b": (1.0, 1.0 - 1e-16, 1.0 - 1e-16), "c": (-0.5, -0.6, -0.4)}
    colours = [
        re.findall(r"fill: var\(--(series-\d)\)", bars([Bars(title="", values=values, **options)]))
        for options in ({}, {"highlighted": 1}, {"highlighted": None})
    ]
    assert colours == [
        ["series-0", "series-1", "series-1"],
        ["series-1", "series-0", "series-1"],
        ["series-0", "series-0", "series-0"],
    ]
    from_zero = bars([Bars(title="", values={"a": (0.5, 0.49, 0.51), "b": (0.52, 0.51, 0.53)})])
    assert "0.0" in ticks(from_zero)  # a bar is as long as what it says
    path = "/".join(["folder"] * 20)
    assert "\u2026" in bars([Bars(title="", values={path: (0.5, 0.4, 0.6)})])


def ticks(chart: str) -> set[str]:
    """Every text of a chart."""
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", chart))


def test_epochs_are_whole_numbers_and_other_axes_are_not() -> None:
    short = curves([Panel(title="", lines={"loss": [(1, 0.5), (2, 0.25), (3, 0.125)]})])
    assert {"1", "2", "3"} <= ticks(short)
    assert not {"1.5", "1.25", "1.0", "2.0"} & ticks(short)
    shares = Panel(title="", lines={"a": [(0.1, 1.0), (0.5, 2.0)]}, x_label="share")
    assert {"0.10", "0.20"} <= ticks(curves([shares]))


def test_best_values_stand_in_the_legend_where_none_overlaps() -> None:
    lines = {"all items": [(1, 0.1), (2, 0.31)], "seen filtered": [(1, 0.2), (2, 0.312)]}
    plain, marked = (curves([Panel(title="", lines=lines, mark=mark)]) for mark in (None, "max"))
    assert {"all items, best 0.31 at 2", "seen filtered, best 0.312 at 2"} <= ticks(marked)
    assert not {"0.31", "0.312"} & ticks(marked)
    assert {"all items", "seen filtered"} <= ticks(plain)
    least = curves([Panel(title="", lines={"loss": [(1, 0.5), (2, 0.7)]}, mark="min")])
    assert "loss, best 0.5 at 1" in ticks(least)


def test_all_charts_are_of_one_scale() -> None:
    charts = [
        curves([Panel(title="", lines={"a": [(0, 1)]})]),
        bars([Bars(title="", values={"a long name that needs two lines": (0.5, 0.4, 0.6)})]),
        histogram({1: 2, 3: 4}, title="", x_label="items"),
    ]
    (width,) = {re.findall(r'viewBox="0 0 ([\d.]+) ', chart)[0] for chart in charts}
    assert float(width) < 72 * 4.3
    assert {"a long name that", "needs two lines"} <= ticks(charts[1])


def test_a_page_is_no_wider_than_a_telephone() -> None:
    style = files("evalrec.page").joinpath("page.css").read_text(encoding="utf-8")
    columns = re.findall(r"minmax\(([^)]*\)?), 1fr\)", style)
    assert columns  # a column never needs more than there is
    assert all(width == "0" or re.fullmatch(r"min\(\d+rem, 100%\)", width) for width in columns)
    assert re.search(r"figure \{[^}]*max-width", style)  # alone in its row, it is not blown up
    assert ".scroll { overflow-x: auto; }" in style


def test_an_opening_stands_before_the_summary(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    card = Section(title="Ours wins", body=[tag("p", text("by far"))], note="on the test")
    write_page(path, title="t", lead="l", summary={"Data": {"a": 1}}, sections=[], opening=card)
    page = path.read_text(encoding="utf-8")
    assert page.index("<h2>Ours wins</h2><p>by far</p>") < page.index("<h3>Data</h3>")
    assert page.count("<section>") == 2


def test_without_matplotlib_a_chart_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"^charts need matplotlib: .*'evalrec\[page\]'$"):
        histogram({1: 1}, title="", x_label="")
    assert table(["a"], [["b"]]).count("<td>") == 1


def test_pages_load_nothing_heavy_before_a_chart() -> None:
    code = (
        "import sys; from evalrec import page; page.table(['a'], [[1]])\n"
        "heavy = {'matplotlib', 'sklearn', 'scipy', 'torch', 'polars', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_style_has_a_colour_for_every_part() -> None:
    style = files("evalrec.page").joinpath("page.css").read_text(encoding="utf-8")
    shares = share_bars({"row": {f"part {i}": 0.1 for i in range(9)}})
    swatches = re.findall(r'span class="(swatch-\d+)"', shares)
    assert swatches == [f"swatch-{i % 8}" for i in range(9)]
    for swatch in swatches:
        assert f".{swatch} {{ background: var(--{swatch.replace('swatch', 'series')}); }}" in style


def test_a_value_that_is_no_number_is_a_dash_and_never_the_best() -> None:
    results = {"a": {"filtered": {"x": float("nan")}}, "b": {"filtered": {"x": 0.5}}}
    for rows in (results, dict(reversed(results.items()))):
        fragment = results_table(rows)
        assert re.findall(r'best">([^<]*)<', fragment) == ["0.5000"]
        assert "&ndash;" in fragment
        assert "<tr class" not in fragment


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model must be one of ours, .*, got 'TIGER'"):
        results_table(RESULTS, model="TIGER")
    with pytest.raises(ValueError, match="rows must have 2 cells, got 1"):
        table(["a", "b"], [[1]])
    with pytest.raises(ValueError, match="counts must have at least one entry"):
        histogram({}, title="", x_label="")
    with pytest.raises(ValueError, match="values must have at least one row, got none"):
        Bars(title="", values={})
    with pytest.raises(ValueError, match=r"embeddings must be at least 2 x 2, got \(1, 4\)"):
        tsne_panel("", np.ones((1, 4)))
    log = tmp_path / "log.jsonl"
    for line in ("[1]", '{"losses": {}}'):
        log.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"log\.jsonl:1: log must be objects with an epoch"):
            read_series(log, {"x": "losses.x"})


def test_sections_take_plain_fragments(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    body = [Html("<p>one</p>"), Html("<p>two</p>")]
    write_page(path, title="t", lead="l", summary={}, sections=[Section(title="s", body=body)])
    assert "<h2>s</h2><p>one</p><p>two</p></section>" in path.read_text(encoding="utf-8")
