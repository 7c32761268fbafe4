"""Content encoders that are fine-tuned within TSSR: each item's text or image, to one vector.

The paper trains them end to end and names the price, 120 GB on one of its image sets. What brings
it down here, together or apart: each distinct item of a batch is encoded once, in chunks of similar
length; a chunk's activations are computed again on the way back instead of kept; bf16; and only the
last layers are trained, or low-rank adapters, the remedy that the paper names.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

_SAMPLE = 256  # items of which the features' mean and scale are taken
_ADAPTED = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How content encoders are trained within the model, and at what cost in memory.

    They share the model's learning rate: the paper's 1e-4 for all suits pretrained networks too,
    the 1e-3 that suits stored embeddings does not.

    Attributes:
        trained: "all" of the network; its last "layers" alone, all before them frozen and without
            activations kept; or adapters, "lora", of the attention of its otherwise frozen layers.
        trained_layers: How many, for "layers": of a transformer's layers, or a ResNet's 4 stages.
        lora_rank: Of the adapters, for "lora".
        checkpointing: Whether a chunk's activations are computed again for its gradients instead of
            kept: memory for one chunk instead of all, at the price of a second forward pass.
        precision: "fp32", or "bf16" for autocast, which pays only where the hardware has it.
        max_length: Tokens of a text; what exceeds them is cut off.
        batch_items: Items that pass the network together; the chunk.
        image_size: Height and width that images are cut to, in pixels; open_clip's models have
            their own.
    """

    trained: Literal["all", "layers", "lora"] = "all"
    trained_layers: int = 2
    lora_rank: int = 8
    checkpointing: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    max_length: int = 64
    batch_items: int = 64
    image_size: int = 224

    def __post_init__(self) -> None:
        for name, known in (
            ("trained", ("all", "layers", "lora")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("trained_layers", "lora_rank", "batch_items", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_length < 3:
            raise ValueError(f"max_length must be at least 3 tokens, got {self.max_length}")


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
        """The vectors of some items, or of all."""
        return self.vectors if rows is None else self.vectors[rows]


class ContentEncoder(nn.Module):
    """Items' content through a pretrained network and a linear layer, both trained.

    Between the two, features are brought to mean 0 and unit variance by figures taken from the
    catalogue before training, so that training starts as it does from stored embeddings.

    Batch normalisation keeps its pretrained statistics, and what is frozen has no dropout: an
    item's vector does not depend on the items that are encoded beside it.

    Args:
        network: What `embed` uses.
        layers: Its layers, from input to output.
        lengths: How much there is to compute for each item: its tokens.
        options: What of it is trained, and how.
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
        options: Encoder,
    ) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.num_items = len(lengths)
        self.register_buffer("lengths", lengths, persistent=False)
        restrict(network, layers, options)

    def _project(self, dim: int) -> None:
        """Adds the linear layer and what comes before it; the last step of a constructor."""
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
        """What the network reads of some items of similar length."""
        raise NotImplementedError

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """The network's embeddings of what `inputs` returns."""
        raise NotImplementedError

    def features(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows feature_dim"]:
        """The network's embeddings of some items, each encoded once, chunk by chunk."""
        order = self.lengths[rows].argsort(stable=True)
        chunks = [self._chunk(part) for part in torch.split(rows[order], self.options.batch_items)]
        found = torch.cat(chunks)
        return torch.zeros_like(found).index_copy(0, order, found)

    def forward(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of some items, or of all; those wanted often are had by `precomputed`."""
        if rows is None:
            rows = torch.arange(self.num_items, device=self.lengths.device)
        vectors: Tensor = self.projection((self.features(rows) - self.mean) / self.scale)
        return vectors

    def train(self, mode: bool = True) -> Self:
        """Switches to training, but for what is frozen."""
        super().train(mode)
        for module in self.network.modules():
            parameters = list(module.parameters())
            frozen = parameters and not any(p.requires_grad for p in parameters)
            if frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @property
    def counts(self) -> dict[str, int]:
        """How many parameters are "trained" and how many "frozen"."""
        found = {"trained": 0, "frozen": 0}
        for parameter in self.parameters():
            found["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
        return found

    def _chunk(self, rows: Tensor) -> Tensor:
        inputs = self.inputs(rows)
        if self.options.checkpointing and torch.is_grad_enabled():
            found: Tensor = checkpoint(self._run, *inputs, use_reentrant=False)
            return found
        return self._run(*inputs)

    def _run(self, *inputs: Tensor) -> Tensor:
        bf16 = self.options.precision == "bf16"
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
    """

    def __init__(self, out_dim: int, in_dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, in_dim))
        self.up = nn.Parameter(torch.zeros(out_dim, rank))
        nn.init.normal_(self.down, std=in_dim**-0.5)

    def forward(self, weight: Float[Tensor, "out_dim in_dim"]) -> Float[Tensor, "out_dim in_dim"]:
        """W + B A."""
        return weight + self.up @ self.down


def restrict(network: nn.Module, layers: Sequence[nn.Module], options: Encoder) -> None:
    """Freezes what of a network is not to be trained; for "lora", puts adapters into it.

    Adapted are the matrices that make queries and values; where one matrix makes the keys too, as
    in open_clip's models, all of it.

    Args:
        network: A pretrained network.
        layers: Its layers, from input to output.
        options: What is trained.

    Raises:
        ValueError: It has fewer layers, or no attention for adapters.
    """
    network.requires_grad_(options.trained == "all")
    if options.trained == "layers":
        if options.trained_layers > len(layers):
            raise ValueError(
                f"trained_layers must be at most {len(layers)}, the layers of this encoder, "
                f"got {options.trained_layers}"
            )
        for layer in layers[-options.trained_layers :]:
            layer.requires_grad_(True)
    elif options.trained == "lora":
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
            register_parametrization(module, name, Adapted(out_dim, in_dim, options.lora_rank))
    for name, module in network.named_modules():
        if name.rpartition(".")[2] == "pooler":  # BERT's, of which embeddings make no use
            module.requires_grad_(False)


@torch.no_grad()
def precomputed(model: M) -> M:
    """A copy of a model whose content encoders are tables of what they say of each item now.

    For all that needs many items' vectors and no gradients: validation, tests, the model that is
    kept. The encoders run over the catalogue once. A model without encoders is returned as it is.

    Args:
        model: Any module; it is left as it is.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, ContentEncoder):
            training = module.training
            memo[id(module)] = VectorTable(module.eval()())
            module.train(training)
    return copy.deepcopy(model, memo).eval() if memo else model


def encoder_counts(model: nn.Module) -> dict[str, int]:
    """How many parameters of a model's content encoders are "trained" and how many "frozen"."""
    found = {"trained": 0, "frozen": 0}
    for module in model.modules():
        if isinstance(module, ContentEncoder):
            for name, count in module.counts.items():
                found[name] += count
    return found
