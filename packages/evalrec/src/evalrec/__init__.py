"""Interaction data, protocols, full ranking and the floors that any model must beat."""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalrec.blending import Candidates, Choice, pick_weights
    from evalrec.checks import check_interactions
    from evalrec.comparison import Comparison, Difference, System, compare
    from evalrec.evaluate import evaluate
    from evalrec.filtering import drop_repeats, k_core, keep_last
    from evalrec.findings import Finding
    from evalrec.floors import (
        Floor,
        ItemToItemFloor,
        PopularityFloor,
        fit_floors,
        recount_floors,
    )
    from evalrec.gating import Gate, gate
    from evalrec.grid import Grid
    from evalrec.importing import PRESETS, TableOptions, TablePlan, plan_table
    from evalrec.interactions import DataError, Interactions
    from evalrec.item_shards import ItemShards
    from evalrec.item_to_item import cooccurrences, pair_shares
    from evalrec.leaks import check_split
    from evalrec.list_metrics import coverage, exposures, gini
    from evalrec.list_values import (
        Calibration,
        CodeDiversity,
        ListMetric,
        Novelty,
        Serendipity,
        VectorDiversity,
    )
    from evalrec.matrix_factorization import MatrixFactorizationFloor, fit_matrix_factorization
    from evalrec.metrics import average_precision, hit_rate, mrr, ndcg, precision, recall
    from evalrec.preparation import Prepared, prepare
    from evalrec.published import PUBLISHED, CountDifference, PublishedSet
    from evalrec.ranking import rank_items
    from evalrec.readers import (
        FORMATS,
        Batch,
        Column,
        Format,
        batch_of_rows,
        find_interactions,
        find_items,
        read_catalogue,
        read_interactions,
        read_item_ids,
        read_raw,
    )
    from evalrec.recommendations import Recommendations, recommend
    from evalrec.reduction import PrepareOptions
    from evalrec.report import MODES, Estimate, Report, read_report
    from evalrec.scorers import EmbeddingScorer
    from evalrec.split_files import read_split
    from evalrec.splits import (
        Queries,
        Split,
        leave_last_n,
        leave_one_out,
        split_times,
        temporal_split,
    )
    from evalrec.storage import check_writable, replacing_file, replacing_folder, sync
    from evalrec.synthetic import write_synthetic
    from evalrec.table_preparation import prepare_table
    from evalrec.tables import (
        comparison_table,
        gate_text,
        report_table,
        reports_table,
        systems_grid,
        to_latex,
        to_markdown,
    )

    __version__: str

__all__ = [
    "FORMATS",
    "MODES",
    "PRESETS",
    "PUBLISHED",
    "Batch",
    "Calibration",
    "Candidates",
    "Choice",
    "CodeDiversity",
    "Column",
    "Comparison",
    "CountDifference",
    "DataError",
    "Difference",
    "EmbeddingScorer",
    "Estimate",
    "Finding",
    "Floor",
    "Format",
    "Gate",
    "Grid",
    "Interactions",
    "ItemShards",
    "ItemToItemFloor",
    "ListMetric",
    "MatrixFactorizationFloor",
    "Novelty",
    "PopularityFloor",
    "PrepareOptions",
    "Prepared",
    "PublishedSet",
    "Queries",
    "Recommendations",
    "Report",
    "Serendipity",
    "Split",
    "System",
    "TableOptions",
    "TablePlan",
    "VectorDiversity",
    "average_precision",
    "batch_of_rows",
    "check_interactions",
    "check_split",
    "check_writable",
    "compare",
    "comparison_table",
    "cooccurrences",
    "coverage",
    "drop_repeats",
    "evaluate",
    "exposures",
    "find_interactions",
    "find_items",
    "fit_floors",
    "fit_matrix_factorization",
    "gate",
    "gate_text",
    "gini",
    "hit_rate",
    "k_core",
    "keep_last",
    "leave_last_n",
    "leave_one_out",
    "mrr",
    "ndcg",
    "pair_shares",
    "pick_weights",
    "plan_table",
    "precision",
    "prepare",
    "prepare_table",
    "rank_items",
    "read_catalogue",
    "read_interactions",
    "read_item_ids",
    "read_raw",
    "read_report",
    "read_split",
    "recall",
    "recommend",
    "recount_floors",
    "replacing_file",
    "replacing_folder",
    "report_table",
    "reports_table",
    "split_times",
    "sync",
    "systems_grid",
    "temporal_split",
    "to_latex",
    "to_markdown",
    "write_synthetic",
]

# Modules are loaded on first use of a name of theirs, so that `evalrec --help` answers at once.
_MODULES = {
    "blending": ("Candidates", "Choice", "pick_weights"),
    "checks": ("check_interactions",),
    "evaluate": ("evaluate",),
    "filtering": ("drop_repeats", "k_core", "keep_last"),
    "findings": ("Finding",),
    "floors": ("Floor", "ItemToItemFloor", "PopularityFloor", "fit_floors", "recount_floors"),
    "gating": ("Gate", "gate"),
    "grid": ("Grid",),
    "importing": ("PRESETS", "TableOptions", "TablePlan", "plan_table"),
    "interactions": ("DataError", "Interactions"),
    "item_shards": ("ItemShards",),
    "item_to_item": ("cooccurrences", "pair_shares"),
    "leaks": ("check_split",),
    "matrix_factorization": ("MatrixFactorizationFloor", "fit_matrix_factorization"),
    "comparison": ("Comparison", "Difference", "System", "compare"),
    "list_metrics": ("coverage", "exposures", "gini"),
    "list_values": (
        *("Calibration", "CodeDiversity", "ListMetric", "Novelty", "Serendipity"),
        "VectorDiversity",
    ),
    "metrics": ("average_precision", "hit_rate", "mrr", "ndcg", "precision", "recall"),
    "preparation": ("Prepared", "prepare"),
    "published": ("PUBLISHED", "CountDifference", "PublishedSet"),
    "ranking": ("rank_items",),
    "readers": (
        *("FORMATS", "Batch", "Column", "Format", "batch_of_rows", "find_interactions"),
        *("find_items", "read_catalogue", "read_interactions", "read_item_ids", "read_raw"),
    ),
    "recommendations": ("Recommendations", "recommend"),
    "reduction": ("PrepareOptions",),
    "report": ("MODES", "Estimate", "Report", "read_report"),
    "scorers": ("EmbeddingScorer",),
    "split_files": ("read_split",),
    "splits": (
        *("Queries", "Split", "leave_last_n", "leave_one_out", "split_times", "temporal_split"),
    ),
    "storage": ("check_writable", "replacing_file", "replacing_folder", "sync"),
    "synthetic": ("write_synthetic",),
    "table_preparation": ("prepare_table",),
    "tables": (
        *("comparison_table", "gate_text", "report_table", "reports_table", "systems_grid"),
        *("to_latex", "to_markdown"),
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version(__name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """A module whose functions are not replaced when a submodule of the same name is loaded.

    `evalrec.evaluate` is the function; importing the module of that name would overwrite it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
