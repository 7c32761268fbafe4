"""What is said of lists beside hits, each against a plain loop over its definition."""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from evalrec import (
    Calibration,
    CodeDiversity,
    Novelty,
    Queries,
    Report,
    Serendipity,
    VectorDiversity,
    compare,
    evaluate,
    rank_items,
    report_table,
    reports_table,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from sklearn.metrics.pairwise import cosine_distances

NUM_ITEMS = 9
ITEMS = st.integers(0, NUM_ITEMS - 1)
LISTS = st.lists(st.lists(ITEMS, max_size=6, unique=True), min_size=1, max_size=6).map(
    lambda lists: np.array([items + [-1] * (6 - len(items)) for items in lists])
)


def calmly(examples: int) -> settings:
    """No limits on time: a busy machine is no failure."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def shown_of(ranked):
    return [[item for item in items if item >= 0] for items in ranked.tolist()]


def values_of(metric, ranked, histories=None, targets=None):
    users = len(ranked)
    return metric(
        ranked,
        [np.array(history, dtype=int) for history in histories or [[]] * users],
        np.zeros(users, dtype=int) if targets is None else np.array(targets),
    )


@given(LISTS, st.lists(st.lists(ITEMS, max_size=5), min_size=1, max_size=8))
@calmly(50)
def test_novelty_is_the_mean_of_plain_logarithms(ranked, train):
    users_of = Counter(item for history in train for item in set(history))
    expected = [
        sum(-math.log2(max(users_of[item], 1) / len(train)) for item in items) / len(items)
        if items
        else 0.0
        for items in shown_of(ranked)
    ]
    novelty = Novelty.fit([np.array(history, dtype=int) for history in train], NUM_ITEMS)
    assert values_of(novelty, ranked) == pytest.approx(expected, abs=1e-9)


@given(LISTS, st.integers(0, 99))
@calmly(50)
def test_diversity_is_the_mean_over_plain_pairs(ranked, seed):
    rng = np.random.default_rng(seed)
    vectors, codes = rng.normal(size=(NUM_ITEMS, 4)), rng.integers(3, size=(NUM_ITEMS, 3))
    distances = cosine_distances(vectors)

    def plain(distance):
        pairs = [list(itertools.combinations(items, 2)) for items in shown_of(ranked)]
        return [np.mean([distance(*pair) for pair in each]) if each else 0.0 for each in pairs]

    by_vectors = values_of(VectorDiversity(vectors.astype(np.float32) * 7), ranked)
    assert by_vectors == pytest.approx(plain(lambda a, b: distances[a, b]), abs=1e-6)
    by_vectors = values_of(VectorDiversity(vectors), ranked)
    assert by_vectors == pytest.approx(plain(lambda a, b: distances[a, b]), abs=1e-9)
    differing = plain(lambda a, b: sum(codes[a] != codes[b]) / 3)
    assert values_of(CodeDiversity(codes), ranked) == pytest.approx(differing, abs=1e-9)


@given(LISTS, st.lists(st.integers(0, 4), min_size=NUM_ITEMS, max_size=NUM_ITEMS), st.data())
@calmly(50)
def test_serendipity_is_the_plain_sum_over_places(ranked, item_counts, data):
    targets = [data.draw(ITEMS) for _ in ranked]
    expected = []
    for items, target in zip(ranked.tolist(), targets, strict=True):
        total = 0.0
        for place, item in enumerate(items, start=1):
            by_list = (NUM_ITEMS + 1 - place) / NUM_ITEMS
            popular = 1 + sum(count > item_counts[item] for count in item_counts)
            by_popularity = (NUM_ITEMS + 1 - popular) / NUM_ITEMS
            total += max(by_list - by_popularity, 0) * (item == target)
        expected.append(total / len(items))
    serendipity = Serendipity(np.array(item_counts))
    assert values_of(serendipity, ranked, targets=targets) == pytest.approx(expected, abs=1e-9)


@given(
    LISTS,
    st.lists(st.lists(st.sampled_from("abcd"), max_size=3), min_size=NUM_ITEMS, max_size=NUM_ITEMS),
    st.data(),
)
@calmly(50)
def test_miscalibration_is_scipys_divergence(ranked, categories, data):
    categories[0] = ["a", "b"]
    histories = [data.draw(st.lists(ITEMS, max_size=6)) for _ in ranked]

    def shares(items):
        weights = Counter()
        for item in items:
            for name in set(categories[item]):
                weights[name] += 1 / len(set(categories[item]))
        total = sum(weights.values())
        return np.array([weights[name] / total if total else 0.0 for name in "abcd"])

    expected = []
    for items, history in zip(shown_of(ranked), histories, strict=True):
        p, q = shares(history), shares(items)
        mixed = 0.99 * q + 0.01 * p
        # Where nothing is shown the shares do not add up to 1, and scipy would make them so.
        expected.append(stats.entropy(p, mixed) if p.any() and q.any() else None)
        if expected[-1] is None:
            expected[-1] = -math.log(0.01) if p.any() else 0.0
    ours = values_of(Calibration(categories), ranked, histories)
    assert ours == pytest.approx(expected, abs=1e-9)
    assert (ours >= -1e-12).all()


def test_what_each_of_them_is_at_its_ends():
    ranked = np.array([[0, 1, 2, 3]])
    alike, opposed = np.ones((4, 2)), np.array([[1.0, 0], [-1.0, 0], [1.0, 0], [-1.0, 0]])
    assert values_of(VectorDiversity(alike), ranked) == pytest.approx([0.0], abs=1e-12)
    assert values_of(VectorDiversity(opposed), ranked) == pytest.approx([4 / 3])
    assert values_of(CodeDiversity(np.arange(8).reshape(4, 2)), ranked).tolist() == [1.0]
    assert values_of(Novelty(np.array([8, 8, 8, 8]), 8), ranked).tolist() == [0.0]
    assert values_of(Novelty(np.array([1, 2, 4, 0]), 8), ranked).tolist() == [(3 + 2 + 1 + 3) / 4]
    calibration = Calibration([["a"], ["b"], ["a"], ["b"]])
    assert values_of(calibration, ranked, [[0, 1]]) == pytest.approx([0.0], abs=1e-12)
    popular = Serendipity(np.array([9, 5, 4, 1]))
    assert values_of(popular, ranked, targets=[3]).tolist() == [0.0]
    assert values_of(popular, ranked[:, ::-1], targets=[3]).tolist() == [3 / 16]


@pytest.fixture(scope="module")
def queries() -> Queries:
    rng = np.random.default_rng(3)
    return Queries(
        histories=[rng.integers(NUM_ITEMS, size=3) for _ in range(40)],
        targets=rng.integers(NUM_ITEMS, size=40),
        num_items=NUM_ITEMS,
        cold=np.zeros(40, dtype=bool),
    )


@pytest.fixture(scope="module")
def list_metrics(queries) -> list:
    rng = np.random.default_rng(4)
    return [
        Novelty.fit(queries.histories, NUM_ITEMS),
        VectorDiversity(rng.normal(size=(NUM_ITEMS, 3))),
        CodeDiversity(rng.integers(3, size=(NUM_ITEMS, 2))),
        Serendipity(rng.integers(9, size=NUM_ITEMS)),
        Calibration([["a"], ["b"], ["c"]] * 3),
    ]


@pytest.fixture(scope="module")
def report(queries, list_metrics) -> Report:
    scores = np.random.default_rng(5).normal(size=(40, NUM_ITEMS))
    return evaluate(
        queries, scores, ks=(2, 4), list_metrics=list_metrics, lists=True, batch_size=7, name="ours"
    )


def shown(renderable: object) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_report_has_the_values_of_the_lists_that_were_ranked(queries, list_metrics, report):
    scores = np.random.default_rng(5).normal(size=(40, NUM_ITEMS))
    names = ["novelty", "vector_diversity", "code_diversity", "serendipity", "miscalibration"]
    assert report.metric_names[6:] == tuple(f"{name}@{k}" for name in names for k in (2, 4))
    for mode in ("unfiltered", "filtered"):
        ranked = rank_items(queries, scores, top_k=4, filter_seen=mode == "filtered")
        for metric in list_metrics:
            for k in (2, 4):
                values = metric(ranked[:, :k], queries.histories, queries.targets)
                assert values.any()
                name = f"{metric.name}@{k}"
                np.testing.assert_allclose(report.per_user(name, mode), values, atol=1e-12)
                estimate = report.metrics[mode][name]
                assert estimate.mean == pytest.approx(values.mean())
                error = values.std() / math.sqrt(len(values))
                assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    everything = rank_items(queries, scores, top_k=NUM_ITEMS)  # seen items are struck out of it
    by_lists = evaluate(queries, everything, ks=(2, 4), list_metrics=list_metrics, lists=True)
    for mode in ("unfiltered", "filtered"):
        for name in report.metric_names:
            np.testing.assert_allclose(
                by_lists.per_user(name, mode), report.per_user(name, mode), atol=1e-12
            )


def test_a_report_with_values_of_lists_goes_to_json_and_back(report):
    document = report.to_json()
    back = Report.from_json(document)
    assert back.to_json() == document
    assert set(document["metrics"]["filtered"]) == set(report.metric_names)
    plain = evaluate_without(report)
    assert "list_values" not in plain
    assert set(plain["metrics"]["filtered"]) == set(report.metric_names[:6])
    frame = report.to_frame(per_user=True)
    assert (
        frame.filter(mode="filtered")["novelty@4"].to_list()
        == report.per_user("novelty@4", "filtered").tolist()
    )
    document["list_values"]["filtered"]["novelty@4"].pop()
    with pytest.raises(ValueError, match="novelty@4 must be one value per user, 40, got 39"):
        Report.from_json(document)


def evaluate_without(report: Report) -> dict:
    document = report.to_json()
    del document["list_values"]
    return Report.from_json(document).to_json()


def test_tables_mark_the_smaller_miscalibration_as_the_better(queries, list_metrics, report):
    worse = evaluate(
        queries,
        np.tile(-(np.arange(NUM_ITEMS) % 3), (40, 1)).astype(np.float32),  # one category first
        ks=(2, 4),
        list_metrics=list_metrics,
    )
    metric = "miscalibration@4"
    assert report.metrics["filtered"][metric].mean < worse.metrics["filtered"][metric].mean
    table = reports_table({"ours": report, "worse": worse}, metrics=[metric, "hit_rate@2"])
    cells = list(table.columns[1].cells)
    assert ["[bold]" in cell for cell in cells] == [True, False]
    assert "Miscalibration@4" in shown(report_table(report))
    comparison = compare({"worse": [worse], "ours": [report]}, metrics=[metric, "map@2"])
    difference = next(d for d in comparison.differences if d.metric == metric)
    assert difference.estimate.high < 0


def test_figures_of_user_groups_are_those_of_their_users_alone(queries, report):
    labels = ["new" if user % 3 else "old" for user in range(40)]
    by_group = report.by_user_group(labels)
    assert list(by_group) == ["old", "new"]
    for label, modes in by_group.items():
        members = np.array([each == label for each in labels])
        for mode, estimates in modes.items():
            for metric, estimate in estimates.items():
                values = report.per_user(metric, mode)[members]
                assert estimate.mean == pytest.approx(values.mean())
                rng = np.random.default_rng(0)
                drawn = values[rng.integers(len(values), size=(3000, len(values)))].mean(axis=1)
                low, high = np.percentile(drawn, (2.5, 97.5))
                # Hits are whole, so that ends of intervals come in steps of a user.
                slack = 0.2 * values.std() / math.sqrt(len(values)) + 1.1 / len(values)
                assert estimate[1:] == pytest.approx((low, high), abs=slack)
    frame = report.to_frame(user_groups=labels)
    assert frame.columns == ["name", "users", "mode", "metric", "mean", "low", "high"]
    row = frame.filter(users="new", mode="filtered", metric="ndcg@4")
    assert row["mean"].item() == by_group["new"]["filtered"]["ndcg@4"].mean
    with pytest.raises(ValueError, match="labels must be one per query, 40, got 39"):
        report.by_user_group(labels[1:])
    with pytest.raises(ValueError, match="user_groups has no effect where per_user is True"):
        report.to_frame(per_user=True, user_groups=labels)


def test_any_metric_of_ranks_has_an_estimate(report):
    for name, same in (("hit_rate@4", "recall@4"), ("map@4", "mrr@4")):
        assert report.estimate(name, "filtered") == report.metrics["filtered"][same]
    precision = report.estimate("precision@4", "filtered")
    assert precision.mean == pytest.approx(report.metrics["filtered"]["recall@4"].mean / 4)
    with pytest.raises(ValueError, match=r"metric must be one of .* got 'recall@3' and 'filtered'"):
        report.estimate("recall@3", "filtered")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [CodeDiversity(np.zeros((8, 2), int))], "must know 9 items, got 8 of 'code_div"),
        (lambda: [Serendipity(np.ones(9, int), name="recall")], "none of recall, .* got 'recall'"),
        (lambda: [CodeDiversity(np.zeros((9, 1), int))] * 2, "must be unique .* 'code_diversity'"),
        (lambda: [VectorDiversity(np.diag(np.arange(9.0)))], "got item 0"),
        (lambda: [Calibration(["ab"] * 9)], "categories must be a list of each item, got 'ab'"),
        (lambda: [Calibration([[]] * 9)], "categories must be of at least one item, got none"),
        (lambda: [Calibration([["a"]] * 9, alpha=0.0)], r"alpha must be in \(0, 1\), got 0"),
        (lambda: [Novelty(np.full(9, 3), 2)], r"in \[0, num_users = 2\], got 3 to 3"),
    ],
)
def test_list_metrics_that_do_not_fit_are_refused(queries, make, words, unchecked):
    with pytest.raises(ValueError, match=words):
        evaluate(queries, np.ones((40, NUM_ITEMS)), ks=(1,), list_metrics=make())


def test_a_value_that_is_no_number_is_refused(queries):
    class Broken:
        name, num_items = "broken", NUM_ITEMS

        def __call__(self, ranked, histories, targets):
            return np.where(np.arange(len(ranked)) == 3, np.nan, 0.0)

    with pytest.raises(ValueError, match="broken@1 must be finite, got nan for user 3"):
        evaluate(queries, np.ones((40, NUM_ITEMS)), ks=(1,), list_metrics=[Broken()])
