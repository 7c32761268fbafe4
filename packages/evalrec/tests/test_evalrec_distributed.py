from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from evalrec import EmbeddingScorer, Queries, evaluate
from evalrec.distributed import add_up, alone, shard, together

WORKER = """
import json, sys
from datetime import timedelta
import torch, torch.distributed as dist
from problem import evaluations

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo",
    init_method=f"file://{folder}/meeting",
    rank=rank,
    world_size=2,
    timeout=timedelta(seconds=60),
)
documents, scored = evaluations()
failure = ""
try:
    evaluations(fail=rank == 1)
except Exception as error:
    failure = f"{type(error).__name__}: {error}"
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump({"documents": documents, "scored": scored, "failure": failure}, file)
dist.destroy_process_group()
"""

PROBLEM = """
import numpy as np
import torch
from evalrec import EmbeddingScorer, Queries, evaluate


def evaluations(fail=False):
    rng = np.random.default_rng(0)
    users, items = 53, 90
    queries = Queries(
        histories=list(rng.integers(items, size=(users, 4))),
        targets=rng.integers(items, size=users),
        num_items=items,
        cold=rng.random(users) < 0.1,
    )
    vectors = torch.from_numpy(rng.normal(size=(users, 8)).astype(np.float32))
    table = torch.from_numpy(rng.normal(size=(items, 8)).astype(np.float32))
    weights = torch.from_numpy(rng.normal(size=(items, items)).astype(np.float32))
    scored = 0

    def score(histories):
        nonlocal scored
        if fail:
            raise FloatingPointError("the model broke")
        scored += len(histories)
        return torch.stack([weights[torch.from_numpy(h)].sum(dim=0) for h in histories])

    options = {
        "lists": True,
        "codes": np.arange(items)[:, None] // 2,
        "item_counts": rng.integers(9, size=items),
        "batch_size": 5,
    }
    documents = [
        evaluate(queries, model, **options).to_json()
        for model in (score, EmbeddingScorer(queries=vectors, items=table))
    ]
    return documents, scored
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree_with_one(two_processes):
    first, second = two_processes(PROBLEM, WORKER)
    scope: dict[str, object] = {}
    exec(PROBLEM, scope)
    documents, scored = scope["evaluations"]()
    assert first["documents"] == second["documents"] == json.loads(json.dumps(documents))
    assert (first["scored"], second["scored"], scored) == (28, 25, 53)
    assert second["failure"] == "FloatingPointError: the model broke"
    assert first["failure"].startswith("RuntimeError: the evaluation failed in another process")


def test_one_process_has_all_of_the_work():
    assert shard() == (0, 1)
    share = np.arange(3)
    assert add_up([share])[0] is share
    with pytest.raises(KeyError), together():
        raise KeyError


def test_alone_a_process_of_a_group_has_all_of_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert shard() == (1, 2)
    share = np.arange(3)
    with alone():
        assert shard() == (0, 1)
        assert add_up([share])[0] is share
    assert shard() == (1, 2)


def test_embeddings_may_require_gradients():
    queries = Queries(
        histories=[np.array([0])], targets=np.array([1]), num_items=3, cold=np.zeros(1, dtype=bool)
    )
    items = torch.nn.Parameter(torch.eye(3))
    scorer = EmbeddingScorer(queries=lambda histories: items[1:2] * 2, items=items)
    assert evaluate(queries, scorer, ks=(1,)).ranks["filtered"].tolist() == [1]
