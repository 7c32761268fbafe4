"""Charts of a page, drawn by matplotlib as inline SVG in the page's own colours.

matplotlib is loaded when a chart is drawn; it comes with `pip install 'evalrec[page]'`.
"""

from __future__ import annotations

import io
import json
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int

from evalrec.page.document import NUM_COLOURS, Html, tag, text, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

__all__ = [
    "Bars",
    "Lines",
    "Panel",
    "Scatter",
    "bars",
    "curves",
    "histogram",
    "read_series",
    "scatter_panels",
    "tsne_panel",
]

# matplotlib draws in these colours; `_figure` turns them into the page's CSS variables.
_INK, _MUTED, _LINE = "#0a0a01", "#0a0a02", "#0a0a03"
_SERIES = [f"#0b0b0{i}" for i in range(NUM_COLOURS)]
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _LINE: "line",
    **{colour: f"series-{i}" for i, colour in enumerate(_SERIES)},
}
_WIDTH = 4.2
"""Inches. Beside another chart, letters are as large as the page's; on a phone still legible."""

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
    """One line chart; the best point of each line may be marked, with its value in the legend."""

    title: str
    lines: Lines
    x_label: str = "epoch"
    mark: Literal["max", "min"] | None = None


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One bar per row: name to value and the ends of its interval.

    Attributes:
        title: Text above the bars.
        values: Name to value, lower end and upper end; the first row is on top.
        highlighted: The row with another colour than the rest, from 0; None for none.

    Raises:
        ValueError: If there is no row.
    """

    title: str
    values: Mapping[str, tuple[float, float, float]]
    highlighted: int | None = 0

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must have at least one row, got none")


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Points in the plane and the cluster of each; see `tsne_panel`."""

    title: str
    points: Float[np.ndarray, "points 2"]
    clusters: Int[np.ndarray, " points"]


def read_series(path: str | Path, names: Mapping[str, str]) -> Lines:
    """Lines of a `Panel` from the log of a training: label to (epoch, value) points.

    Args:
        path: JSONL, one record per epoch: `{"epoch": 3, "losses": {"next": 2.5}, ...}`.
        names: Label to the place of the value in a record, such as "losses.next". Records without
            this value are skipped.

    Raises:
        ValueError: If a line is not a JSON object with an epoch; the message names file and line.
    """
    lines: dict[str, list[tuple[float, float]]] = {label: [] for label in names}
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: log must be JSON lines, {error}") from error
        if not isinstance(record, dict) or "epoch" not in record:
            raise ValueError(f"{path}:{number}: log must be objects with an epoch, got {line:.60}")
        for label, place in names.items():
            group, _, key = place.partition(".")
            if key in record.get(group, {}):
                lines[label].append((record["epoch"], record[group][key]))
    return lines


def curves(panels: Sequence[Panel]) -> Html:
    """Line charts side by side.

    Raises:
        ImportError: If matplotlib is not installed; the same holds for every chart.
    """

    def draw(axes: Axes, panel: Panel) -> None:
        axes.set_xlabel(visible(panel.x_label))
        for i, (label, points) in enumerate(panel.lines.items()):
            colour = _SERIES[i % len(_SERIES)]
            x, y = [point[0] for point in points], [point[1] for point in points]
            marker = "o" if len(points) == 1 else None
            label = visible(label)
            if panel.mark and points:
                best = (max if panel.mark == "max" else min)(points, key=lambda p: p[1])
                axes.plot(*best, "o", color=colour, markersize=5)
                # In the legend: above the best points, two such values would overlap.
                label = f"{label}, best {best[1]:.4g} at {best[0]:.4g}"
            axes.plot(x, y, color=colour, marker=marker, linewidth=1.8, label=label)
        axes.margins(y=0.1)
        if all(float(x).is_integer() for points in panel.lines.values() for x, _ in points):
            axes.xaxis.set_major_locator(_whole_numbers())
        if panel.lines:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=1.4)

    figures = [
        _figure(p.title, partial(draw, panel=p), size=(_WIDTH, 2.4 + 0.17 * len(p.lines)))
        for p in panels
    ]
    return tag("div", *figures, css="grid wide")


