from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from evalrec import EmbeddingScorer, Queries, evaluate, rank_items
from evalrec.tiles import BLOCK_ITEMS, Counter, ScoreTile, count_true
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MODES = ("unfiltered", "filtered")


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


def plain_rank(scores, target, removed):
    """The target's place when everything else that scores as high comes first."""
    if target in removed:
        return len(scores) + 1
    others = [i for i in range(len(scores)) if i != target and i not in removed]
    return 1 + sum(scores[i] >= scores[target] for i in others)


def plain_code_rank(scores, target, removed, codes):
    """The place of the best item that shares the target's codes."""
    if target in removed:
        return len(scores) + 1
    left = [item for item in range(len(scores)) if item not in removed]
    group = [item for item in left if codes[item] == codes[target]]
    best = max(scores[item] for item in group)
    return 1 + sum(scores[item] >= best for item in left if item not in group)


def removed_of(queries, user, mode):
    return set(queries.histories[user].tolist()) if mode == "filtered" else set()


def exact_scores(query, items):
    """Dot products without any rounding."""
    return [
        sum(Fraction(a) * Fraction(b) for a, b in zip(query.tolist(), item.tolist(), strict=True))
        for item in items
    ]


@st.composite
def embedding_problems(draw):
    """Vectors with copies among the items, so that there are true ties, and hard near ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_users, num_items = draw(st.integers(1, 5)), draw(st.integers(4, 24))
    dim = draw(st.sampled_from([1, 2, 3, 7, 16]))
    queries = rng.normal(size=(num_users, dim)).astype(np.float32)
    items = rng.normal(size=(num_items, dim)).astype(np.float32)
    copies = rng.integers(num_items, size=num_items // 2)
    items[rng.integers(num_items, size=num_items // 2)] = items[copies]
    nudged = rng.integers(num_items)
    items[nudged] = np.nextafter(items[rng.integers(num_items)], np.float32(np.inf))
    histories = [rng.integers(num_items, size=rng.integers(5)) for _ in range(num_users)]
    targets = rng.integers(num_items, size=num_users)
    return queries_of(histories, targets, num_items), queries, items


@given(embedding_problems(), st.integers(1, 6), st.booleans())
@calmly(30)
def test_ranks_from_embeddings_are_those_of_exact_products(problem, batch_size, as_function):
    queries, vectors, items = problem
    rows = iter(torch.from_numpy(vectors))
    users = (
        (lambda histories: torch.stack([next(rows) for _ in histories]))
        if as_function
        else (vectors)
    )
    scorer = EmbeddingScorer(queries=users, items=torch.from_numpy(items))
    report = evaluate(queries, scorer, ks=(1, 3), batch_size=batch_size)
    for user, target in enumerate(queries.targets.tolist()):
        scores = exact_scores(vectors[user], items)
        for mode in MODES:
            expected = plain_rank(scores, target, removed_of(queries, user, mode))
            assert report.ranks[mode][user] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_copies_tie_wherever_they_stand(dtype, monkeypatch):
    """A copy of the target at either end of a block, where products may round otherwise."""
    monkeypatch.setattr("evalrec.tiles.BLOCK_ITEMS", 136)
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(1_000, 50, generator=generator).to(dtype)
    places = [0, 1, 135, 136, 137, 500, 951, 952, 999]
    items[places] = items[places[0]].clone()
    vectors = torch.randn(40, 50, generator=generator)
    targets = np.resize(places, 40)
    queries = queries_of([[]] * 40, targets, 1_000)
    report = evaluate(queries, EmbeddingScorer(queries=vectors, items=items))
    exact = vectors.double() @ items.double().T
    above = (exact > exact[:, :1] + 1e-9).sum(dim=1) + len(places)
    assert report.ranks["unfiltered"].tolist() == above.tolist()


def test_embeddings_rank_the_same_in_every_batch_size_and_thread_count(monkeypatch):
    monkeypatch.setattr("evalrec.tiles.BLOCK_ITEMS", 256)
    rng = np.random.default_rng(0)
    items = rng.normal(size=(3_000, 32)).astype(np.float32)
    items += 1_000  # products of large numbers, which fp32 tells apart badly
    vectors = rng.normal(size=(50, 32)).astype(np.float32)
    queries = queries_of(rng.integers(3_000, size=(50, 4)), rng.integers(3_000, size=50), 3_000)
    scorer = EmbeddingScorer(queries=vectors, items=items)
    reports = [evaluate(queries, scorer, batch_size=size) for size in (1, 7, 50)]
    exact = vectors.astype(np.float64) @ items.astype(np.float64).T
    of_target = exact[np.arange(50), queries.targets][:, None]
    expected = (exact >= of_target - 1e-9).sum(axis=1)
    plain = torch.from_numpy(vectors) @ torch.from_numpy(items).T
    rounded = (plain >= plain[torch.arange(50), queries.targets].unsqueeze(1)).sum(dim=1)
    assert (rounded.numpy() != expected).any()  # so this is no easy case
    for report in reports:
        assert report.ranks["unfiltered"].tolist() == expected.tolist()
        assert report.to_json() == reports[0].to_json()


def test_constant_embeddings_earn_nothing():
    queries = queries_of([[0], [1]], [2, 3], 30)
    for items in (torch.zeros(30, 4), torch.ones(30, 4)):
        report = evaluate(queries, EmbeddingScorer(queries=torch.randn(2, 4), items=items))
        assert report.ranks["unfiltered"].tolist() == [30, 30]
        assert report.ranks["filtered"].tolist() == [29, 29]
        assert {estimate.mean for estimate in report.metrics["filtered"].values()} == {0.0}


def test_no_more_scores_are_held_than_a_block(monkeypatch):
    monkeypatch.setattr("evalrec.tiles.BLOCK_ITEMS", 16)
    largest = []
    product = torch.mm

    def watched(left, right, *, out):
        largest.append(out.numel())
        return product(left, right, out=out)

    monkeypatch.setattr("evalrec.tiles.torch.mm", watched)
    queries = queries_of([[]] * 9, [0] * 9, 100)
    scorer = EmbeddingScorer(queries=torch.randn(9, 4), items=torch.randn(100, 4))
    evaluate(queries, scorer, batch_size=4)
    assert max(largest) == 4 * 16
    assert sum(largest) == 9 * 100


@given(st.integers(1, 5), st.integers(1, 3 * BLOCK_ITEMS), st.floats(0, 1))
@calmly(40)
def test_counting_true_is_the_plain_sum(rows, columns, share):
    rng = np.random.default_rng(columns)
    scores = torch.from_numpy((rng.random((rows, columns)) < share).astype(np.float32))
    counted = evaluate_counts(scores, torch.full((rows,), 0.5))
    assert counted.tolist() == (scores == 1).sum(dim=1).tolist()


def evaluate_counts(scores, thresholds):
    counter = Counter(ScoreTile(scores), thresholds)
    counter.add(0, scores)
    return counter.counts


def test_counting_true_does_not_overflow():
    assert (
        count_true(torch.ones(2, 4 * BLOCK_ITEMS, dtype=torch.bool)).tolist()
        == [4 * BLOCK_ITEMS] * 2
    )


@given(embedding_problems(), st.data())
@calmly(30)
def test_code_ranks_are_the_plain_ones(problem, data):
    queries, vectors, items = problem
    num_items = queries.num_items
    codes = np.array(
        data.draw(
            st.lists(
                st.tuples(st.integers(0, 2), st.integers(0, 2)),
                min_size=num_items,
                max_size=num_items,
            )
        )
    )
    keys = [tuple(row) for row in codes.tolist()]
    scores = np.array([[float(s) for s in exact_scores(v, items)] for v in vectors])
    by_vectors = evaluate(
        queries, EmbeddingScorer(queries=vectors, items=items), ks=(1, 3), codes=codes
    )
    rows = iter(torch.from_numpy(scores))
    by_scores = evaluate(
        queries,
        lambda histories: torch.stack([next(rows) for _ in histories]),
        ks=(1, 3),
        codes=torch.from_numpy(codes),
    )
    for user, target in enumerate(queries.targets.tolist()):
        for mode in MODES:
            removed = removed_of(queries, user, mode)
            expected = plain_code_rank(scores[user].tolist(), target, removed, keys)
            assert by_scores.code_ranks[mode][user] == expected
            exact = exact_scores(vectors[user], items)
            assert by_vectors.code_ranks[mode][user] == plain_code_rank(
                exact, target, removed, keys
            )
            assert expected <= by_scores.ranks[mode][user]


@given(embedding_problems(), st.data())
@calmly(30)
def test_code_places_in_lists_are_the_plain_ones(problem, data):
    queries, _, _ = problem
    num_items = queries.num_items
    codes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=num_items, max_size=num_items)))
    rng = np.random.default_rng(num_items)
    ranked = np.stack([rng.permutation(num_items)[:4] for _ in range(len(queries))])
    ranked[0, data.draw(st.integers(0, 3)) :] = -1
    report = evaluate(queries, ranked, ks=(2, 4), codes=codes[:, None])
    for user, target in enumerate(queries.targets.tolist()):
        for mode in MODES:
            removed = removed_of(queries, user, mode)
            left = [i for i in ranked[user].tolist() if i != -1 and i not in removed]
            places = [
                place
                for place, item in enumerate(left, start=1)
                if codes[item] == codes[target] and target not in removed
            ]
            assert report.code_ranks[mode][user] == (places[0] if places else num_items + 1)


def test_unique_codes_change_nothing_and_shared_ones_flatter():
    rng = np.random.default_rng(0)
    queries = queries_of([[0]] * 200, rng.integers(1, 60, size=200), 60)
    scorer = EmbeddingScorer(
        queries=rng.normal(size=(200, 8)).astype(np.float32),
        items=rng.normal(size=(60, 8)).astype(np.float32),
    )
    unique = evaluate(queries, scorer, codes=np.arange(60)[:, None])
    shared = evaluate(queries, scorer, codes=np.arange(60)[:, None] // 3)
    for mode in MODES:
        assert unique.code_ranks[mode].tolist() == unique.ranks[mode].tolist()
        honest = shared.metrics[mode]["recall@10"].mean
        assert shared.on_codes[mode]["recall@10"] > 1.5 * honest
    with pytest.raises(ValueError, match="by_codes must be False for a report without codes"):
        evaluate(queries, scorer).per_user("recall@5", "filtered", by_codes=True)
    with pytest.raises(ValueError, match="codes must be one row per item, 60, got 3"):
        evaluate(queries, scorer, codes=np.zeros((3, 2), dtype=np.int64))


@given(embedding_problems(), st.integers(1, 4), st.booleans())
@calmly(30)
def test_lists_gathered_in_blocks_are_a_plain_sort(problem, top_k, filter_seen):
    queries, vectors, items = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalrec.tiles.LIST_BLOCK_ITEMS", 5)
        ranked = rank_items(
            queries,
            EmbeddingScorer(queries=vectors, items=items),
            top_k=top_k,
            filter_seen=filter_seen,
            batch_size=2,
        )
    products = torch.from_numpy(vectors) @ torch.from_numpy(items).T
    for user, row in enumerate(products.tolist()):
        removed = set(queries.histories[user].tolist()) if filter_seen else set()
        got = ranked[user].tolist()
        allowed = sorted((row[i] for i in range(len(row)) if i not in removed), reverse=True)
        listed = [item for item in got if item != -1]
        assert len(listed) == len(set(listed)) == min(top_k, len(allowed))
        assert not removed & set(listed)
        assert [row[i] for i in listed] == pytest.approx(allowed[: len(listed)], rel=1e-4, abs=1e-5)


def test_scores_may_be_an_array_but_are_no_ranked_lists(unchecked):
    queries = queries_of([[0], [1], [2]], [1, 2, 0], 25)
    scores = np.random.default_rng(0).normal(size=(3, 25))
    of_array, of_tensor = (
        evaluate(queries, lambda histories, made=made: made(scores), ks=(5,))
        for made in (np.copy, torch.from_numpy)
    )
    np.testing.assert_array_equal(of_array.ranks["filtered"], of_tensor.ranks["filtered"])
    with pytest.raises(
        TypeError, match=r"ranked must be int \[users, k\], got int64 of shape \[25\]"
    ):
        evaluate(queries, np.arange(25), ks=(5,))


def test_embeddings_that_cannot_be_ranked_are_refused(unchecked):
    queries = queries_of([[0], [1], [2]], [1, 2, 0], 25)
    generator = torch.Generator().manual_seed(0)
    good, users = (torch.randn(rows, 4, generator=generator) for rows in (25, 3))
    for value, what in ((math.nan, "NaN"), (math.inf, "infinity")):
        bad = good.clone()
        bad[7, 2] = value
        with pytest.raises(ValueError, match=f"items must be finite vectors, got {what} in row 7"):
            EmbeddingScorer(queries=users, items=bad)
        wrong = users.clone()
        wrong[2, 0] = value
        scorer = EmbeddingScorer(queries=wrong, items=good)
        with pytest.raises(ValueError, match=f"queries must be finite .* {what} in row 2"):
            evaluate(queries, scorer, batch_size=2)
    with pytest.raises(
        TypeError, match=r"items must be .* fp32, fp16 or bf16 vectors, got torch.float64"
    ):
        EmbeddingScorer(queries=users, items=good.double())
    with pytest.raises(ValueError, match=r"items must hold vectors, got shape \[25, 0\]"):
        EmbeddingScorer(queries=users, items=good[:, :0])
    with pytest.raises(ValueError, match="must fit fp32, got too large vectors"):
        evaluate(queries, EmbeddingScorer(queries=users * 1e30, items=good * 1e30))
    with pytest.raises(ValueError, match="items must be one vector per item, 25, got 24"):
        evaluate(queries, EmbeddingScorer(queries=users, items=good[:24]))
    with pytest.raises(ValueError, match="queries must be one vector per user, 3, got 2"):
        evaluate(queries, EmbeddingScorer(queries=users[:2], items=good))
    with pytest.raises(ValueError, match="the width and device of items, 4 on cpu, got 3 on cpu"):
        evaluate(queries, EmbeddingScorer(queries=users[:, :3], items=good))
    with pytest.raises(ValueError, match="queries must give one vector a history, 3, got 1"):
        evaluate(queries, EmbeddingScorer(queries=lambda histories: users[:1], items=good))
