"""Pages: one self-contained HTML file with the figures of an evaluation, charts included.

`report_page` and `comparison_page` write a complete page of reports. Your own page is made of
`Section`s, whose fragments the functions below return, and written by `write_page`. Text is escaped
when it becomes a fragment. Colours follow the reader's light or dark mode. The same input gives the
same bytes. Charts need matplotlib: `pip install 'evalrec[page]'`.
"""

from evalrec.page.document import Html, Section, facts, tag, text, write_page
from evalrec.page.figures import (
    Bars,
    Lines,
    Panel,
    Scatter,
    bars,
    curves,
    histogram,
    read_series,
    scatter_panels,
    tsne_panel,
)
from evalrec.page.reports import comparison_page, report_page
from evalrec.page.tables import Example, examples_table, results_table, share_bars, table

__all__ = [
    "Bars",
    "Example",
    "Html",
    "Lines",
    "Panel",
    "Scatter",
    "Section",
    "bars",
    "comparison_page",
    "curves",
    "examples_table",
    "facts",
    "histogram",
    "read_series",
    "report_page",
    "results_table",
    "scatter_panels",
    "share_bars",
    "table",
    "tag",
    "text",
    "tsne_panel",
    "write_page",
]
