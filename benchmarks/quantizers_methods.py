"""One method of `quantizers.py --items`, which starts it in its own process.

    .venv/bin/python benchmarks/quantizers_methods.py METHOD FILE.npy

Prints one line of JSON: seconds and CPU seconds of fitting and of encoding, the growth of the
process's memory after it has opened the file, the distortion on a sample, and the number of
floating-point operations for the distances.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from semtok import QUANTIZERS

CODES, SAMPLE, ITERATIONS, BALANCING = 256, 256 * 256, 25, 5
OURS = ("hierarchical", "balanced", "pq", "opq", "rq", "rq, 4 beams", "rqvae, 1 epoch", "random")
PEERS = ("faiss recursion", "scikit-learn recursion", "faiss PQ", "faiss RQ, 1 beam", "vqp RQ")
OPTIONS: dict[str, dict[str, Any]] = {
    "balanced": {"balanced": True},
    "rq, 4 beams": {"num_beams": 4},
    "rqvae, 1 epoch": {"epochs": 1},
}


def memory(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def recursion(x: np.ndarray, split: Callable[[np.ndarray], np.ndarray]) -> int:
    """Plain breadth-first recursion over a k-means; returns how many clusters were split."""
    queue, splits = [np.arange(len(x))], 0
    while queue:
        rows = queue.pop()
        if len(rows) <= CODES:
            continue
        labels = split(x[rows])
        splits += 1
        queue += [rows[labels == code] for code in range(CODES)]
    return splits


def faiss_split(x: np.ndarray) -> np.ndarray:
    """k-means of faiss, called directly."""
    kmeans = faiss.Kmeans(x.shape[1], CODES, niter=ITERATIONS, seed=0, min_points_per_centroid=1)
    kmeans.train(x)
    return kmeans.index.search(x, 1)[1][:, 0]


def sklearn_split(x: np.ndarray) -> np.ndarray:
    """MiniBatchKMeans of scikit-learn with its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(CODES, random_state=0, n_init=1).fit(x).labels_


def tree_flops(codes: np.ndarray, dim: int, rounds: int) -> float:
    """Operations for the splits of such a tree: the samples `rounds` times, all rows once."""
    total, keys = 0.0, np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        sizes = np.unique(keys, return_counts=True)[1]
        sizes = sizes[sizes > CODES]
        total += float((np.minimum(sizes, SAMPLE) * rounds + sizes).sum()) * 2 * CODES * dim
        keys = keys * CODES + codes[:, level]
    return total


def ours(name: str, x: np.ndarray, clock: Callable[[], None]) -> dict[str, Any]:
    """One of semtok's quantizers."""
    kind = QUANTIZERS["hierarchical" if name == "balanced" else name.partition(",")[0]]
    quantizer = kind.fit(x, **OPTIONS.get(name, {}))
    clock()
    if name in ("hierarchical", "balanced"):  # fitted items already have codes
        rounds = ITERATIONS + (BALANCING if name == "balanced" else 0)
        flops = tree_flops(quantizer.codes, x.shape[1], rounds)
        return {"fit_flops": flops, "levels": quantizer.num_levels}
    codes = quantizer.encode(x)
    clock()
    counts = [len(np.unique(codes[:, level])) for level in range(codes.shape[1])]
    distortion = quantizer.distortion(x[:: max(1, len(x) // 20_000)])[-1]
    flops = 0.0
    if name in ("pq", "rq"):
        flops = 2.0 * len(x) * CODES * x.shape[1] * (1 if name == "pq" else codes.shape[1])
    return {"used": counts, "distortion": distortion, "encode_flops": flops}


def vqp(x: np.ndarray, clock: Callable[[], None]) -> dict[str, Any]:
    """ResidualVQ of vector-quantize-pytorch, trained for one epoch."""
    import torch
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(0)
    model = ResidualVQ(
        dim=x.shape[1], num_quantizers=3, codebook_size=CODES, kmeans_init=True, decay=0.95
    )
    order = torch.randperm(len(x)).numpy()
    for start in range(0, len(x), 1024):
        model(torch.from_numpy(x[order[start : start + 1024]]))
    clock()
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(x), 8192):
            part = torch.from_numpy(np.array(x[start : start + 8192]))
            total += float((part - model(part)[0]).square().sum())
    clock()
    return {"distortion": total / len(x)}


def peer(name: str, x: np.ndarray, clock: Callable[[], None]) -> dict[str, Any]:
    """One of the plain alternatives."""
    if name == "vqp RQ":
        return vqp(x, clock)
    if name.endswith("recursion"):
        splits = recursion(x, faiss_split if name.startswith("faiss") else sklearn_split)
        clock()
        return {"splits": splits}
    dim = x.shape[1]
    quantizer: Any
    if name == "faiss PQ":
        quantizer = faiss.ProductQuantizer(dim, 4, 8)
    else:
        quantizer = faiss.ResidualQuantizer(dim, 3, 8)
        quantizer.max_beam_size = 1
    quantizer.train(x)
    clock()
    codes = quantizer.compute_codes(x)
    clock()
    some = slice(None, None, max(1, len(x) // 20_000))
    gaps = x[some] - quantizer.decode(codes[some])
    return {"distortion": float(np.einsum("nd,nd->n", gaps, gaps).mean())}


def main() -> None:
    """Runs one method and prints its times and memory."""
    name, path = sys.argv[1], Path(sys.argv[2])
    if name in ("vqp RQ", "rqvae, 1 epoch"):
        import torch
        import vector_quantize_pytorch  # noqa: F401

        torch.nn.functional.linear(torch.zeros(64, 64), torch.zeros(64, 64))
    faiss.Kmeans(8, 4, niter=1).train(np.random.default_rng(0).random((200, 8), dtype=np.float32))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts from here
    x = np.load(path, mmap_mode="r")
    times = [(time.perf_counter(), time.process_time())]
    run = ours if name in OURS else peer
    result = run(name, x, lambda: times.append((time.perf_counter(), time.process_time())))
    peak = memory("VmHWM") - before
    result |= {"method": name, "peak": peak / x.nbytes, "peak_gib": peak / 2**30}
    for step, (start, end) in zip(("fit", "encode"), pairwise(times), strict=False):
        result[step], result[f"{step}_cpu"] = end[0] - start[0], end[1] - start[1]
    print(json.dumps(result), flush=True)
    os._exit(0)  # nothing to tidy up, and gigabytes that need not be


if __name__ == "__main__":
    main()