def bars(panels: Sequence[Bars]) -> Html:
    """Bar charts side by side, the first row on top, each bar with its interval."""

    def draw(axes: Axes, panel: Bars) -> None:
        names = list(panel.values)
        values, low, high = np.array(list(panel.values.values())).T
        places = np.arange(len(names))
        plain = 0 if panel.highlighted is None else 1
        colours = [_SERIES[0 if place == panel.highlighted else plain] for place in places]
        axes.barh(places, values, color=colours, height=0.62, antialiased=False)
        # If all users have the same value, rounding may put the mean outside its interval.
        reach = np.maximum([values - low, high - values], 0.0)
        axes.errorbar(values, places, xerr=reach, fmt="none", ecolor=_INK, lw=1)
        axes.set_yticks(places, [_two_lines(name) for name in names])
        axes.locator_params(axis="x", nbins=5)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        if low.min() >= 0:
            axes.set_xlim(0.0, None)  # the length of a bar is proportional to its value

    figures = [
        _figure(p.title, partial(draw, panel=p), size=(_WIDTH, 0.6 + 0.36 * len(p.values)))
        for p in panels
    ]
    return tag("div", *figures, css="grid wide")


def _two_lines(name: str) -> str:
    """A name beside a bar, in lines that leave most of the width for the bar."""
    return "\n".join(textwrap.wrap(_shortened(name), 21, break_long_words=True)[:2])


def _whole_numbers() -> MaxNLocator:
    """The positions of labels on an axis of whole numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=8, integer=True)


def _shortened(name: str, most: int = 40) -> str:
    """A name shortened to leave room for the chart: the middle of a long one is cut."""
    name = visible(name)
    if len(name) <= most:
        return name
    return f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def histogram(counts: Mapping[int, int], *, title: str, x_label: str) -> Html:
    """Columns: how often each whole number occurs, such as items per bucket or levels per item.

    Args:
        counts: Number to how often it occurs.
        title: The caption.
        x_label: The label of the axis of numbers.

    Raises:
        ValueError: If ``counts`` is empty.
    """
    if not counts:
        raise ValueError("counts must have at least one entry, got none")

    def draw(axes: Axes) -> None:
        axes.set_xlabel(visible(x_label))
        middle, reach = (min(counts) + max(counts)) / 2, (max(counts) - min(counts)) / 2 + 1
        axes.set_xlim(middle - max(reach, 2), middle + max(reach, 2))
        width = 0.8 if reach < 30 else 1.0
        axes.bar(
            list(counts), list(counts.values()), width=width, color=_SERIES[0], antialiased=False
        )
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.yaxis.set_major_locator(_whole_numbers())
        axes.yaxis.set_major_formatter("{x:,.0f}")

    return _figure(title, draw, size=(_WIDTH, 2.2))


def tsne_panel(
    title: str,
    embeddings: Float[np.ndarray, "items dim"],
    *,
    max_points: int = 2000,
    clusters: int = 10,
    seed: int = 0,
) -> Scatter:
    """t-SNE of sampled items, coloured by k-means in the embedding space (PRORec, figure 5).

    Panels with the same number of items and the same seed show the same items. 2,000 points take
    about 20 seconds on one core.

    Args:
        title: Text above the points.
        embeddings: A row per item, [items, dim].
        max_points: How many items are sampled at most.
        clusters: The number of clusters, each with a colour.
        seed: The seed of the sample, of k-means and of t-SNE.

    Raises:
        ValueError: If there are fewer than 2 items or dimensions.
    """
    if min(embeddings.shape) < 2:
        raise ValueError(f"embeddings must be at least 2 x 2, got {embeddings.shape}")
    from sklearn.cluster import KMeans  # takes seconds, and few commands draw this chart
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
    """Scatter plots side by side, a colour per cluster; after the tenth, colours repeat."""

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


def check_matplotlib() -> None:
    """Refuse to draw without matplotlib.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        import_module("matplotlib")
    except ImportError as error:
        raise ImportError("charts need matplotlib: pip install 'evalrec[page]'") from error


def _figure(title: str, draw: Callable[[Axes], None], *, size: tuple[float, float]) -> Html:
    """A captioned inline SVG of what ``draw`` puts on the axes; ``size`` in inches."""
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser writes the labels, in its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
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
