"""Charts of a report, drawn by matplotlib as inline SVG in the page's own colours."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evalrec.page.document import Html, tag, text

# matplotlib draws in these colours; `_figure` turns them into the page's CSS variables.
_INK, _MUTED, _LINE = "#0a0a01", "#0a0a02", "#0a0a03"
_SERIES = [f"#0b0b0{i}" for i in range(8)]
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _LINE: "line",
    **{colour: f"series-{i}" for i, colour in enumerate(_SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""The lines of a chart: label to (x, y) points."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One line chart; the best point of each line may be marked with its value."""

    title: str
    lines: Lines
    x_label: str = "epoch"
    mark: Literal["max", "min"] | None = None


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One bar a row: name to value and the ends of its interval."""

    title: str
    values: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Points in the plane and the cluster of each; see `tsne_panel`."""

    title: str
    points: Float[np.ndarray, "points 2"]
    clusters: Int[np.ndarray, " points"]


def read_series(path: Path, names: Mapping[str, str]) -> Lines:
    """Lines of a `Panel` from the log of a training: label to (epoch, value) points.

    Args:
        path: JSONL, one record an epoch, as `genrec.fit` writes it.
        names: Label to the value's place in a record, such as "losses.generation". Records
            without it are passed over.

    Raises:
        ValueError: A line is not JSON; the message names file and line.
    """
    lines: dict[str, list[tuple[float, float]]] = {label: [] for label in names}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: log must be JSON lines, {error}") from error
        for label, place in names.items():
            group, _, key = place.partition(".")
            if key in record.get(group, {}):
                lines[label].append((record["epoch"], record[group][key]))
    return lines


def curves(panels: Sequence[Panel]) -> Html:
    """Line charts side by side."""

    def draw(axes: Axes, panel: Panel) -> None:
        axes.set_xlabel(panel.x_label)
        for i, (label, points) in enumerate(panel.lines.items()):
            colour = _SERIES[i % len(_SERIES)]
            x, y = [point[0] for point in points], [point[1] for point in points]
            marker = "o" if len(points) == 1 else None
            axes.plot(x, y, color=colour, marker=marker, linewidth=1.8, label=label)
            if panel.mark and points:
                best = (max if panel.mark == "max" else min)(points, key=lambda p: p[1])
                axes.plot(*best, "o", color=colour, markersize=5)
                value = f"{best[1]:.4g}"
                axes.annotate(value, best, (0, 6), textcoords="offset points", ha="center")
        axes.margins(y=0.14)
        axes.legend()

    figures = [_figure(p.title, partial(draw, panel=p), size=(5, 3)) for p in panels]
    return tag("div", *figures, css="grid wide")


def bars(panels: Sequence[Bars]) -> Html:
    """Bar charts side by side, the first row on top and in another colour, with intervals."""

    def draw(axes: Axes, panel: Bars) -> None:
        names = list(panel.values)
        values, low, high = np.array(list(panel.values.values())).T
        places = np.arange(len(names))
        colours = [_SERIES[0 if place == 0 else 1] for place in places]
        axes.barh(places, values, color=colours, height=0.62, antialiased=False)
        axes.errorbar(
            values, places, xerr=[values - low, high - values], fmt="none", ecolor=_INK, lw=1
        )
        axes.set_yticks(places, [_shortened(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlim(max(0.0, 1.5 * low.min() - 0.5 * high.max()), None)

    figures = [
        _figure(p.title, partial(draw, panel=p), size=(5, 0.7 + 0.3 * len(p.values)))
        for p in panels
    ]
    return tag("div", *figures, css="grid wide")


def _shortened(name: str, most: int = 40) -> str:
    """A name that leaves room for the chart: the middle of a long one is cut, as of a path."""
    if len(name) <= most:
        return name
    return f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def histogram(counts: Mapping[int, int], *, title: str, x_label: str) -> Html:
    """Columns: how often each whole number occurs, such as items a bucket or levels an item.

    Raises:
        ValueError: ``counts`` is empty.
    """
    if not counts:
        raise ValueError("counts must have at least one entry, got none")

    def draw(axes: Axes) -> None:
        axes.set_xlabel(x_label)
        middle, reach = (min(counts) + max(counts)) / 2, (max(counts) - min(counts)) / 2 + 1
        axes.set_xlim(middle - max(reach, 2), middle + max(reach, 2))
        width = 0.8 if reach < 30 else 1.0
        axes.bar(
            list(counts), list(counts.values()), width=width, color=_SERIES[0], antialiased=False
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")

    return _figure(title, draw, size=(5, 2.4))


def tsne_panel(
    title: str,
    embeddings: Float[np.ndarray, "items dim"],
    *,
    max_points: int = 2000,
    clusters: int = 10,
    seed: int = 0,
) -> Scatter:
    """t-SNE of sampled items, coloured by k-means in the embedding space (PRORec, figure 5).

    Panels of the same number of items and the same seed show the same items. 2,000 points take
    some 20 seconds of one core.
    """
    from sklearn.cluster import KMeans  # takes seconds, and few commands draw
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    generator = np.random.default_rng(seed)
    count = min(max_points, len(embeddings))
    rows = np.sort(generator.choice(len(embeddings), size=count, replace=False))
    x = np.asarray(embeddings, dtype=np.float32)[rows]
    labels = KMeans(min(clusters, count), n_init=4, random_state=seed).fit_predict(x)
    if x.shape[1] > 50 and count > 50:
        x = PCA(50, random_state=seed).fit_transform(x)
    tsne = TSNE(perplexity=min(30, (count - 1) / 3), init="pca", random_state=seed)
    return Scatter(title=title, points=tsne.fit_transform(x), clusters=labels)


def scatter_panels(panels: Sequence[Scatter]) -> Html:
    """Scatter plots side by side, a colour a cluster."""

    def draw(axes: Axes, panel: Scatter) -> None:
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        x, y = panel.points.T
        size = 2 + 200 / math.sqrt(len(x))
        colours = panel.clusters % 10
        axes.scatter(
            x, y, size, colours, cmap="tab10", vmin=0, vmax=9, lw=0, alpha=0.8, rasterized=True
        )

    figures = [_figure(p.title, partial(draw, panel=p), size=(4, 4)) for p in panels]
    return tag("div", *figures, css="grid")


def _figure(title: str, draw: Callable[[Axes], None], *, size: tuple[float, float]) -> Html:
    """A captioned inline SVG of what ``draw`` puts on the axes; ``size`` in inches."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # two figures share names that nothing refers to
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return tag("figure", tag("figcaption", text(title)), Html(svg))
