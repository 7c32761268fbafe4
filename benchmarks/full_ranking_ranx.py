"""The ranx peer of full_ranking.py, run by the Python of an environment that has ranx.

numpy selects each user's 20 best items, so ranx ranks only these.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from ranx import Qrels, Run, evaluate

K = 20
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (5, 10, K)]


def measure(users: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Scores, the best items, ranx's containers, ranx's metrics."""
    run = {}
    step = max(16, 2**22 // len(items))
    for start in range(0, len(users), step):
        scores = users[start : start + step] @ items.T
        best = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        values = np.take_along_axis(scores, best, axis=1)
        for user, (places, row) in enumerate(zip(best.tolist(), values.tolist(), strict=True)):
            run[str(start + user)] = dict(zip(map(str, places), row, strict=True))
    qrels = Qrels({str(user): {str(target): 1} for user, target in enumerate(targets.tolist())})
    return evaluate(qrels, Run(run), METRICS)


def main() -> None:
    """Runs once, so that numba compiles its functions; then times."""
    folder = Path(sys.argv[1])
    users, items, targets = (np.load(folder / f"{n}.npy") for n in ("users", "items", "targets"))
    measure(users[:2], items, targets[:2])
    start = time.perf_counter()
    values = measure(users, items, targets)
    seconds = time.perf_counter() - start
    print(json.dumps({**{name: float(values[name]) for name in METRICS}, "seconds": seconds}))


if __name__ == "__main__":
    main()
