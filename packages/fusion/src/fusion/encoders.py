"""Content encoders, trained with the model that reads them: an item's content to one vector.

Training a pretrained network within a recommender is dear in memory. What brings the price down
here, together or apart: each chunk of items of similar length passes the network alone; a chunk's
activations are computed again on the way back instead of kept; bf16; and only the last layers are
trained, or low-rank adapters. Whoever calls an encoder asks for each distinct item once.
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
"""What of a network is trained: all of it, its last layers, or adapters of its attention."""

Precision = Literal["fp32", "bf16"]
"""What a network computes in."""

_SAMPLE = 256  # items of which the features' mean and scale are taken
_ADAPTED = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

M = TypeVar("M", bound=nn.Module)
E = TypeVar("E", bound="ContentEncoder")  # not `Self`, which the checks in tests do not take


class VectorTable(nn.Module):
    """One fixed vector an item: what is left of a content encoder once it is trained.

    Args:
        vectors: Row i for item i; kept in the weights.
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
        """The vectors of the items in `rows`, or of all."""
        return self.vectors if rows is None else self.vectors[rows]


class ContentEncoder(nn.Module):
    """Items' content through a pretrained network and a linear layer, both trained.

    A subclass says what the network reads of an item, `inputs`, and how it embeds that, `embed`;
    its constructor ends with `add_projection`, which needs both.

    Between the network and the linear layer, features are brought to mean 0 and unit variance by
    figures taken from the catalogue before training, so that training starts as it does from stored
    embeddings.

    Batch normalisation keeps its pretrained statistics, and what is frozen has no dropout: an
    item's vector does not depend on the items that are encoded beside it.

    Args:
        network: What `embed` uses.
        layers: Its layers, from input to output.
        lengths: How much there is to compute for each item, such as its tokens.
        trained: As `restrict` takes it, and so the next two.
        trained_layers: How many layers are trained, for "layers".
        lora_rank: Rank of the adapters, for "lora".
        checkpointing: Whether a chunk's activations are computed again for its gradients instead of
            kept: memory for one chunk instead of all, at the price of a second forward pass.
        precision: "fp32", or "bf16" for autocast, which pays only where the hardware has it.
        batch_items: Items that pass the network together; the chunk.

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
        """Adds the linear layer and the figures before it: the last step of a constructor.

        The figures are those of up to 256 items, evenly spread over the catalogue, which pass the
        network for it.

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
        """What the network reads of items of similar length, each tensor with a row an item."""
        raise NotImplementedError

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """The network's embeddings of what `inputs` returns."""
        raise NotImplementedError

    def features(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows feature_dim"]:
        """The network's embeddings of the items in `rows`, chunk by chunk."""
        order = self.lengths[rows].argsort(stable=True)  # [rows], short items first
        chunks = [self._chunk(part) for part in torch.split(rows[order], self.batch_items)]
        by_length = torch.cat(chunks)  # [rows, feature_dim]
        return torch.zeros_like(by_length).index_copy(0, order, by_length)  # as in `rows` again

    def forward(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of the items in `rows`, or of all; see `precomputed` for those of all."""
        if rows is None:
            rows = torch.arange(self.num_items, device=self.lengths.device)
        vectors: Tensor = self.projection((self.features(rows) - self.mean) / self.scale)
        return vectors

    def train(self: E, mode: bool = True) -> E:
        """Switches to training, but for what is frozen."""
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
    """A frozen matrix, and added to it a trained product of two narrow ones.

    LoRA: Hu et al., Low-Rank Adaptation of Large Language Models, ICLR 2022, eq. 3, with alpha = r.
    B starts at zero, so that training starts from the matrix as it was.

    Args:
        out_dim: Rows of the matrix W.
        in_dim: Its columns.
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
    """Freezes what of a network is not to be trained; for "lora", puts adapters into it.

    Adapted are the matrices that make queries and values; where one matrix makes the keys too, as
    in open_clip's models, all of it.

    Args:
        network: A pretrained network; it is changed.
        layers: Its layers, from input to output.
        trained: "all" of the network; its last "layers" alone, all before them frozen and without
            activations kept; or adapters, "lora", of the attention of its otherwise frozen layers.
        trained_layers: How many, for "layers": of a transformer's layers, or a ResNet's 4 stages.
        lora_rank: Rank of the adapters, for "lora".

    Raises:
        ValueError: A parameter is out of range, or the network has fewer layers, or no attention
            for adapters.
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
        if name.rpartition(".")[2] == "pooler":  # BERT's, of which embeddings make no use
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
    """A copy of a model whose content encoders are tables of what they say of each item now.

    For all that needs many items' vectors and no gradients: validation, tests, the model that is
    kept. The encoders run over the catalogue once. A model without encoders is returned as it is.

    Args:
        model: Any module; it is left as it is.

    Returns:
        The copy, in evaluation mode, with a `VectorTable` in place of each `ContentEncoder`.
    """
    # What `deepcopy` finds in its memo it takes for a copy that is made already: so the networks,
    # large as they are, are never copied.
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
