from __future__ import annotations

import io
import json
import math
from collections import Counter

import ir_measures
import numpy as np
import pytest
import torch
from evalrec import (
    Queries,
    Report,
    average_precision,
    evaluate,
    hit_rate,
    mrr,
    ndcg,
    precision,
    rank_items,
    recall,
    report_table,
    reports_table,
)
from evalrec.list_metrics import GROUPS, coverage, exposures, gini, popularity_groups
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
)


def calmly(examples: int) -> settings:
    """No limits on time: a busy machine is no failure."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def queries_of(histories, targets, num_items, cold=None) -> Queries:
    return Queries(
        histories=[np.array(history, dtype=np.int64) for history in histories],
        targets=np.array(targets, dtype=np.int64),
        num_items=num_items,
        cold=np.zeros(len(targets), dtype=bool) if cold is None else np.array(cold),
    )


def scorer_of(scores: torch.Tensor):
    """A scorer that reads off rows in the order of the calls."""
    rows = iter(scores)
    return lambda histories: torch.stack([next(rows) for _ in histories])


def plain_rank(scores, target, removed):
    """The target's place when everything else that scores as high comes first."""
    if target in removed:
        return len(scores) + 1
    others = [i for i in range(len(scores)) if i != target and i not in removed]
    return 1 + sum(scores[i] >= scores[target] for i in others)


def plain_list_rank(ranked, target, removed, num_items):
    left = [item for item in ranked if item != -1 and item not in removed]
    return left.index(target) + 1 if target in left else num_items + 1


@st.composite
def problems(draw, *, distinct=False):
    num_items = draw(st.integers(3, 12))
    num_users = draw(st.integers(1, 6))
    items = st.integers(0, num_items - 1)
    histories = draw(st.lists(st.lists(items, max_size=6), min_size=num_users, max_size=num_users))
    targets = draw(st.lists(items, min_size=num_users, max_size=num_users))
    if distinct:
        rows = [draw(st.permutations(range(num_items))) for _ in range(num_users)]
    else:
        value = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0, math.inf])
        rows = [
            draw(st.lists(value, min_size=num_items, max_size=num_items)) for _ in range(num_users)
        ]
    return queries_of(histories, targets, num_items), torch.tensor(rows, dtype=torch.float32)


@given(problems(), st.integers(1, 7))
@calmly(50)
def test_ranks_from_scores_are_the_plain_ones(problem, batch_size):
    queries, scores = problem
    report = evaluate(queries, scorer_of(scores), ks=(1, 3), batch_size=batch_size)
    for mode in ("unfiltered", "filtered"):
        expected = [
            plain_rank(row, target, set(history.tolist()) if mode == "filtered" else set())
            for row, target, history in zip(
                scores.tolist(), queries.targets.tolist(), queries.histories, strict=True
            )
        ]
        assert report.ranks[mode].tolist() == expected
    repeats = sum(t in h for t, h in zip(queries.targets, queries.histories, strict=True))
    assert report.counts["repeated_targets"] == repeats


@given(problems(distinct=True), st.data())
@calmly(50)
def test_ranks_from_lists_are_the_plain_ones(problem, data):
    queries, scores = problem
    order = scores.argsort(dim=1, descending=True)
    ranked = order[:, : data.draw(st.integers(3, queries.num_items))].clone()
    for row in ranked:
        row[data.draw(st.integers(0, len(row))) :] = -1
    report = evaluate(queries, ranked, ks=(1, 3))
    short = 0
    for user, history in enumerate(queries.histories):
        seen = set(history.tolist())
        items, target = ranked[user].tolist(), int(queries.targets[user])
        plain = plain_list_rank(items, target, set(), queries.num_items)
        filtered = plain_list_rank(items, target, seen, queries.num_items)
        assert report.ranks["unfiltered"][user] == plain
        assert report.ranks["filtered"][user] == filtered
        short += len([item for item in items if item != -1 and item not in seen]) < 3
    assert report.counts["short_lists"] == short


