"""TSSR next Monday: a run that goes on from another, with new items and interactions.

Content streams know a new item by its content, brought to the old run's scale. Of its id nothing is
known: its row of the id table starts at what the content says of ids, as a linear map has it that
is fitted on the old items. Training goes on from the old weights over what is new and as much that
is old. The baselines are left out. Beyond the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

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

_PENALTY = 10.0
"""Of the squared weights of the map from content to ids, where that is of unit variance.

From .1 to 30 new items of synthetic data rank alike; the mean of 10 neighbours does worse.
"""

_IDS = "streams.0.item_encoder.ids"
"""The id table among the weights."""


@dataclass(frozen=True, kw_only=True)
class UpdatePipeline(AnsweringUpdate[Config], TSSRPipeline):
    """The stages of an update; once complete, it is opened like any run.

    Attributes:
        old: The run that it goes on from, reopened.
    """

    ranks_new: ClassVar[str] = (
        "TSSR ranks them by content, from which their rows of the id table start"
    )

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
    """The id table of now: rows of old items stay, new ones start at what their content says.

    Ridge regression of the old items' rows on their content says it.

    Args:
        ids: The old table.
        old_rows: For each item of now its row in it, -1 where it is new.
        contents: What the items say of themselves, all streams side by side.
    """
    table = ids[old_rows.clamp(min=0)]  # [items, dim]
    is_new = old_rows < 0
    known, known_ids = contents[~is_new].double(), table[~is_new].double()
    centre, mean = known.mean(dim=0), known_ids.mean(dim=0)
    gaps = known - centre  # [old, content_dim]
    penalty = _PENALTY * torch.eye(gaps.shape[1], dtype=gaps.dtype)
    weights = torch.linalg.solve(gaps.T @ gaps + penalty, gaps.T @ (known_ids - mean))
    table[is_new] = (mean + (contents[is_new].double() - centre) @ weights).to(table)
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
