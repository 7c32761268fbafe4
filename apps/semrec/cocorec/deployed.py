"""The deployed form of CoCoRec: precomputed item vectors, and an optional id table."""

from __future__ import annotations

from pathlib import Path

import torch
from genrec import Batch, load_weights
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from semrec.cocorec.config import ItemIds, Model
from semrec.cocorec.model import CoCoRec, FusedBackbone
from semrec.shared.errors import ExperimentError


class StoredItems(nn.Module):
    """Precomputed item vectors, with an optional id table added.

    Args:
        inputs: The vectors that the backbone reads.
        outputs: The vectors that states are compared with; None for the same.
        ids: Whether a trainable vector per item is added, which starts at zero.
        id_targets: Whether it is also added to `outputs`.
    """

    inputs: Tensor
    outputs: Tensor | None

    def __init__(
        self,
        inputs: Float[Tensor, "items dim"],
        outputs: Float[Tensor, "items dim"] | None = None,
        *,
        ids: bool = False,
        id_targets: bool = True,
    ) -> None:
        super().__init__()
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)
        self.ids = nn.Parameter(torch.zeros_like(inputs)) if ids else None
        self.id_targets = id_targets

    def forward(self) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        """The vectors of all items that the backbone reads, and those states are compared with."""
        outputs = self.inputs if self.outputs is None else self.outputs
        if self.ids is None:
            return self.inputs, outputs
        inputs = self.inputs + self.ids
        if not self.id_targets:
            return inputs, outputs
        return inputs, inputs if self.outputs is None else outputs + self.ids


class Deployed(FusedBackbone):
    """CoCoRec with precomputed item vectors and without the semantic-fusion module.

    Appendix A: this is a SASRec with SASRec's cost. With `pooling="code"` it has two tables, one to
    read and one to compare with, and so needs twice the memory.

    Args:
        config: Sizes.
        items: The item vectors.
    """

    item_encoder: StoredItems

    def __init__(self, config: Model, items: StoredItems) -> None:
        super().__init__(config, len(items.inputs), items)
        self.config = config


def load_deployed(path: Path, config: Model, *, id_targets: bool = True) -> Deployed:
    """Loads a deployed model from a file of `save_weights`.

    Args:
        path: The file.
        config: Sizes.
        id_targets: `ItemIds.targets`, if the model still has a separate id table.

    Raises:
        ExperimentError: The file is damaged or holds another model.
    """
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ExperimentError(f"{path}: not a model's weights: {error}") from error
    table = torch.zeros(shapes.get("item_encoder.inputs", (1, config.dim)))
    items = StoredItems(
        table,
        torch.zeros_like(table) if "item_encoder.outputs" in shapes else None,
        ids="item_encoder.ids" in shapes,
        id_targets=id_targets,
    )
    model = Deployed(config, items)
    load_weights(path, model)
    return model.eval()


@torch.no_grad()
def deployed(model: CoCoRec | Deployed) -> Deployed:
    """The model with precomputed item vectors: the same answers without semantic fusion.

    An id table is added to the vectors. The model is put into eval mode.
    """
    training = model.training
    inputs, outputs = (table.clone() for table in model.eval().tables())
    model.train(training)
    # Two tables are needed only with pooling="code", or with ids on one side.
    return _with_items(model, StoredItems(inputs, None if inputs.equal(outputs) else outputs))


@torch.no_grad()
def with_item_ids(model: CoCoRec | Deployed, config: ItemIds) -> Deployed:
    """The frozen model with a trainable vector per item, which starts at zero (section 3.4.5).

    Since only the id table changes, the fused vectors are precomputed.
    """
    plain = deployed(model)
    fused = plain.item_encoder
    items = StoredItems(fused.inputs, fused.outputs, ids=True, id_targets=config.targets)
    result = _with_items(plain, items).requires_grad_(False)
    assert result.item_encoder.ids is not None
    result.item_encoder.ids.requires_grad_(True)
    return result


def _with_items(model: CoCoRec | Deployed, items: StoredItems) -> Deployed:
    """The same backbone with stored item vectors."""
    result = Deployed(model.config, items).to(items.inputs)
    backbone = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith("item_encoder.")
    }
    missing, unexpected = result.load_state_dict(backbone, strict=False)
    assert not unexpected
    assert all(name.startswith("item_encoder.") for name in missing)
    return result.eval()


def item_id_loss(config: ItemIds, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """L_CE alone (eq. 5), for the id table of `with_item_ids`."""
    assert isinstance(model, Deployed)
    inputs, outputs = model.tables()
    states = (
        model(batch.history, inputs)
        if batch.targets.ndim == 2
        else model.last_state(batch.history, inputs)
    )
    negatives = config.loss.draw(model.num_items, batch.history.device)
    return {"next_item": config.loss(states, outputs, batch.targets, negatives)}
