"""The report's page: escaped, self-contained, deterministic, and never half written."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from semrec.shared.report.figures import (
    Panel,
    curves,
    histogram,
    read_series,
    scatter_panels,
    tsne_panel,
)
from semrec.shared.report.page import (
    Example,
    Html,
    Section,
    duration,
    examples_table,
    facts,
    results_table,
    share_bars,
    table,
    write_report,
)
from semrec.shared.report.sections import results_section

NASTY = "<script>alert('&')</script> $x^2$"
RESULTS = {
    "PRORec": {"unfiltered": {"Recall@10": 0.09, "NDCG@10": 0.05}, "filtered": {"Recall@10": 0.1}},
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

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
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
        Section(title=NASTY, body=[results_table(RESULTS, model="PRORec")], note=NASTY),
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
    write_report(
        path, title=NASTY, lead=NASTY, summary={NASTY: {NASTY: NASTY}}, sections=sections()
    )
    return path.read_text(encoding="utf-8")


def test_a_page_is_well_formed_escaped_and_needs_nothing_else(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    tags = outline(page).tags
    assert "svg" in tags
    assert not tags & {"script", "link", "iframe"}
    references = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert references
    for reference in (a or b for a, b in references):
        assert reference.startswith(("#", "data:image/png;base64,")), reference
    assert "@import" not in page
    # matplotlib's stand-in colours have all become the page's own.
    assert "#0a0a0" not in page
    assert "#0b0b0" not in page
    assert "var(--series-0)" in page


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "one.html") == write(tmp_path / "two.html")


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    old = write(path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(path, title="new", lead="", summary={}, sections=[])
    assert path.read_text(encoding="utf-8") == old
    monkeypatch.undo()
    write_report(path, title="new", lead="", summary={}, sections=[])
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_results_are_grouped_by_mode_with_the_best_in_bold() -> None:
    fragment = results_table(RESULTS, model="PRORec")
    assert outline(fragment).rows == [
        ["", "unfiltered", "filtered"],
        ["", "Recall@10", "NDCG@10", "Recall@10"],
        ["PRORec", "0.0900", "0.0500", "0.1000"],
        ["popularity", "0.0100", "0.0600", "0.0200"],
        ["published", "0.0800", "–", "–"],  # noqa: RUF001
    ]
    best = re.findall(r'class="number[^"]*best">([^<]*)<', fragment)
    assert best == ["0.0900", "0.1000", "0.0600"]
    assert re.findall(r'<tr class="model"><th>([^<]*)<', fragment) == ["PRORec"]


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
    assert [duration(s) for s in (3.21, 59.96, 247, 4320.4)] == [
        "3.2 s",
        "1 min 0 s",
        "4 min 7 s",
        "1 h 12 min",
    ]


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


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"model must be one of PRORec, .*, got 'TIGER'"):
        results_table(RESULTS, model="TIGER")
    with pytest.raises(ValueError, match="rows must have 2 cells, got 1"):
        table(["a", "b"], [[1]])
    with pytest.raises(ValueError, match="counts must have at least one entry"):
        histogram({}, title="", x_label="")


def test_sections_take_plain_fragments(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    body = [Html("<p>one</p>"), Html("<p>two</p>")]
    write_report(path, title="t", lead="l", summary={}, sections=[Section(title="s", body=body)])
    assert "<h2>s</h2><p>one</p><p>two</p></section>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ks", "shown"),
    [((5,), {"recall@5", "ndcg@5"}), ((5, 15), {"recall@15", "ndcg@15"})],
)
def test_results_are_shown_at_the_cut_offs_that_there_are(
    ks: tuple[int, ...], shown: set[str]
) -> None:
    figures = {f"{name}@{k}": SimpleNamespace(mean=0.5) for name in ("recall", "mrr") for k in ks}
    figures |= {f"ndcg@{k}": SimpleNamespace(mean=0.25) for k in ks}
    report = SimpleNamespace(ks=ks, metrics={"unfiltered": figures})
    section = results_section(
        SimpleNamespace(counts={"users": 3}),  # type: ignore[arg-type]
        {"PRORec": report},  # type: ignore[dict-item]
        "PRORec",
    )
    assert set(re.findall(r"\w+@\d+", section.body[0])) == shown
