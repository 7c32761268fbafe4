"""A complete run in a notebook: its recommenders, codes, vectors and reports."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semrec.shared.errors import ExperimentError
from semrec.shared.run import Run
from semrec.shared.screen import Screen

if TYPE_CHECKING:
    import numpy as np
    from evalrec import Report
    from genrec import Answers
    from jaxtyping import Float
    from semtok import SemanticIds

    from semrec.shared.pipeline import Pipeline

APPS = ("prorec", "cocorec", "tssr", "llm")
"""The apps whose runs can be loaded."""


class LoadedRun:
    """A complete run; each part is read from its folder when it is first used.

    Args:
        path: The folder.
        pipeline: The run's stages, as the app reopens them.
    """

    def __init__(self, path: Path, pipeline: Pipeline[Any]) -> None:
        self.path = path
        self.pipeline = pipeline

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.path)!r}, app={self.app!r}, rankings={list(self.rankings)})"

    @property
    def app(self) -> str:
        """The app that made the run: "prorec", "cocorec", "tssr" or "llm"."""
        return self.pipeline.run.app

    @property
    def config(self) -> Any:
        """The resolved configuration, a dataclass of the app."""
        return self.pipeline.config

    @property
    def rankings(self) -> tuple[str, ...]:
        """The names that `recommender` accepts: the rows of the run's tables, models first.

        A run of an older version stores fewer floors than its tables show.
        """
        return tuple(self.pipeline.recommenders())

    def recommender(self, name: str | None = None) -> Answers:
        """Returns a recommender, whose `recommend` and `stream` answer histories of item ids.

        Args:
            name: One of `rankings`; None for the one that the command `recommend` uses.

        Raises:
            ExperimentError: There is no ranking of that name, or a file of the run is damaged.
        """
        if name is None:
            return self.pipeline.recommender()
        recommenders = self.pipeline.recommenders()
        if name not in recommenders:
            names = ", ".join(map(repr, recommenders))
            raise ExperimentError(f"name must be one of {names}, got {name!r}")
        return recommenders[name]()

    def recommend_frame(
        self,
        frame: Any,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = "timestamp",
        top_k: int = 10,
        exclude_seen: bool = True,
        name: str | None = None,
        backend: str = "polars",
    ) -> Any:
        """Takes a data frame of interactions and returns a data frame of recommendations.

        Args:
            frame: One row per interaction, from pandas, polars, pyarrow or any other library that
                narwhals supports. Items that the run does not know are skipped.
            user: The column of user ids; they need not be users of the run.
            item: The column of item ids.
            time: The column that orders a user's interactions; None keeps the order of the frame.
            top_k: Items per user.
            exclude_seen: Whether items of the history are left out of the answer.
            name: One of `rankings`; None for the one that the command `recommend` uses.
            backend: The library of the returned frame: "polars", "pandas", "pyarrow" or any other
                whose tables narwhals can make.

        Returns:
            A frame with the columns user, item, rank (from 1) and score. Users are in the order of
            their first appearance.

        Raises:
            DataError: The frame has no rows, lacks a column, or has a missing or wrong cell
                (`evalrec.DataError`).
            ExperimentError: There is no ranking of that name, or a file of the run is damaged.
            ImportError: The library `backend` is not installed.
            TypeError: `frame` is not a data frame.
        """
        import numpy as np
        from evalrec import Interactions, Recommendations

        table = Interactions.from_frame(frame, user=user, item=item, time=time)
        answers = self.recommender(name).recommend(
            ([table.item_ids[row] for row in rows] for rows in table.histories()),
            top_k=top_k,
            exclude_seen=exclude_seen,
        )
        rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        ranked = np.full((len(answers), top_k), -1, dtype=np.int64)  # [users, k]
        scores = np.full(ranked.shape, np.nan)
        for place, answer in enumerate(answers):
            ranked[place, : len(answer.items)] = [rows[best.item_id] for best in answer.items]
            scores[place, : len(answer.items)] = [best.score for best in answer.items]
        return Recommendations(
            ranked=ranked,
            scores=scores,
            user_ids=table.user_ids,
            item_ids=tuple(self.item_ids),
        ).to_frame(backend=backend)

    @property
    def item_ids(self) -> list[str]:
        """The id of each item row."""
        return self.pipeline.item_ids

    @property
    def titles(self) -> dict[str, str]:
        """The title of each item, by its id."""
        return self.pipeline.titles

    @cached_property
    def codes(self) -> SemanticIds | None:
        """The items' semantic IDs, row i for item i; None where the system has none (TSSR)."""
        return self.pipeline.codes()

    @cached_property
    def vectors(self) -> Mapping[str, Float[np.ndarray, "items dim"]]:
        """Embeddings of the items by name, row i for item i.

        "items" are the vectors that the model ranks with; for PRORec, those that were quantized
        into codes. The others are embeddings of the items' content, as the model reads them.
        """
        return self.pipeline.vectors()

    @cached_property
    def reports(self) -> Mapping[str, Report]:
        """The test reports by their rows in tables: models first, floors last."""
        return self.pipeline.reports()

    def histories(self) -> Iterator[tuple[str, list[str]]]:
        """Yields the id of each user and the ids of the user's items, oldest first.

        Raises:
            ExperimentError: An older version made the run and did not store its users.
        """
        import polars as pl

        with self.pipeline.kept_users().histories.open("rb") as file:
            table = pl.read_parquet(file)
        ids = self.item_ids
        for user, rows in zip(table["user"], table["items"], strict=True):
            yield user, [ids[row] for row in rows]


def load_run(path: str | Path, *, device: str = "auto", trust: Collection[str] = ()) -> LoadedRun:
    """Opens a complete run of any app; its folder is not changed.

    Args:
        path: The folder.
        device: The device of the models: "auto" (the first GPU, or else the CPU), "cpu", "cuda:1".
        trust: The packages whose code may run, if parts of the run are from other packages.

    Returns:
        The run. `load_run(RUN).recommender().recommend([history])` gives the answers of
        `recommend --run RUN`.

    Raises:
        ExperimentError: The folder holds no complete run of a known app, there is no such device,
            or the run needs code of a package that is not trusted.
    """
    path = Path(path)
    app = Run.reopen(path, Screen()).app
    if app not in APPS:
        raise ExperimentError(
            f"{path} holds a run of {app}, which must be one of {', '.join(APPS)}"
        )
    pipeline: Pipeline[Any] = import_module(f"semrec.{app}.app").APP.reopen(path, device, trust)
    return LoadedRun(path, pipeline)
