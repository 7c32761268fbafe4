"""TSSR next Monday: a run that goes on from another, with new items and interactions.

Content streams know a new item by its content, brought to the old run's scale. Of its id nothing is
known: its row of the id table starts as the mean of the rows of the old items that are most like it
in content. Training goes on from the old weights over what is new and as much that is old. The
baselines are left out. Beyond the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from evalrec import Report
from jaxtyping import Float, Int
from torch import Tensor

from semrec.shared.files import save_anew
from semrec.shared.stage import Stage
from semrec.shared.stages import Vectors
from semrec.shared.updating import AnsweringUpdate, no_update
from semrec.tssr.config import Config
from semrec.tssr.model import TwoStream, tssr_loss
from semrec.tssr.system import TSSRPipeline

NEAREST = 10
"""Old items whose rows of the id table a new one starts from."""

_ITEMS_AT_ONCE = 1024  # new items that are compared with all old ones

_IDS = "streams.0.item_encoder.ids"  # the id table among the weights


@dataclass(frozen=True, kw_only=True)
class UpdatePipeline(AnsweringUpdate[Config], TSSRPipeline):
    """The stages of an update; once complete, it is opened like any run.

    Attributes:
        old: The run that it goes on from, reopened.
    """

    old: TSSRPipeline

    @cached_property
    def content_stages(self) -> tuple[Stage[Vectors], ...]:
        """A stage a stream; what brought the old run's content to scale is kept with it."""
        content = self.config.content

        def keep_scale(before: Stage[Vectors], folder: Path) -> None:
            save_anew(folder / "standardisation", self.old.standardisation(before).save)

        stages = zip(super().content_stages, self.old.content_stages, content.fields, strict=True)
        return tuple(
            self.embedded(stage, before, fields, keep_scale, image_field=content.image_field)
            for stage, before, fields in stages
        )

    @cached_property
    def tssr(self) -> Stage[Report]:
        """The stage "tssr", from the weights of the old one."""
        return self.trained_on(super().tssr, lambda: self._plan(self._grown, tssr_loss))

    def _grown(self) -> TwoStream:
        weights = self.old.model().state_dict()
        rows = torch.from_numpy(self.news.old_rows)
        weights[_IDS] = grown_ids(weights[_IDS], rows, torch.cat(self.contents, dim=1))
        model = TwoStream(self.config.model, self.contents)
        model.load_state_dict(weights)
        return model


def grown_ids(
    ids: Float[Tensor, "old_items dim"],
    old_rows: Int[Tensor, " items"],
    contents: Float[Tensor, "items content_dim"],
) -> Float[Tensor, "items dim"]:
    """The id table of now: rows of old items stay, new ones start at a mean of old ones.

    Args:
        ids: The old table.
        old_rows: For each item of now its row in it, -1 where it is new.
        contents: What the items say of themselves; the old items of now with the highest cosine,
            `NEAREST` at most, are those that a mean is of.
    """
    table = ids[old_rows.clamp(min=0)]  # [items, dim]
    is_new = old_rows < 0
    units = torch.nn.functional.normalize(contents, dim=1)
    known, known_ids = units[~is_new], table[~is_new]
    for rows in torch.split(is_new.nonzero()[:, 0], _ITEMS_AT_ONCE):
        similarity = units[rows] @ known.T  # [new, old]
        nearest = similarity.topk(min(NEAREST, len(known)), dim=1).indices
        table[rows] = known_ids[nearest].mean(dim=1)
    return table


def updated_config(config: Config, path: Path) -> Config:
    """The configuration of an update: the run's, without the baselines.

    Raises:
        ExperimentError: Its content is encoded end to end.
    """
    if config.content.mode != "stored":
        raise no_update(
            path,
            f"content.mode is {config.content.mode!r}, and a run keeps the vectors of its items "
            "without the network that makes them",
        )
    return replace(config, evaluation=replace(config.evaluation, baselines=False))
