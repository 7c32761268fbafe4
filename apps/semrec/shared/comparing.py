"""What an update changed: its answers and those of the old run for the same users."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evalrec import Queries, evaluate
from evalrec.page import Section, table, tag, text
from genrec import Answers
from jaxtyping import Int

from semrec.shared.findings import Findings
from semrec.shared.stage import Facts, Stage
from semrec.shared.verdict import decimal

if TYPE_CHECKING:
    from semrec.shared.updating import UpdateStages

TOP = 10
"""The number of items of an answer that are compared."""

Lists = Int[np.ndarray, "users k"]
"""The best items of each user, best first; -1 where there are no more."""


def update_stage(pipeline: UpdateStages[Any]) -> Stage[Facts]:
    """The stage "update": compares both runs' best items for the test users."""

    def fill(folder: Path) -> Facts:
        queries, news = pipeline.data.split.test, pipeline.news
        new, old = pipeline.new_lists(queries), old_lists(pipeline, queries)
        answered = new[new >= 0]
        is_new = news.is_new
        return {
            "items": len(is_new),
            "new_items": int(is_new.sum()),
            "removed_items": news.num_removed,
            "new_interactions": news.num_interactions,
            "trained": pipeline.trains,
            "on_new": bool((news.new > 0).any()),
            "users": len(queries),
            "overlap": overlap(old, new),
            "old": reached(queries, old),
            "new": reached(queries, new),
            "share_of_new_items": float(is_new[answered].mean()),
            "new_items_recommended": len(np.unique(answered[is_new[answered]])),
            "targets_new_items": int(is_new[queries.targets].sum()),
            "hits_new_items": int(hits(queries, new)[is_new[queries.targets]].sum()),
            **pipeline.drift(),
        }

    stage: Stage[Facts] = pipeline.stage(
        "update",
        reads=(),
        after=pipeline.compared,
        fill=fill,
        load=lambda folder: stage.complete(),
    )
    return stage


def answered_lists(
    recommender: Answers,
    queries: Queries,
    item_ids: Sequence[str],
    *,
    deny: Collection[str] = (),
    progress: Callable[[int, int], None],
) -> Lists:
    """The best items of a recommender for the histories; unknown items of a history are skipped.

    Args:
        recommender: That of the old run or of the update.
        queries: The users and their histories.
        item_ids: The id of each current item.
        deny: Items that must not be recommended, because they are no longer in the catalogue.
        progress: Called with the number of answered histories and the number of all.
    """
    rows = {item_id: row for row, item_id in enumerate(item_ids)}
    histories = [[item_ids[row] for row in history] for history in queries.histories]
    lists = np.full((len(histories), TOP), -1)
    for user, answer in enumerate(recommender.stream(histories, top_k=TOP, deny=deny)):
        best = [rows[item.item_id] for item in answer.items]
        lists[user, : len(best)] = best
        progress(user + 1, len(histories))
    return lists


def old_lists(pipeline: UpdateStages[Any], queries: Queries) -> Lists:
    """The old run's best items for the same histories, without removed items."""
    ids = pipeline.data.catalog.item_ids
    gone = {*pipeline.old.item_ids} - {*ids}
    with pipeline.run.screen.bar("answers of the old run") as bar:
        return answered_lists(
            pipeline.old.recommender(), queries, ids, deny=gone, progress=bar.update
        )


def overlap(old: Lists, new: Lists) -> float:
    """Mean over users: the items in both lists, as a share of the longer list."""
    shares = [
        len({*before[before >= 0]} & {*now[now >= 0]}) / max((now >= 0).sum(), 1)
        for before, now in zip(old, new, strict=True)
    ]
    return float(np.mean(shares))


def hits(queries: Queries, lists: Lists) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each user's target is in its list."""
    is_hit: np.ndarray[Any, np.dtype[np.bool_]] = (lists == queries.targets[:, None]).any(axis=1)
    return is_hit


def reached(queries: Queries, lists: Lists) -> dict[str, float]:
    """NDCG and recall of the lists, without filtering."""
    report = evaluate(queries, lists, ks=(TOP,))
    return {
        name: report.metrics["unfiltered"][name].mean for name in (f"ndcg@{TOP}", f"recall@{TOP}")
    }


def sentence(facts: Mapping[str, Any]) -> str:
    """One line that says what an update changed."""
    before, now = (decimal(facts[name][f"ndcg@{TOP}"]) for name in ("old", "new"))
    gone = f", {facts['removed_items']:,} gone" if facts["removed_items"] else ""
    return (
        f"{facts['items']:,} items, {facts['new_items']:,} new{gone}; overlap of top {TOP}: "
        f"{100 * facts['overlap']:.0f} %; NDCG@{TOP} {before} to {now} on {_purchases(facts)}"
        f"{refit_words(facts)}"
    )


def refit_words(facts: Mapping[str, Any]) -> str:
    """Advice to begin a new run, if the codes suit the new items too badly."""
    if not facts.get("refit"):  # TSSR has no codes
        return ""
    return (
        f"; new items are {facts['drift']:.2f} times as far from their codes as the old ones: "
        "begin a new run with the command run"
    )


def _purchases(facts: Mapping[str, Any]) -> str:
    return "the purchases since" if facts["on_new"] else "the last purchases (none is new)"


def update_findings(find: Callable[[Any], Findings], pipeline: Any) -> Findings:
    """The findings of a run and the changes by the update.

    Args:
        find: Returns the findings of a run of the app.
        pipeline: An update, the app's `UpdateStages`.
    """
    shown, facts = find(pipeline), pipeline.comparison.complete()
    return dataclasses.replace(
        shown,
        lead=f"An update of {pipeline.old.run.path.name}",
        trainings=shown.trainings if pipeline.trains else (),
        cards=(update_section(facts), *shown.cards),
        metrics={**shown.metrics, "update": {k: v for k, v in facts.items() if k != "seconds"}},
    )


def update_section(facts: Mapping[str, Any]) -> Section:
    """The card that compares the old run and the update."""
    rows = [
        [name, facts[key][f"ndcg@{TOP}"], facts[key][f"recall@{TOP}"]]
        for name, key in (("the old run", "old"), ("the update", "new"))
    ]
    share = f"{100 * facts['share_of_new_items']:.1f} %"
    bought = facts["targets_new_items"]
    drift = f" Drift: {facts['drift_words']}." if "drift_words" in facts else ""
    return Section(
        title="Old and new",
        body=[
            tag("p", text(f"{sentence(facts)}.")),
            table(["", f"NDCG@{TOP}", f"recall@{TOP}"], rows),
        ],
        note=f"{facts['users']:,} users, {_purchases(facts)}, all items ranked; neither training "
        f"saw these purchases. New items are {share} of the recommended items; "
        f"{facts['new_items_recommended']:,} of {facts['new_items']:,} are recommended to "
        f"somebody. Of {bought:,} purchases of new items, {facts['hits_new_items']:,} are among "
        f"the first {TOP}. {facts['removed_items']:,} items of the old run are no longer "
        f"there.{drift}",
    )