@given(problems(distinct=True))
@calmly(50)
def test_scores_and_full_lists_of_one_scorer_agree(problem):
    queries, scores = problem
    ranked = rank_items(queries, scorer_of(scores), top_k=queries.num_items)
    by_scores = evaluate(queries, scorer_of(scores), ks=(1, 3))
    by_array = evaluate(queries, ranked, ks=(1, 3))
    by_tensor = evaluate(queries, torch.from_numpy(ranked), ks=(1, 3))
    for mode in ("unfiltered", "filtered"):
        np.testing.assert_array_equal(by_scores.ranks[mode], by_array.ranks[mode])
        np.testing.assert_array_equal(by_scores.ranks[mode], by_tensor.ranks[mode])
    assert by_scores.metrics == by_array.metrics


@given(problems(distinct=True), st.data())
@calmly(50)
def test_rank_items_is_a_plain_sort(problem, data):
    queries, scores = problem
    top_k = data.draw(st.integers(1, queries.num_items))
    plain = rank_items(queries, scorer_of(scores), top_k=top_k, batch_size=2)
    filtered = rank_items(queries, scorer_of(scores), top_k=top_k, filter_seen=True)
    for user, history in enumerate(queries.histories):
        order = sorted(range(queries.num_items), key=lambda item: -scores[user, item])
        unseen = [item for item in order if item not in history] + [-1] * top_k
        assert plain[user].tolist() == order[:top_k]
        assert filtered[user].tolist() == unseen[:top_k]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 25))
@calmly(50)
def test_metrics_are_the_plain_ones(ranks, k):
    array = np.array(ranks)
    assert recall(array, k).tolist() == [1.0 if rank <= k else 0.0 for rank in ranks]
    np.testing.assert_allclose(mrr(array, k), [1 / rank if rank <= k else 0 for rank in ranks])
    gains = [1 / math.log2(rank + 1) if rank <= k else 0 for rank in ranks]
    np.testing.assert_allclose(ndcg(array, k), gains)
    # With one relevant item, what each of them is by its definition for any number.
    relevant = [[place == rank for place in range(1, k + 1)] for rank in ranks]
    assert precision(array, k) == pytest.approx([sum(hits) / k for hits in relevant], abs=1e-12)
    assert hit_rate(array, k).tolist() == [float(any(hits)) for hits in relevant]
    precisions = [
        sum(sum(hits[: place + 1]) / (place + 1) for place in range(k) if hits[place])
        for hits in relevant
    ]
    assert average_precision(array, k) == pytest.approx(precisions, abs=1e-12)


def test_a_constant_scorer_earns_nothing():
    queries = queries_of([[0], [1]], [2, 3], 30)
    for value in (0.0, -math.inf, math.inf, 1e30):
        report = evaluate(queries, lambda histories, v=value: torch.full((len(histories), 30), v))
        for mode in ("unfiltered", "filtered"):
            assert {estimate.mean for estimate in report.metrics[mode].values()} == {0.0}


def test_a_perfect_scorer_earns_everything():
    queries = queries_of([[0], [1]], [2, 3], 30)
    scores = torch.nn.functional.one_hot(torch.tensor([2, 3]), 30).float()
    report = evaluate(queries, scorer_of(scores))
    assert {tuple(estimate) for estimate in report.metrics["filtered"].values()} == {(1.0,) * 3}


def test_shuffled_targets_score_at_chance():
    rng = np.random.default_rng(0)
    queries = queries_of([[] for _ in range(4000)], rng.integers(100, size=4000), 100)
    scores = torch.from_numpy(rng.random((4000, 100)))
    estimate = evaluate(queries, scorer_of(scores)).metrics["unfiltered"]["recall@10"]
    assert estimate.low < 0.1 < estimate.high


def test_bfloat16_ties_count_against_the_target():
    queries = queries_of([[]], [0], 300)
    scores = (1 + torch.linspace(0.0004, 0, 300)).unsqueeze(0)
    assert evaluate(queries, scorer_of(scores)).ranks["unfiltered"][0] == 1
    rank = evaluate(queries, scorer_of(scores.bfloat16())).ranks["unfiltered"][0]
    assert rank == 300


