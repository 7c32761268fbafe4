"""Grid: the cells of a table as plain text, written as Markdown, as LaTeX or for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rich.table import Table

from evalrec.terminal import cell as table_cell
from evalrec.terminal import printable

__all__ = ["Grid"]

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The cells of a table as plain text, and which of them are the best of their column.

    Attributes:
        header: The name of each column.
        rows: The cells, one list per row, as long as the header.
        best: The (row, column) positions of the cells in bold.

    Raises:
        ValueError: If a row is not as long as the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: AbstractSet[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        for row, cells in enumerate(self.rows):
            if len(cells) != len(self.header):
                raise ValueError(
                    f"rows must have {len(self.header)} cells, got {len(cells)} in row {row}"
                )

    def markdown(self) -> str:
        """The table in Markdown; the first column is aligned left, all others right."""
        ruler = ["---", *["---:"] * (len(self.header) - 1)]
        header = [_escape_markdown(cell) for cell in self.header]
        rows = self._formatted(_escape_markdown, "**{}**")
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))

    def latex(self) -> str:
        """The table in LaTeX; it needs the package booktabs."""
        shape = "l" + "r" * (len(self.header) - 1)
        header = [escape_latex(cell) for cell in self.header]
        rows = self._formatted(escape_latex, r"\textbf{{{}}}")
        head, *body = (" & ".join(cells) + r" \\" for cells in (header, *rows))
        start, end = rf"\begin{{tabular}}{{{shape}}}", r"\end{tabular}"
        return "\n".join([start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end])

    def table(self) -> Table:
        """The table for a terminal; a comma in a column's name becomes a line break."""
        table = Table()
        for column, name in enumerate(self.header):
            justify = "left" if column == 0 else "right"
            table.add_column(table_cell(name).replace(", ", ",\n"), justify=justify)  # type: ignore[arg-type]
        for cells in self._formatted(table_cell, "[bold]{}[/bold]"):
            table.add_row(*cells)
        return table

    def _formatted(self, escaped: Callable[[str], str], bold: str) -> list[list[str]]:
        """The rows with escaped cells; the best cells are put into `bold`."""
        return [
            [
                bold.format(escaped(cell)) if (row, column) in self.best else escaped(cell)
                for column, cell in enumerate(cells)
            ]
            for row, cells in enumerate(self.rows)
        ]


def escape_latex(text: str) -> str:
    """Plain text as LaTeX shows it."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in _one_line(text))
    return escaped.replace("±", r"$\pm$").replace("-.", "$-$.")


def _escape_markdown(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")
