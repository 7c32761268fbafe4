"""Initial embeddings of the items' tokens: from the codebooks, or near the mean of all words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from semtok.hf.extra import extra_is_needed
from semtok.hf.tokens import ItemTokens
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.quantizers.views import ViewQuantizer
from semtok.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_ALIKE = 1e-5  # relative: smaller differences are rounding errors
_NOISE = 0.01  # share of the spread of the embeddings, for tokens without a vector


def code_vectors(
    quantizer: Quantizer, semantic_ids: SemanticIds
) -> list[Float32[np.ndarray, "_codes _dim"]]:
    """The vector of each code: what it adds to the levels before it, as the mean over items.

    For residual quantizers these are the codebooks; for hierarchical k-means the difference from a
    cluster's centroid to the centroid of the cluster inside it; for product quantizers the
    codebooks, each in its part of the vector.

    Args:
        quantizer: Fitted.
        semantic_ids: The codes that the quantizer chose.

    Returns:
        An array per level; the levels of different views may have vectors of different length.
        Codes that no item has, and the level that numbers collisions, are zeros.

    Raises:
            ValueError: If the codes are not codes of this quantizer.
    """
    vectors = _code_vectors(quantizer, semantic_ids.codes[:, : quantizer.num_levels])
    suffix = semantic_ids.codebook_sizes[quantizer.num_levels :]
    return [*vectors, *(np.zeros((size, 1), dtype=np.float32) for size in suffix)]


def start_embeddings(
    model: PreTrainedModel,
    tokens: ItemTokens,
    *,
    vectors: Sequence[Float[np.ndarray, "_codes _dim"]] | None = None,
    seed: int = 0,
) -> None:
    """Adds embeddings of the items' tokens to a model, and initialises them.

    The input and output embeddings grow as far as the tokens need, and never shrink. The embeddings
    of other tokens do not change. A second call sets the same values.

    The vectors of each level are centred. If their length differs from that of the embeddings, a
    random matrix with orthonormal rows (or columns, if the vectors are longer), drawn from the
    seed, maps them. They are scaled so that their spread around the mean of the model's other
    embeddings equals the spread of those. Tokens without a vector start at that mean plus noise of
    a hundredth of that spread, so that no two are equal. Output embeddings that are not tied to the
    input start from the same vectors, with their own mean and spread; a bias starts at the mean of
    the others.

    Args:
        model: Changed in place.
        tokens: The tokens, already added to the model's tokenizer.
        vectors: An array per level, as from `code_vectors`; None starts all tokens at the mean.
        seed: Draws the matrix and the noise.

    Raises:
        ImportError: If `semtok[hf]` is not installed.
        ValueError: If `vectors` do not fit the tokens, or the model has no input embeddings.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise extra_is_needed("embeddings of a language model", error) from None
    sizes = tokens.semantic_ids.codebook_sizes
    if vectors is not None and not all(np.isfinite(level).all() for level in vectors):
        raise ValueError("vectors must be finite; codes that nothing has may be zeros")
    if vectors is not None and [len(level) for level in vectors] != list(sizes):
        raise ValueError(
            f"vectors must be one per code, an array per level, for the codebook sizes {sizes}, "
            f"got {[len(level) for level in vectors]}"
        )
    num_tokens = int(tokens.token_ids.max()) + 1
    if num_tokens > _weights(model.get_input_embeddings()).shape[0]:
        # The rows in between are drawn from torch's global generator, whose state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.resize_token_embeddings(num_tokens, mean_resizing=False)
    inputs = _weights(model.get_input_embeddings())
    _start(inputs, tokens, vectors, seed)
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if output is None:
        return
    outputs = _weights(output)
    if outputs.data_ptr() != inputs.data_ptr():
        _start(outputs, tokens, vectors, seed)
    bias = getattr(output, "bias", None)
    if bias is not None:
        is_item = _is_item(tokens, len(bias))
        bias.data[torch.from_numpy(is_item)] = bias.data[torch.from_numpy(~is_item)].mean()


