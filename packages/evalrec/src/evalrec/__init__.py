"""Interaction data, leave-one-out, full ranking and the floors that any model must beat."""

from evalrec.evaluate import evaluate
from evalrec.filtering import k_core
from evalrec.floors import Floor, ItemToItemFloor, PopularityFloor, fit_floors
from evalrec.interactions import DataError, Interactions
from evalrec.metrics import mrr, ndcg, recall
from evalrec.ranking import rank_items
from evalrec.readers import find_interactions, read_interactions
from evalrec.report import MODES, Estimate, Report, reports_table
from evalrec.splits import Queries, Split, leave_one_out
from evalrec.synthetic import write_synthetic

__all__ = [
    "MODES",
    "DataError",
    "Estimate",
    "Floor",
    "Interactions",
    "ItemToItemFloor",
    "PopularityFloor",
    "Queries",
    "Report",
    "Split",
    "evaluate",
    "find_interactions",
    "fit_floors",
    "k_core",
    "leave_one_out",
    "mrr",
    "ndcg",
    "rank_items",
    "read_interactions",
    "recall",
    "reports_table",
    "write_synthetic",
]
