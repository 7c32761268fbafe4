"""Exports the generator of a run: two ONNX files, arrays, and beam search in NumPy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from genrec import DecoderStep, HistoryEncoder, SavedModel, Seq2Seq
from numpy.typing import NDArray
from torch.export import Dim

from semrec.shared.exporting import write_onnx

_MEMORY = ("memory", "padding", "newest")


def write_generator(folder: Path, saved: SavedModel, num_beams: int) -> Mapping[str, Any]:
    """Writes encoder.onnx, decoder.onnx, generator.npz and recommend.py.

    Args:
        folder: The folder of the export.
        saved: The generator, on the CPU.
        num_beams: The run's number of beams.

    Returns:
        The entries of export.json for the generator.
    """
    model = saved.model.eval()
    config, trie = model.config, model.trie
    sizes = {
        "num_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "head_dim": config.dim // config.num_heads,
    }
    batch = Dim("batch", min=1)
    history = torch.zeros(2, max(config.history_length, 2), dtype=torch.long)
    encoder = HistoryEncoder(model)
    write_onnx(
        folder / "encoder.onnx",
        encoder,
        (history,),
        shapes=({0: batch, 1: Dim("length", min=1)},),
        inputs=("history",),
        outputs=_MEMORY,
    )
    with torch.no_grad():
        memory = encoder(history)
    past = torch.zeros(2, 3, sizes["num_layers"], 2, sizes["num_heads"], trie.num_levels, 1)
    past = past.expand(*past.shape[:-1], sizes["head_dim"]).contiguous()
    write_onnx(
        folder / "decoder.onnx",
        DecoderStep(model),
        (torch.zeros(2, 3, dtype=torch.long), torch.tensor(0), *memory, past),
        shapes=DecoderStep.dynamic_shapes(),
        inputs=("tokens", "level", *_MEMORY, "past"),
        outputs=("query", "new_past"),
    )
    arrays = {**tree_arrays(model), **graph_arrays(model)}
    arrays["item_ids"] = np.array(saved.item_ids, dtype=np.str_)
    if saved.popularity is not None:
        arrays["counts"] = saved.popularity.numpy()
    np.savez(folder / "generator.npz", **arrays)  # type: ignore[arg-type]
    shutil.copyfile(Path(__file__).with_name("generator.py"), folder / "recommend.py")
    graph, bias = model.item_graph, model.history_bias
    offsets, level_sizes = model.vocabulary.level_offsets, model.vocabulary.level_sizes
    return {
        **sizes,
        "history_length": config.history_length,
        "num_levels": trie.num_levels,
        "num_beams": num_beams,
        "bos": model.vocabulary.bos,
        "scoring": config.scoring,
        "level_tokens": [[low, low + size] for low, size in zip(offsets, level_sizes, strict=True)],
        "history_bias": 0.0 if bias is None else 10 * float(bias.detach()),
        "last_items": 0 if graph is None else graph.last_items,
    }


def tree_arrays(model: Seq2Seq) -> dict[str, NDArray[Any]]:
    """The tree of the codes, each node's token, and the output rows.

    `child_l` and `leaf_l` hold where the children of each node, at level l, and the items below
    each node of level l begin. `tokens_l` holds the token of each node, which is also its row in
    `head`.
    """
    trie = model.trie
    arrays = {
        "leaf_items": trie.leaf_items.numpy(),
        "head": model.tables().head.detach().numpy(),
    }
    for level, size in enumerate(trie.level_sizes):
        nodes = torch.arange(size + 1)
        codes = nodes[:-1]
        if model.config.output_vocabulary == "level":
            codes = trie.node_codes(level, codes)
        arrays[f"child_{level}"] = trie.get_buffer(f"child_{level}").numpy()
        arrays[f"leaf_{level}"] = trie.first_leaf(level, nodes).numpy()
        arrays[f"tokens_{level}"] = (codes + model.vocabulary.level_offsets[level]).numpy()
    return arrays


def graph_arrays(model: Seq2Seq) -> dict[str, NDArray[Any]]:
    """The item graph in compressed rows, and its weights in the logits; empty without a graph."""
    graph, numbers = model.item_graph, model.score_logits
    if graph is None or numbers is None:
        return {}
    arrays = {
        "graph_offsets": graph.offsets,
        "graph_neighbours": graph.neighbours,
        "graph_weights": graph.weights,
        "graph_decays": graph.decays,
        "scale": numbers.scale,
        "weight": 10 * numbers.weight,
        "floor": (10 * numbers.log_floor).exp(),
    }
    priors = torch.split(numbers.popularity * numbers.log_counts, list(model.trie.level_sizes))
    arrays |= {f"prior_{level}": prior for level, prior in enumerate(priors)}
    return {name: array.detach().numpy() for name, array in arrays.items()}