def _weights(layer: object) -> Tensor:
    """The weights of an embedding or of a linear layer, [tokens, width]."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        raise ValueError("model must have embeddings with weights")
    table: Tensor = weight.data
    return table


def _is_item(tokens: ItemTokens, num_tokens: int) -> Bool[np.ndarray, " tokens"]:
    """Which tokens are tokens of items."""
    is_item = np.zeros(num_tokens, dtype=np.bool_)
    is_item[tokens.token_ids[tokens.token_ids >= 0]] = True
    return is_item


def _start(
    table: Tensor,
    tokens: ItemTokens,
    vectors: Sequence[Float[np.ndarray, "_codes _dim"]] | None,
    seed: int,
) -> None:
    """Writes the rows of the items' tokens into a table of embeddings."""
    import torch

    others = table[torch.from_numpy(~_is_item(tokens, len(table)))].float().cpu().numpy()
    mean, width = others.mean(axis=0), table.shape[1]
    # The root mean square of a coordinate's distance from the mean.
    spread = float(np.sqrt(np.square(others - mean).mean()))
    generator = np.random.default_rng(seed)
    for level, size in enumerate(tokens.semantic_ids.codebook_sizes):
        offsets = _NOISE * spread * generator.standard_normal((size, width))
        if vectors is not None:
            known = np.abs(vectors[level]).max(axis=1) > 0
            centred = _centred(vectors[level][known])
            if centred is not None:
                offsets[known] = _spread_out(centred, width, spread, seed)
        rows = torch.from_numpy((mean + offsets).astype(np.float32))
        numbers = torch.from_numpy(tokens.token_ids[level, :size]).to(table.device)
        table[numbers] = rows.to(table)


def _centred(vectors: Float[np.ndarray, "codes dim"]) -> Float[np.ndarray, "codes dim"] | None:
    """Centred vectors; None if they are all equal, so that they do not distinguish codes."""
    if len(vectors) == 0:
        return None
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    tells_apart = np.abs(centred).max() > _ALIKE * np.abs(vectors).max()
    return centred if tells_apart else None


def _spread_out(
    centred: Float[np.ndarray, "codes dim"], width: int, spread: float, seed: int
) -> Float[np.ndarray, "codes width"]:
    """Centred vectors, mapped to a width and scaled to a spread."""
    if centred.shape[1] != width:
        centred = centred @ _orthonormal(centred.shape[1], width, seed)
    scaled: np.ndarray = centred * (spread / np.sqrt(np.square(centred).mean()))
    return scaled


def _orthonormal(dim: int, width: int, seed: int) -> Float[np.ndarray, "dim width"]:
    """A random matrix whose rows, or columns if there are fewer, are orthonormal."""
    drawn = np.random.default_rng((seed, dim)).standard_normal((max(dim, width), min(dim, width)))
    columns, _ = np.linalg.qr(drawn)
    return columns if dim >= width else columns.T


def _code_vectors(
    quantizer: Quantizer, codes: Int64[np.ndarray, "items levels"]
) -> list[Float32[np.ndarray, "_codes _dim"]]:
    if isinstance(quantizer, ViewQuantizer):
        vectors, level = [], 0
        for part in quantizer.parts:
            vectors += _code_vectors(part, codes[:, level : level + part.num_levels])
            level += part.num_levels
        return vectors
    if isinstance(quantizer, HierarchicalKMeans):
        codes = quantizer.codes  # codes of later items may not be paths of the tree
    vectors = []
    before = np.zeros((len(codes), quantizer.dim), dtype=np.float32)
    for level, size in enumerate(quantizer.codebook_sizes):
        after = quantizer.decode(codes[:, : level + 1])
        sums = np.zeros((size, quantizer.dim))
        np.add.at(sums, codes[:, level], after - before)
        counts = np.bincount(codes[:, level], minlength=size)
        vectors.append((sums / np.maximum(counts, 1)[:, None]).astype(np.float32))
        before = after
    return vectors