def test_intervals_agree_with_a_bootstrap_over_users():
    rng = np.random.default_rng(1)
    ranks = rng.geometric(0.05, size=400)
    report = Report(
        ranks={"unfiltered": ranks, "filtered": ranks},
        ks=(10,),
        counts={"users": 400, "items": 500},
        queries="any",
        groups=np.zeros(400, dtype=np.int64),
        group_names=("warm",),
    )
    drawn = rng.integers(400, size=(4000, 400))
    for metric, estimate in report.metrics["unfiltered"].items():
        values = report.per_user(metric, "unfiltered")
        low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
        assert estimate.mean == pytest.approx(values.mean())
        assert estimate.low == pytest.approx(low, abs=0.004)
        assert estimate.high == pytest.approx(high, abs=0.004)


def small_report(seed=0) -> Report:
    queries = queries_of([[0], [1], [2]], [1, 2, 0], 25, cold=[True, False, False])
    scores = torch.from_numpy(np.random.default_rng(seed).random((3, 25)))
    return evaluate(queries, scorer_of(scores))


def test_reports_go_to_json_and_back(tmp_path):
    report = small_report()
    report.write_json(tmp_path / "metrics.json")
    document = json.loads((tmp_path / "metrics.json").read_text())
    back = Report.from_json(document)
    assert back.to_json() == report.to_json() == small_report().to_json() == document
    assert document["counts"] == {"users": 3, "items": 25, "cold_targets": 1, "repeated_targets": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    with pytest.raises(ValueError, match="ranks must be in the document"):
        Report.from_json(report.to_json(per_user=False))
    with pytest.raises(ValueError, match="format must be 2, got 7: a report of another version"):
        Report.from_json({**document, "format": 7})


def shown(renderable: object) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def figure(value: float) -> str:
    return f" {value:.4f}".replace(" 0.", " .")


def test_the_table_shows_every_report_in_a_row():
    reports = {"first [x]": small_report(0), "second": small_report(1)}
    text = shown(reports_table(reports, title="Side by side"))
    assert "Side by side" in text
    assert "1 targets never occur in" in " ".join(text.split())
    for name, report in reports.items():
        (line,) = (line for line in text.splitlines() if f" {name} " in line)
        for mode in ("unfiltered", "filtered"):
            largest = max(report.ks)
            wanted = 10 if 10 in report.ks else largest
            for metric in (f"recall@{wanted}", f"ndcg@{wanted}"):
                assert figure(report.metrics[mode][metric].mean) in line
    chosen = shown(reports_table(reports, metrics=["mrr@5"]))
    assert figure(reports["second"].metrics["filtered"]["mrr@5"].mean) in chosen
    assert "Recall" not in chosen
    with pytest.raises(ValueError, match=r"metrics must be among .*, got 'auc@5'"):
        reports_table(reports, metrics=["auc@5"])


def test_one_report_shows_all_that_it_measured():
    report = small_report()
    text = shown(report_table(report))
    for estimates in report.metrics.values():
        for metric, estimate in estimates.items():
            assert metric.partition("@")[2] in text
            assert figure(estimate.mean) in text


def test_tables_of_different_queries_are_refused():
    other = evaluate(queries_of([[0]], [1], 25), torch.arange(25).unsqueeze(0))
    with pytest.raises(ValueError, match="same queries, got 3 and, in 'b', 1 users"):
        reports_table({"a": small_report(), "b": other})
    with pytest.raises(ValueError, match="at least one"):
        reports_table({})


def test_scores_that_cannot_be_ranked_are_refused():
    queries = queries_of([[0], [1], [2]], [1, 2, 0], 25)
    scores = torch.zeros(3, 25)
    scores[2, 4] = math.nan
    with pytest.raises(ValueError, match="must be numbers, got NaN for user 2"):
        evaluate(queries, scorer_of(scores), batch_size=2)
    with pytest.raises(ValueError, match=r"\[batch, items\] = \[3, 25\], got .*\[3, 24\]"):
        evaluate(queries, scorer_of(torch.zeros(3, 24)))
    with pytest.raises(ValueError, match=r"ks must be in \[1, num_items = 25\], got \(26,\)"):
        evaluate(queries, scorer_of(torch.zeros(3, 25)), ks=(26,))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(queries, scorer_of(torch.zeros(3, 25)), batch_size=0)


@pytest.mark.parametrize(
    ("ranked", "words"),
    [
        ([[0, 1, 2], [3, 1, 3]], "an item once, got item 3 twice for user 1"),
        ([[0, 1, 2], [3, 9, 4]], r"rows in \[0, 9\) or -1, got 9 for user 1"),
        ([[0, 1, -2], [3, 2, 4]], r"rows in \[0, 9\) or -1, got -2 for user 0"),
        ([[0, 1, 2], [-1, 3, 2]], "-1 at the end only, got an item after -1: user 1"),
        ([[0, 1, 2]], "one list a user, 2, got 1"),
        ([[0, 1], [0, 1]], r"at least max\(ks\) = 3 places, got 2"),
    ],
)
def test_lists_that_are_no_ranking_are_refused(ranked, words):
    queries = queries_of([[], []], [0, 1], 9)
    with pytest.raises(ValueError, match=words):
        evaluate(queries, np.array(ranked), ks=(3,))


def test_queries_refuse_rows_outside_the_catalogue():
    with pytest.raises(ValueError, match=r"targets must be item rows in \[0, 3\)"):
        queries_of([[0]], [3], 3)
    with pytest.raises(ValueError, match=r"histories must be item rows in \[0, 3\)"):
        queries_of([[0, 3]], [1], 3)
    with pytest.raises(ValueError, match="one length, got 2, 1 and 1"):
        queries_of([[0], [0]], [1], 3)


LISTS = st.lists(st.lists(st.integers(0, 8), max_size=6, unique=True), min_size=1, max_size=8).map(
    lambda lists: np.array([items + [-1] * (6 - len(items)) for items in lists])
)


@given(LISTS, st.integers(1, 6))
@calmly(50)
def test_coverage_and_gini_are_the_plain_ones(ranked, k):
    shown = Counter(item for items in ranked.tolist() for item in items[:k] if item != -1)
    shown_by_item = exposures(ranked, k, 9)
    assert shown_by_item.tolist() == [shown[item] for item in range(9)]
    assert coverage(shown_by_item) == pytest.approx(len(shown) / 9)
    differences = sum(abs(shown[i] - shown[j]) for i in range(9) for j in range(9))
    mean = sum(shown.values()) / 9
    assert gini(shown_by_item) == pytest.approx(differences / (2 * 81 * mean) if mean else 0.0)


@given(
    st.lists(st.integers(0, 9), min_size=3, max_size=12).filter(any),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.data(),
)
@calmly(50)
def test_popularity_groups_are_the_plain_ones(item_counts, targets, data):
    cold = np.array([data.draw(st.booleans()) for _ in targets])
    groups = popularity_groups(np.array(targets), cold, np.array(item_counts))
    for group, target, is_cold in zip(groups, targets, cold, strict=True):
        before = sum(count for count in item_counts if count > item_counts[target])
        share = before / sum(item_counts)
        warm = "head" if share < 1 / 3 else "middle" if share < 2 / 3 else "tail"
        if min(abs(share - third / 3) for third in (1, 2)) > 1e-9:
            assert GROUPS[group] == ("cold" if is_cold else warm)


@given(problems(distinct=True))
@calmly(50)
def test_lists_are_measured_in_the_same_pass(problem):
    queries, scores = problem
    item_counts = np.arange(queries.num_items)
    by_scores = evaluate(
        queries, scorer_of(scores), ks=(1, 3), lists=True, item_counts=item_counts, batch_size=2
    )
    full = rank_items(queries, scorer_of(scores), top_k=queries.num_items)
    by_lists = evaluate(queries, full, ks=(1, 3), lists=True, item_counts=item_counts)
    assert by_scores.lists == by_lists.lists
    assert by_scores.by_group == by_lists.by_group
    for mode, filter_seen in (("unfiltered", False), ("filtered", True)):
        ranked = rank_items(queries, scorer_of(scores), top_k=3, filter_seen=filter_seen)
        for k in (1, 3):
            shown_by_item = exposures(ranked, k, queries.num_items)
            assert by_scores.lists[mode][f"coverage@{k}"] == coverage(shown_by_item)
            assert by_scores.lists[mode][f"gini@{k}"] == gini(shown_by_item)


def test_cold_targets_are_reported_apart():
    queries = queries_of([[]] * 4, [0, 1, 2, 3], 30, cold=[False, True, False, True])
    scores = torch.zeros(4, 30)
    scores[[0, 1, 2], [0, 1, 2]] = 1.0
    report = evaluate(queries, scorer_of(scores))
    assert report.group_sizes == {"warm": 2, "cold": 2}
    assert report.by_group["warm"]["filtered"]["recall@5"] == 1.0
    assert report.by_group["cold"]["filtered"]["recall@5"] == 0.5
    counts = np.array([20, 0, 1, 0, *[1] * 26])
    report = evaluate(queries, scorer_of(scores), item_counts=counts)
    assert report.group_sizes == {"head": 1, "middle": 1, "cold": 2}
    text = " ".join(shown(report_table(report)).replace("│", " ").split())
    assert "Recall@10, 1 head targets 1.0000 1.0000" in text
    with pytest.raises(ValueError, match="item_counts must be one count an item, 30, got 2"):
        evaluate(queries, scorer_of(scores), item_counts=np.array([1, 2]))
    with pytest.raises(ValueError, match="item_counts must be interactions, at least one, got 0"):
        evaluate(queries, scorer_of(scores), item_counts=np.zeros(30, dtype=np.int64))


def test_a_report_with_codes_prints_by_how_much_they_flatter():
    queries = queries_of([[0], [1]], [2, 3], 30)
    scores = torch.nn.functional.one_hot(torch.tensor([2, 4]), 30).float()
    report = evaluate(queries, scorer_of(scores), codes=np.arange(30)[:, None].clip(max=3))
    text = " ".join(shown(report_table(report)).replace("│", " ").split())
    assert "Recall@10 counted on codes 1.0000 (+100.0 %) 1.0000 (+100.0 %)" in text
    assert Report.from_json(report.to_json()).to_json() == report.to_json()


@given(problems(distinct=True))
@calmly(25)
def test_metrics_agree_with_torchmetrics_and_ir_measures(problem):
    queries, scores = problem
    users, num_items = len(queries), queries.num_items
    report = evaluate(queries, scorer_of(scores), ks=(1, 3))
    wanted = torch.zeros(users, num_items, dtype=torch.bool)
    wanted[torch.arange(users), torch.from_numpy(queries.targets)] = True
    users_of = torch.arange(users).unsqueeze(1).expand_as(scores)
    theirs = {
        "recall": (RetrievalHitRate, ir_measures.R),
        "ndcg": (RetrievalNormalizedDCG, ir_measures.nDCG),
        "mrr": (RetrievalMRR, ir_measures.RR),
        "precision": (RetrievalPrecision, ir_measures.P),
        "map": (RetrievalMAP, ir_measures.AP),
        "hit_rate": (RetrievalHitRate, ir_measures.Success),
    }
    run = [
        ir_measures.ScoredDoc(str(user), str(item), float(scores[user, item]))
        for user in range(users)
        for item in range(num_items)
    ]
    judged = [
        ir_measures.Qrel(str(user), str(target), 1) for user, target in enumerate(queries.targets)
    ]
    for name, (torchmetrics_class, measure_of) in theirs.items():
        for k in (1, 3):
            ours = report.per_user(f"{name}@{k}", "unfiltered").mean()
            # torchmetrics passes over scores that are not above 0
            torchmetric = torchmetrics_class(top_k=k)(scores + 1, wanted, indexes=users_of)
            assert ours == pytest.approx(float(torchmetric), abs=1e-6)
            measure = measure_of @ k
            assert ours == pytest.approx(
                ir_measures.calc_aggregate([measure], judged, run)[measure], abs=1e-9
            )


def test_progress_ends_at_the_number_of_users():
    seen = []
    queries = queries_of([[0]] * 5, [1] * 5, 25)
    evaluate(
        queries,
        lambda histories: torch.zeros(len(histories), 25),
        batch_size=2,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_an_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    small_report(0).write_json(path)
    before = path.read_bytes()

    def interrupted(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small_report(1).write_json(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    small_report(1).write_json(path)
    assert path.read_bytes() != before
