"""The page's charts: small inline SVG in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from semtok.page.markup import Html, tag, text

_WIDTH, _HEIGHT = 320, 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 8, 16, 30
_POINTS = 512


def frequencies(counts: Sequence[Int64[np.ndarray, " _"]]) -> list[Html]:
    """How many items each code has, most used first, beside even use: a chart per level, one scale.

    Args:
        counts: For each level, items per code, unused codes included.
    """
    tops = [int(level.max(initial=0)) for level in counts]
    even = [level.sum() / len(level) for level in counts]
    # A code that most items have, such as padding, would press all others onto the axis.
    is_log = any(top > 20 * max(share, 1) for top, share in zip(tops, even, strict=True))
    scale = _Scale(float(max(tops)), log=is_log)
    return [_frequencies(number, level, scale) for number, level in enumerate(counts)]


def _frequencies(level: int, counts: Int64[np.ndarray, " codes"], scale: _Scale) -> Html:
    ordered = np.sort(counts)[::-1]
    even = counts.sum() / len(counts)
    places = np.unique(np.linspace(0, len(ordered) - 1, min(_POINTS, len(ordered))).round())
    step = (_WIDTH - _LEFT - _RIGHT) / len(places)
    base = scale(0)
    path = [f"M{_LEFT},{base:.1f}"]
    for number, place in enumerate(places):
        y = scale(float(ordered[int(place)]))
        path.append(f"V{y:.1f}H{_LEFT + (number + 1) * step:.1f}")
    path.append(f"V{base:.1f}Z")
    line = scale(even)
    parts = [
        *scale.grid(),
        tag("path", d="".join(path), css=f"area level-{level % 6}"),
        tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{line:.1f}", y2=f"{line:.1f}", css="even"),
        _note("start", _LEFT, "most used code"),
        _note("end", _WIDTH - _RIGHT, "least used code"),
    ]
    used = int((counts > 0).sum())
    scale_name = "items per code, log scale" if scale.is_log else "items per code"
    caption = f"Level {level + 1}: {used:,} of {len(counts):,} codes used"
    return _figure(
        caption,
        parts,
        f"{scale_name}; dashed: even use, {even:,.1f}",
    )


def distortion_bars(values: Sequence[float]) -> Html:
    """Mean squared distance after each level."""
    labels = [f"level {level}" for level in range(1, len(values) + 1)]
    shown = [f"{value:.4g}" for value in values]
    return _bars(
        "Distortion after each level",
        labels,
        values,
        shown,
        note="mean squared distance to what the codes so far stand for",
        css=[f"level-{level % 6}" for level in range(len(values))],
    )


def bucket_bars(sizes: Mapping[int, Int64[np.ndarray, " _"]], *, last: int) -> list[Html]:
    """The share of items whose first codes are shared by 1, 2, 3 to 4, 5 to 8, ... items.

    One chart per level, all with the same bars on one scale.

    Args:
        sizes: For each level from 0: the sizes of the buckets of items that agree up to this level.
        last: The last level: items in one of its buckets share all codes, so they collide.
    """
    most = max((int(level.max()) for level in sizes.values()), default=1)
    shares = {level: _bucket_shares(buckets, most) for level, buckets in sizes.items()}
    top = max((max(share) for _, share in shares.values()), default=1.0)
    return [
        _bucket_chart(level, sizes[level], *shares[level], top=top, is_last=level == last)
        for level in sizes
    ]


def _bucket_shares(
    sizes: Int64[np.ndarray, " buckets"], most: int
) -> tuple[list[str], list[float]]:
    """The labels of the bars up to buckets of `most` items, and the share of items in each."""
    edges = [1, 2, 4, 8, 16]
    while edges[-1] < most:
        edges.append(edges[-1] * 4)
    places = np.searchsorted(edges, sizes)
    shares = np.bincount(places, weights=sizes, minlength=len(edges)) / sizes.sum()
    labels = [
        f"{edge:,}" if edge < 3 else f"{before + 1:,}\N{EN DASH}{edge:,}"
        for before, edge in zip([0, *edges], edges, strict=False)
    ]
    needed = int(np.searchsorted(edges, most)) + 1
    return labels[:needed], shares[:needed].tolist()


def _bucket_chart(
    level: int,
    sizes: Int64[np.ndarray, " buckets"],
    labels: Sequence[str],
    shares: Sequence[float],
    *,
    top: float,
    is_last: bool,
) -> Html:
    name = "All codes" if is_last else "First code" if level == 0 else f"First {level + 1} codes"
    return _bars(
        f"{name}: {len(sizes):,} buckets",
        labels,
        shares,
        [f"{share:.1%}" if share else "" for share in shares],
        note=f"share of items, by how many share their bucket; at most {int(sizes.max()):,} do",
        css=[f"level-{level % 6}"] * len(labels),
        top=top,
    )


def comparison(rows: Mapping[str, tuple[float, float]], *, names: tuple[str, str]) -> Html:
    """Two shares per row, one above the other, and their ratio.

    Args:
        rows: Row name to the measured share and the share by chance.
        names: The names of the two shares.
    """
    top = max((share for pair in rows.values() for share in pair), default=0.0) or 1.0
    lines = []
    for name, (measured, chance) in rows.items():
        times = f"\N{MULTIPLICATION SIGN}{measured / chance:,.3g}" if chance > 0 else ""
        bars = [
            tag("i", css=css, style=f"width:{100 * share / top:.2f}%")
            for css, share in (("measured", measured), ("chance", chance))
        ]
        numbers = tag(
            "span",
            tag("b", text(f"{measured:.2%}")),
            tag("span", text(f"{chance:.2%}"), css="muted"),
            css="numbers",
        )
        lines.append(
            tag(
                "div",
                tag("span", text(name)),
                tag("span", *bars, css="pair"),
                numbers,
                tag("span", text(times), css="times"),
                css="row",
            )
        )
    keys = [
        tag("span", tag("i", css=css), text(name))
        for css, name in zip(("measured", "chance"), names, strict=True)
    ]
    return tag("div", *lines, tag("p", *keys, css="legend"), css="comparison")


class _Scale:
    """Maps values from 0 upwards to heights in the chart, and draws the grid."""

    def __init__(self, top: float, *, log: bool = False) -> None:
        self._top, self.is_log = max(top, 1e-300), log

    def __call__(self, value: float) -> float:
        share = math.log1p(value) / math.log1p(self._top) if self.is_log else value / self._top
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    def grid(self, label: Callable[[float], str] = "{:,.4g}".format) -> list[Html]:
        """Lines and labels at round values."""
        if self.is_log:
            values = [10.0**power for power in range(int(math.log10(self._top)) + 1)]
        else:
            step = 10 ** math.floor(math.log10(self._top / 2))
            step *= max(f for f in (1, 2, 5) if step * f <= self._top / 2)
            values = [step * number for number in range(1, int(self._top / step + 1e-9) + 1)]
        parts = []
        for value in (0.0, *values):
            y = f"{self(value):.1f}"
            parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, css="grid-line"))
            parts.append(
                tag("text", text(label(value)), x=_LEFT - 6, y=y, dy="0.32em", text_anchor="end")
            )
        return parts


def _bars(
    caption: str,
    labels: Sequence[str],
    values: Sequence[float],
    shown: Sequence[str],
    *,
    note: str,
    css: Sequence[str],
    top: float | None = None,
) -> Html:
    """Upright bars with their values above and their labels below, on a scale up to `top`."""
    scale = _Scale((max(values, default=0.0) if top is None else top) or 1.0)
    step = (_WIDTH - 16) / max(len(values), 1)
    width = min(step * 0.62, 56)
    is_tight = step < 42
    base = _HEIGHT - _BOTTOM
    parts = []
    for number, (label, value, number_text) in enumerate(zip(labels, values, shown, strict=True)):
        x, y = 8 + (number + 0.5) * step, scale(value)
        parts.append(
            tag(
                "rect",
                tag("title", text(f"{label}: {number_text}")),
                x=f"{x - width / 2:.1f}",
                y=f"{y:.1f}",
                width=f"{width:.1f}",
                height=f"{max(base - y, 0.8):.1f}",
                rx=2,
                css=css[number],
            )
        )
        above = {"x": f"{x:.1f}", "y": f"{y - 4:.1f}", "text_anchor": "middle"}
        below = {**above, "y": f"{_HEIGHT - 14}"}
        if is_tight:
            above["font-size"] = below["font-size"] = "9"
            below["transform"] = f"rotate(-24 {x:.1f} {_HEIGHT - 14})"
        parts.append(tag("text", text(number_text), css="value", **above))
        parts.append(tag("text", text(label), **below))
    parts.append(tag("line", x1=8, x2=_WIDTH - 8, y1=base, y2=base, css="grid-line"))
    return _figure(caption, parts, note)


def _note(anchor: str, x: int, words: str) -> Html:
    return tag("text", text(words), x=x, y=_HEIGHT - 14, text_anchor=anchor)


def _figure(caption: str, parts: Sequence[Html], note: str) -> Html:
    svg = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=caption,
    )
    return tag("figure", tag("figcaption", text(caption)), svg, tag("p", text(note), css="note"))
