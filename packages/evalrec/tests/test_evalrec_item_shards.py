from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from evalrec import EmbeddingScorer, ItemShards, Novelty, Queries, evaluate, rank_items
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse


def queries_of(rng: np.random.Generator, users: int, items: int) -> Queries:
    return Queries(
        histories=[rng.integers(items, size=rng.integers(6)) for _ in range(users)],
        targets=rng.integers(items, size=users),
        num_items=items,
        cold=rng.random(users) < 0.1,
    )


def random_shards(rng: np.random.Generator, items: int, count: int) -> list[range]:
    inner = rng.choice(np.arange(1, items), size=min(count, items) - 1, replace=False)
    ends = [0, *sorted(inner.tolist()), items]
    return [range(start, end) for start, end in pairwise(ends)]


def plain_ranks(scores: np.ndarray, queries: Queries) -> dict[str, list[int]]:
    """Sorting each row in plain Python, the target last among equals."""
    ranks: dict[str, list[int]] = {"unfiltered": [], "filtered": []}
    for row, history, target in zip(scores, queries.histories, queries.targets, strict=True):
        before = [item for item, score in enumerate(row) if score >= row[target]]
        ranks["unfiltered"].append(len(before))
        unseen = [item for item in before if item not in set(history.tolist())]
        is_seen = target in history
        ranks["filtered"].append(queries.num_items + 1 if is_seen else len(unseen))
    return ranks


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(2, 60),
    count=st.integers(1, 6),
    levels=st.sampled_from([1, 3, 1000]),
    kind=st.sampled_from(["function", "table", "sparse", "vectors", "mixed"]),
    width=st.sampled_from([np.float32, np.float64]),
)
def test_shards_give_the_report_of_the_whole(
    seed: int, items: int, count: int, levels: int, kind: str, width: type
) -> None:
    rng = np.random.default_rng(seed)
    users = 9
    queries = queries_of(rng, users, items)
    # Few levels: ties everywhere. Small whole numbers, so that products are exact in any block.
    vectors = rng.integers(levels, size=(users, 3)).astype(np.float32)
    table = rng.integers(levels, size=(items, 3)).astype(np.float32)
    scores = (vectors @ table.T).astype(width)
    place = {tuple(history.tolist()): [] for history in queries.histories}
    for row, history in enumerate(queries.histories):
        place[tuple(history.tolist())].append(row)
    if kind in ("function", "mixed"):  # a function knows users by their histories alone
        for rows in place.values():
            vectors[rows], scores[rows] = vectors[rows[0]], scores[rows[0]]

    def model(part: range, number: int):
        mine = scores[:, part.start : part.stop]
        chosen = ("function", "table", "vectors")[number % 3] if kind == "mixed" else kind
        if chosen == "vectors":
            return EmbeddingScorer(queries=vectors, items=table[part.start : part.stop])
        if chosen == "sparse":
            return sparse.csr_array(mine)
        if chosen == "table":
            return mine
        return lambda histories: mine[[place[tuple(h.tolist())][0] for h in histories]]

    dense = scores.copy()
    if kind == "sparse":  # what is not stored is minus infinity
        dense[dense == 0] = -np.inf
    options = {
        "ks": (1, min(5, items)),
        "lists": True,
        "codes": rng.integers(3, size=(items, 1)),
        "item_counts": np.arange(items),
        "list_metrics": [Novelty(np.arange(items) + 1, num_users=200)],
    }
    shards = random_shards(rng, items, count)
    sharded = ItemShards({part: model(part, number) for number, part in enumerate(shards)})
    report = evaluate(queries, sharded, batch_size=4, **options)
    assert report.to_json() == evaluate(queries, dense, **options).to_json()
    for mode, ranks in plain_ranks(dense, queries).items():
        assert report.ranks[mode].tolist() == ranks
    top_k = min(7, items)
    lists = rank_items(queries, sharded, top_k=top_k, filter_seen=True)
    for row, history, best in zip(dense, queries.histories, lists, strict=True):
        order = np.argsort(-row, kind="stable")
        wanted = [i for i in order.tolist() if i not in set(history.tolist()) and row[i] > -np.inf]
        assert best.tolist() == (wanted + [-1] * top_k)[:top_k]


def test_vectors_in_shards_rank_near_ties_as_the_whole_does() -> None:
    rng = np.random.default_rng(0)
    items, users = 5000, 40
    queries = queries_of(rng, users, items)
    vectors = rng.normal(size=(users, 33)).astype(np.float32)
    table = rng.normal(size=(items, 33)).astype(np.float32)
    table[2500:] = table[:2500]  # each item has a copy, in the other half
    whole = evaluate(queries, EmbeddingScorer(queries=vectors, items=table))
    for ends in ([0, 2500, 5000], [0, 1, 777, 4999, 5000]):
        models = {
            range(start, end): EmbeddingScorer(queries=vectors, items=table[start:end])
            for start, end in pairwise(ends)
        }
        assert evaluate(queries, ItemShards(models)).to_json() == whole.to_json()
    assert (whole.ranks["unfiltered"] >= 2).all()  # the copy stands before the target


