"""Content encoders map an item's content to a vector and are trained together with the recommender.

Training a pretrained network inside a recommender needs much memory. Four measures reduce it, and
each can be used alone: items pass the network in chunks of similar length; a chunk's activations
are not kept but computed again in the backward pass; the network computes in bf16; and only the
last layers are trained, or low-rank adapters. Call an encoder once for each distinct item.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

Trained = Literal["all", "layers", "lora"]
"""Which part of a network is trained: all of it, its last layers, or adapters of its attention."""

Precision = Literal["fp32", "bf16"]
"""The number format in which a network computes."""

_SAMPLE = 256  # items from which the mean and the scale of the features are computed
_ADAPTED = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

M = TypeVar("M", bound=nn.Module)
E = TypeVar("E", bound="ContentEncoder")  # not `Self`: the tests' checks do not support it


class VectorTable(nn.Module):
    """One fixed vector per item; it replaces a content encoder after training.

    Args:
        vectors: Row i is the vector of item i; the rows are saved with the weights.
    """

    vectors: Tensor

    def __init__(self, vectors: Float[Tensor, "items dim"]) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.vectors)

    def forward(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of the items in `rows`, or of all items."""
        return self.vectors if rows is None else self.vectors[rows]


class ContentEncoder(nn.Module):
    """Encodes items' content by a pretrained network and a linear layer; both are trained.

    A subclass defines two methods: `inputs` returns what the network reads of an item, and `embed`
    computes the embeddings from this. The subclass's constructor ends with a call of
    `add_projection`, which needs both methods.

    Between the network and the linear layer, features are scaled to mean 0 and unit variance. The
    mean and the scale are computed from the catalogue before training, so training starts as it
    does from stored embeddings.

    Batch normalisation keeps its pretrained statistics, and frozen modules have no dropout: an
    item's vector does not depend on the other items of its batch.

    Args:
        network: The network that `embed` calls.
        layers: Its layers, from input to output.
        lengths: Size of each item's input, such as its number of tokens.
        trained: See `restrict`, also for the next two arguments.
        trained_layers: How many layers are trained, for "layers".
        lora_rank: Rank of the adapters, for "lora".
        checkpointing: Whether a chunk's activations are computed again in the backward pass instead
            of kept: memory for one chunk instead of all, at the cost of a second forward pass.
        precision: "fp32", or "bf16" for autocast, which is faster only on hardware that supports
            it.
        batch_items: Number of items that pass the network together, as one chunk.

    Raises:
        ValueError: There is no item, a parameter is out of range, or `trained` does not suit the
            network.
    """

    lengths: Tensor
    mean: Tensor
    scale: Tensor
    projection: nn.Linear

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[nn.Module],
        lengths: Int[Tensor, " items"],
        *,
        trained: Trained = "all",
        trained_layers: int = 2,
        lora_rank: int = 8,
        checkpointing: bool = True,
        precision: Precision = "fp32",
        batch_items: int = 64,
    ) -> None:
        super().__init__()
        if not len(lengths):
            raise ValueError("lengths must have at least 1 item, got 0")
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
        if batch_items < 1:
            raise ValueError(f"batch_items must be at least 1, got {batch_items}")
        self.network = network
        self.checkpointing = checkpointing
        self.precision = precision
        self.batch_items = batch_items
        self.num_items = len(lengths)
        self.register_buffer("lengths", lengths, persistent=False)
        restrict(
            network, layers, trained=trained, trained_layers=trained_layers, lora_rank=lora_rank
        )

    def add_projection(self, dim: int) -> None:
        """Adds the linear layer and the scaling before it: the last step of a constructor.

        The mean and the scale are computed from the features of up to 256 items, evenly spread over
        the catalogue; these items pass the network once.

        Args:
            dim: Width of the vectors.

        Raises:
            ValueError: `dim` is less than 1.
        """
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.eval()
        sample = torch.linspace(0, self.num_items - 1, min(_SAMPLE, self.num_items)).long()
        with torch.no_grad():
            features = self.features(sample)
        mean = features.mean(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", (features - mean).square().mean().sqrt().clamp(min=1e-6))
        self.projection = nn.Linear(features.shape[1], dim)
        nn.init.normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)
        self.train()

    def inputs(self, rows: Int[Tensor, " rows"]) -> tuple[Tensor, ...]:
        """The network's inputs for items of similar length, each tensor with one row per item."""
        raise NotImplementedError

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """The network's embeddings for the tensors that `inputs` returns."""
        raise NotImplementedError

    def features(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows feature_dim"]:
        """The network's embeddings of the items in `rows`, computed chunk by chunk."""
        order = self.lengths[rows].argsort(stable=True)  # [rows], short items first
        chunks = [self._chunk(part) for part in torch.split(rows[order], self.batch_items)]
        by_length = torch.cat(chunks)  # [rows, feature_dim]
        return torch.zeros_like(by_length).index_copy(0, order, by_length)  # in the order of `rows`

    def forward(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of the items in `rows`, or of all items (then see `precomputed` too)."""
        if rows is None:
            rows = torch.arange(self.num_items, device=self.lengths.device)
        vectors: Tensor = self.projection((self.features(rows) - self.mean) / self.scale)
        return vectors

    def train(self: E, mode: bool = True) -> E:
        """Switches to training mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self.network.modules():
            parameters = list(module.parameters())
            frozen = parameters and not any(p.requires_grad for p in parameters)
            if frozen or isinstance(module, _BATCH_NORMS):
                module.eval()
        return self

    @property
    def counts(self) -> dict[str, int]:
        """How many parameters are "trained" and how many "frozen"."""
        counts = {"trained": 0, "frozen": 0}
        for parameter in self.parameters():
            counts["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
        return counts

    def _chunk(self, rows: Tensor) -> Tensor:
        inputs = self.inputs(rows)
        if self.checkpointing and torch.is_grad_enabled():
            features: Tensor = checkpoint(self._run, *inputs, use_reentrant=False)
            return features
        return self._run(*inputs)

    def _run(self, *inputs: Tensor) -> Tensor:
        bf16 = self.precision == "bf16"
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bf16):
            return self.embed(*inputs).float()


class Adapted(nn.Module):
    """A frozen matrix plus the product of two trained narrow matrices.

    LoRA: Hu et al., Low-Rank Adaptation of Large Language Models, ICLR 2022, eq. 3, with alpha = r.
    B starts at zero, so training starts from the unchanged matrix.

    Args:
        out_dim: Number of rows of the matrix W.
        in_dim: Number of columns of W.
        rank: Width r between A and B.

    Raises:
        ValueError: `rank` is less than 1.
    """

    def __init__(self, out_dim: int, in_dim: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.down = nn.Parameter(torch.empty(rank, in_dim))
        self.up = nn.Parameter(torch.zeros(out_dim, rank))
        nn.init.normal_(self.down, std=in_dim**-0.5)

    def forward(self, weight: Float[Tensor, "out_dim in_dim"]) -> Float[Tensor, "out_dim in_dim"]:
        """W + B A."""
        return weight + self.up @ self.down  # [out_dim, rank] @ [rank, in_dim]


def restrict(
    network: nn.Module,
    layers: Sequence[nn.Module],
    *,
    trained: Trained = "all",
    trained_layers: int = 2,
    lora_rank: int = 8,
) -> None:
    """Freezes the parts of a network that are not trained; for "lora", adds adapters to it.

    Adapters are put on the matrices that make queries and values. If one matrix makes queries, keys
    and values, as in open_clip's models, the whole matrix is adapted.

    Args:
        network: A pretrained network; it is changed in place.
        layers: Its layers, from input to output.
        trained: "all": the whole network. "layers": only its last layers; the layers before them
            are frozen and keep no activations. "lora": only adapters of the attention.
        trained_layers: For "layers", how many of a transformer's layers or a ResNet's 4 stages.
        lora_rank: Rank of the adapters, for "lora".

    Raises:
        ValueError: A parameter is out of range, the network has fewer than `trained_layers` layers,
            or "lora" finds no attention to adapt.
    """
    if trained not in get_args(Trained):
        raise ValueError(f"trained must be one of {get_args(Trained)}, got {trained!r}")
    if trained_layers < 1:
        raise ValueError(f"trained_layers must be at least 1, got {trained_layers}")
    if lora_rank < 1:
        raise ValueError(f"lora_rank must be at least 1, got {lora_rank}")
    network.requires_grad_(trained == "all")
    if trained == "layers":
        if trained_layers > len(layers):
            raise ValueError(
                f"trained_layers must be at most {len(layers)}, the layers of this encoder, "
                f"got {trained_layers}"
            )
        for layer in layers[-trained_layers:]:
            layer.requires_grad_(True)
    elif trained == "lora":
        _adapt(layers, lora_rank)
    for name, module in network.named_modules():
        if name.rpartition(".")[2] == "pooler":  # BERT's pooler, which embeddings do not use
            module.requires_grad_(False)


def _adapt(layers: Sequence[nn.Module], rank: int) -> None:
    """Puts an adapter on each matrix of the layers' attention that makes queries or values."""
    matrices = [
        (module, "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight")
        for layer in layers
        for name, module in layer.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        or (isinstance(module, nn.Linear) and name.rpartition(".")[2] in _ADAPTED)
    ]
    if not matrices:
        raise ValueError(
            "trained must be 'all' or 'layers' for this encoder, got 'lora': it has no "
            "attention to adapt"
        )
    for module, name in matrices:
        out_dim, in_dim = getattr(module, name).shape
        register_parametrization(module, name, Adapted(out_dim, in_dim, rank))


@torch.no_grad()
def precomputed(model: M) -> M:
    """A copy of a model in which a table of the current vectors replaces each content encoder.

    Use it where many items' vectors are needed without gradients: for validation, tests and the
    saved model. Each encoder encodes the catalogue once. A model without encoders is returned
    itself, not a copy.

    Args:
        model: Any module; it is not changed.

    Returns:
        The copy, in evaluation mode, with a `VectorTable` in place of each `ContentEncoder`.
    """
    # `deepcopy` takes an object from its memo instead of copying it, so the large networks are
    # never copied.
    memo: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, ContentEncoder):
            training = module.training
            memo[id(module)] = VectorTable(module.eval()())
            module.train(training)
    return copy.deepcopy(model, memo).eval() if memo else model


def encoder_counts(model: nn.Module) -> dict[str, int]:
    """How many parameters of a model's content encoders are "trained" and how many "frozen"."""
    counts = {"trained": 0, "frozen": 0}
    for module in model.modules():
        if isinstance(module, ContentEncoder):
            for name, count in module.counts.items():
                counts[name] += count
    return counts
