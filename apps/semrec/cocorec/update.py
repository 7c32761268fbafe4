"""Updates of CoCoRec: a run that continues from another, with new items and interactions.

Published codes stay. New items get codes by the old tokenizer, from views reduced by the old PCA.
No weight of the model belongs to one item, so the old weights are used unchanged. Training
continues on the new samples and as many old ones. The baselines are not updated. Beyond the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from evalrec import Report
from genrec import load_weights
from semtok import SemanticIds, load_tokenizer, save_tokenizer

from semrec.cocorec.config import Config
from semrec.cocorec.model import CoCoRec, cocorec_loss
from semrec.cocorec.system import CoCoRecPipeline, keep_model
from semrec.shared.files import save_anew
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import Vectors
from semrec.shared.updating import AnsweringUpdate, extended, no_update


@dataclass(frozen=True, kw_only=True)
class UpdatePipeline(AnsweringUpdate[Config], CoCoRecPipeline):
    """The stages of an update; a complete one is opened like any run.

    Attributes:
        old: The run that it continues from, reopened.
    """

    ranks_new: ClassVar[str] = "CoCoRec ranks them by codes and content"

    old: CoCoRecPipeline

    @cached_property
    def view_stages(self) -> tuple[Stage[Vectors], ...]:
        """One stage per view, which also stores the old run's PCA."""

        def keep_scale(before: Stage[Vectors], folder: Path) -> None:
            save_anew(folder / "pca", self.old.pca(before).save)

        stages = zip(
            super().view_stages, self.old.view_stages, self.config.views.fields, strict=True
        )
        return tuple(
            self.embedded(view, before, fields, keep_scale) for view, before, fields in stages
        )

    @cached_property
    def tokenizer(self) -> Stage[SemanticIds]:
        """The stage "tokenizer": the old tokenizer, extended by the new items."""

        def fill(folder: Path) -> Facts:
            tokenizer, facts = extended(
                load_tokenizer(self.old.tokenizer.file("text"), trust=self.run.trust),
                self.data.catalog,
                self.named_views,
                self.update,
            )
            save_tokenizer(folder / "text", tokenizer, overwrite=True)
            return {"sources": ["text"], **facts}

        return replace(super().tokenizer, fill=fill)

    @cached_property
    def cocorec(self) -> Stage[Report]:
        """The stage "cocorec", from the old weights."""
        return self.trained_on(
            super().cocorec,
            lambda: self._plan(self.config.model, self._grown, cocorec_loss, keep_model),
        )

    def _grown(self) -> CoCoRec:
        model = self.untrained()
        load_weights(self.old.cocorec.file("weights.safetensors"), model)
        return model

    @property
    def compared(self) -> tuple[Stage[Any], ...]:
        """The stages that the answers come from, and the codes."""
        return (*super().compared, self.tokenizer)


def updated_config(config: Config, path: Path) -> Config:
    """The configuration of an update: the run's, without the baselines.

    Raises:
        ExperimentError: Its codes are not made from the text.
    """
    if config.codes.source != "text":
        raise no_update(
            path,
            f"codes.source is {config.codes.source!r}, and new items can only have codes of "
            "their text",
        )
    return replace(config, evaluation=replace(config.evaluation, baselines=False))
