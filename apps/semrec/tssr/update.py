"""Updates of TSSR: a run that continues from another, with new items and interactions.

Content streams read the content of a new item, scaled like that of the old run. The id vector of a
new item is predicted from its content by a linear map, which is fitted on the old items. Training
continues from the old weights on the new samples and as many old ones. The baselines are not
updated. Beyond the paper.
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
"""The ridge penalty of the map from content of unit variance to ids.

Values from .1 to 30 give similar ranks of new items on synthetic data; the mean of 10 neighbours is
worse.
"""

_IDS = "streams.0.item_encoder.ids"
"""The name of the id table among the weights."""


@dataclass(frozen=True, kw_only=True)
class UpdatePipeline(AnsweringUpdate[Config], TSSRPipeline):
    """The stages of an update; a complete one is opened like any run.

    Attributes:
        old: The run that it continues from, reopened.
    """

    ranks_new: ClassVar[str] = (
        "TSSR ranks them by content, from which their rows of the id table start"
    )

    old: TSSRPipeline

    @cached_property
    def content_stages(self) -> tuple[Stage[Vectors], ...]:
        """One stage per stream, which also stores the old run's standardisation."""
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
        """The stage "tssr", from the old weights."""
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
    """The current id table: old items keep their rows, new rows are predicted from content.

    The prediction is a ridge regression of the old items' rows on their content.

    Args:
        ids: The old table.
        old_rows: The row of each current item in the old table; -1 for a new item.
        contents: The content of all items, all streams concatenated.
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
