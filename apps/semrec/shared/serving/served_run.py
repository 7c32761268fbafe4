"""A served run: its recommender, titles and codes, read once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from genrec import Answers, ArtifactError
from jaxtyping import Float, Int

from semrec.shared.app import App
from semrec.shared.errors import ExperimentError
from semrec.shared.pipeline import Pipeline
from semrec.shared.run import Run
from semrec.shared.serving.refusals import RefusedError

LOAD_ERRORS = (ExperimentError, ArtifactError, ValueError, OSError)
"""The exceptions for a folder that holds no complete run or is damaged."""

T = TypeVar("T")


def check_files(run: Run) -> None:
    """Reads every file of a run's stages and compares its digest with the stored one.

    Raises:
        ExperimentError: A file is damaged.
    """
    for stage in sorted(run.path.glob("*/stage.json")):
        run.checked(stage.parent.name)


class ServedRun:
    """A complete run, checked file by file, with recommender, titles and codes in memory.

    Other rankings and the vectors are read when they are first used, by the model's thread. If the
    folder has been replaced by another run meanwhile, they are not read.

    Args:
        path: The folder.
        pipeline: The run's stages, as the app reopens them.

    Raises:
        ExperimentError: A file of the run is damaged, or the folder changed while it was read.
    """

    def __init__(self, path: Path, pipeline: Pipeline[Any]) -> None:
        run = pipeline.run
        self.path, self.name = path, path.resolve().name
        self.app = run.app
        self._pipeline, self._digest = pipeline, run.digest
        check_files(run)
        self._loaders = pipeline.recommenders()
        self._recommenders: dict[str | None, Answers] = {None: pipeline.recommender()}
        self.item_ids = pipeline.item_ids
        titles = pipeline.titles
        self.titles = [titles[item_id] for item_id in self.item_ids]
        self.rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        semantic_ids = pipeline.codes()
        self.codes: Int[np.ndarray, "items levels"] | None = (
            None if semantic_ids is None else semantic_ids.codes
        )
        self._folded_titles, self._folded_ids = (
            pl.Series([text.casefold() for text in texts], dtype=pl.String)
            for texts in (self.titles, self.item_ids)
        )
        self._recommenders[None].recommend(
            [self.item_ids[:1]]
        )  # a run that cannot answer is refused
        if run.digest != self._digest:
            raise ExperimentError(f"{path} was replaced while it was read: try again")

    @classmethod
    def load(
        cls, app: App[Any, Any], path: Path, device: str, trust: Collection[str] = ()
    ) -> ServedRun:
        """Opens a complete run of an app.

        Args:
            app: The app.
            path: The folder.
            device: As `choose_device` takes it.
            trust: The packages whose code may run.

        Raises:
            ExperimentError: The folder holds no complete run of the app, or a file is damaged.
        """
        return cls(path, app.reopen(path, device, trust))

    @property
    def rankings(self) -> tuple[str, ...]:
        """The names that `recommender` accepts: the rows of the run's tables, models first."""
        return tuple(self._loaders)

    def described(self) -> dict[str, Any]:
        """The run as the fields of `RunAnswer`."""
        models = self._pipeline.systems()
        return {
            "run": self.name,
            "app": self.app,
            "items": len(self.item_ids),
            "levels": None if self.codes is None else self.codes.shape[1],
            "answers_by": self._pipeline.answering_row,
            "rankings": [{"name": name, "is_floor": name not in models} for name in self.rankings],
        }

    def recommender(self, ranking: str | None) -> Answers:
        """The recommender of a ranking; None for the one that `recommend` uses."""
        if ranking not in self._recommenders:
            assert ranking is not None
            self._recommenders[ranking] = self._read(self._loaders[ranking])
        return self._recommenders[ranking]

    def item(self, row: int) -> dict[str, Any]:
        """An item in an answer: "id", "title" and "codes"."""
        codes = None if self.codes is None else self.codes[row].tolist()
        return {"id": self.item_ids[row], "title": self.titles[row], "codes": codes}

    def search(self, query: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """The first items that match a query, and the number of all matches.

        The item whose id is the query comes first, then items whose ids begin with it, then items
        whose titles contain all of its words.

        Args:
            query: A text that is not empty; upper and lower case are the same.
            limit: Most items that are returned.
        """
        folded = query.strip().casefold()
        is_id, begins = self._folded_ids == folded, self._folded_ids.str.starts_with(folded)
        holds = pl.Series([True]).new_from_index(0, len(self._folded_titles))
        for word in folded.split():
            holds &= self._folded_titles.str.contains(word, literal=True)
        parts = (is_id, begins & ~is_id, holds & ~begins)
        rows = np.concatenate([part.arg_true().to_numpy() for part in parts])
        return [self.item(row) for row in rows[:limit].tolist()], len(rows)

    def similar(self, row: int, top_k: int) -> dict[str, Any]:
        """The nearest items of an item as the fields of `SimilarAnswer`."""
        cosines = self._directions @ self._directions[row]  # [items]
        answer: dict[str, Any] = {
            "item": self.item(row),
            "by_vectors": self._nearest(row, cosines, cosines, top_k),
            "by_codes": None,
        }
        if self.codes is not None:
            is_same = self.codes == self.codes[row]  # [items, levels]
            shared = np.minimum.accumulate(is_same, axis=1).sum(axis=1)
            # A cosine is at most 1, so it decides only between items with equally long common
            # prefixes.
            answer["by_codes"] = self._nearest(row, shared, 4 * shared + cosines, top_k)
        return answer

    def _nearest(
        self,
        row: int,
        scores: Float[np.ndarray, " items"] | Int[np.ndarray, " items"],
        order: Float[np.ndarray, " items"],
        top_k: int,
    ) -> list[dict[str, Any]]:
        """The first items of an order except one item, each with its score."""
        rows = np.argsort(-order, kind="stable")[: top_k + 1].tolist()
        others = [other for other in rows if other != row][:top_k]
        return [{**self.item(other), "score": float(scores[other])} for other in others]

    @cached_property
    def _directions(self) -> Float[np.ndarray, "items dim"]:
        """The items' embeddings, normalised to length 1; zero vectors stay zero."""
        vectors = self._read(self._pipeline.vectors)["items"].astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        directions: Float[np.ndarray, "items dim"] = vectors / np.where(lengths == 0, 1, lengths)
        return directions

    def _read(self, load: Callable[[], T]) -> T:
        """Reads from the folder, if it still holds this run.

        Raises:
            RefusedError: The folder no longer holds this run.
        """
        words = f"the folder of {self.name} was replaced or damaged: it must be loaded again"
        changed = RefusedError(503, words, retry_after=60)
        try:
            value = load()
            is_same = self._pipeline.run.digest == self._digest
        except LOAD_ERRORS as error:
            raise changed from error
        if not is_same:
            raise changed
        return value