def test_bad_shards_are_refused() -> None:
    queries = queries_of(np.random.default_rng(0), 3, 10)
    scores = np.zeros((3, 10), dtype=np.float32)
    with pytest.raises(ValueError, match="models must hold at least one shard, got none"):
        ItemShards({})
    with pytest.raises(ValueError, match=r"runs of item rows.*got range\(0, 10, 2\)"):
        ItemShards({range(0, 10, 2): scores[:, ::2]})
    with pytest.raises(ValueError, match=r"runs of item rows.*got range\(-1, 10\)"):
        ItemShards({range(-1, 10): scores})
    for bounds in ([(0, 4), (5, 10)], [(0, 6), (5, 10)], [(0, 9)], [(0, 10), (10, 11)], [(1, 10)]):
        shards = {range(*ends): np.zeros((3, ends[1] - ends[0])) for ends in bounds}
        with pytest.raises(ValueError, match="shards must hold each of 10 items once"):
            evaluate(queries, ItemShards(shards), ks=(5,))
    narrow = {range(0, 4): scores[:, :3], range(4, 10): scores[:, 4:]}
    with pytest.raises(ValueError, match=r"\[users, items\] = \[3, 4\], got shape \[3, 3\]"):
        evaluate(queries, ItemShards(narrow), ks=(5,))
    wrong = {range(0, 4): lambda histories: scores[: len(histories)], range(4, 10): scores[:, 4:]}
    with pytest.raises(ValueError, match=r"\[batch, items\] = \[3, 4\]"):
        evaluate(queries, ItemShards(wrong), ks=(5,))
    vectors = EmbeddingScorer(queries=np.ones((3, 2), "f"), items=np.ones((5, 2), "f"))
    with pytest.raises(ValueError, match="items must be one vector per item, 4, got 5"):
        evaluate(queries, ItemShards({range(0, 4): vectors, range(4, 10): scores[:, 4:]}), ks=(5,))


WORKER = """
import json, sys
from datetime import timedelta
import torch, torch.distributed as dist
from problem import evaluations, halves

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo",
    init_method=f"file://{folder}/meeting",
    rank=rank,
    world_size=2,
    timeout=timedelta(seconds=60),
)
said = {"documents": evaluations(halves[rank])}
for name, options in {
    "broken": {"fail": rank == 1},
    "overlapping": {"overlap": rank == 1},
}.items():
    try:
        evaluations(halves[rank], **options)
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(said, file)
dist.destroy_process_group()
"""

PROBLEM = """
import numpy as np
import torch
from evalrec import EmbeddingScorer, ItemShards, Queries, evaluate, rank_items

items = 90
halves = [[range(0, 20), range(70, 90)], [range(20, 70)]]


def evaluations(parts, fail=False, overlap=False):
    rng = np.random.default_rng(0)
    users = 53
    queries = Queries(
        histories=list(rng.integers(items, size=(users, 4))),
        targets=rng.integers(items, size=users),
        num_items=items,
        cold=rng.random(users) < 0.1,
    )
    vectors = rng.integers(3, size=(users, 8)).astype(np.float32)
    table = rng.integers(3, size=(items, 8)).astype(np.float32)
    weights = torch.from_numpy(rng.integers(5, size=(items, items)).astype(np.float32))
    options = {
        "lists": True,
        "codes": np.arange(items)[:, None] // 2,
        "item_counts": rng.integers(9, size=items),
        "batch_size": 5,
    }

    def function(part):
        def score(histories):
            if fail:
                raise FloatingPointError("the model broke")
            rows = [weights[torch.from_numpy(h)].sum(dim=0) for h in histories]
            return torch.stack(rows)[:, part.start : part.stop]

        return score

    def embedded(part):
        return EmbeddingScorer(queries=vectors, items=table[part.start : part.stop])

    if parts is None:
        models = [function(range(items)), embedded(range(items))]
    else:
        shards = [*parts, range(0, 1)] if overlap else parts
        models = [ItemShards({p: make(p) for p in shards}) for make in (function, embedded)]
    reports = [evaluate(queries, model, **options).to_json() for model in models]
    lists = [rank_items(queries, model, top_k=30, filter_seen=True) for model in models]
    return [*reports, *(ranked.tolist() for ranked in lists)]
"""


@pytest.mark.slow
def test_two_processes_with_some_items_each_agree_with_one_that_has_all(
    two_processes: Callable[[str, str], list[dict]],
) -> None:
    first, second = two_processes(PROBLEM, WORKER)
    scope: dict[str, object] = {}
    exec(PROBLEM, scope)
    whole = json.loads(json.dumps(scope["evaluations"](None)))  # type: ignore[operator]
    assert first["documents"] == second["documents"] == whole
    assert second["broken"] == "FloatingPointError: the model broke"
    assert first["broken"].startswith("RuntimeError: the evaluation failed in another process")
    assert first["overlapping"] == second["overlapping"]
    assert "shards must hold each of 90 items once" in first["overlapping"]


def test_ties_in_lists_stand_in_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    queries = queries_of(rng, 30, 4000)
    scores = torch.from_numpy(rng.integers(3, size=(30, 4000)).astype(np.float32))
    lists = rank_items(queries, scores, top_k=50)
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :50]
    np.testing.assert_array_equal(lists, expected.numpy())
