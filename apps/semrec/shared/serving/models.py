"""What requests hold and what they are answered with, as `/docs` shows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semrec.shared.explaining import Struck

MOST_ITEMS = 500
"""Items of an answer."""

MOST_BEAMS = 500
"""Beams of a search."""

MOST_HISTORIES = 100
"""Histories of a request."""

LONGEST_HISTORY = 4096
"""Items of a history."""

ItemId = Annotated[str, Field(max_length=1024)]
History = Annotated[list[ItemId], Field(max_length=LONGEST_HISTORY)]
TopK = Annotated[int, Field(ge=1, le=MOST_ITEMS, description="Items of an answer, at most")]


class RequestModel(BaseModel):
    """Types as JSON has them, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AnsweredRequest(RequestModel):
    """How histories are to be answered."""

    top_k: TopK = 10
    allow: list[ItemId] | None = Field(
        None, description="Item ids that alone may be recommended; all, where it is left out"
    )
    deny: list[ItemId] = Field([], description="Item ids that must not be recommended")
    exclude_seen: bool = Field(False, description="Whether items of a history are left out")
    unknown: Literal["skip", "error"] = Field(
        "skip", description="Ids that the run does not know: left out and named, or refused"
    )
    ranking: str | None = Field(
        None, description="A row of the run's tables; else what `recommend` answers by"
    )


class RecommendRequest(AnsweredRequest):
    """One history, or several, and how they are to be answered."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": ["i1", "i7"], "top_k": 5, "exclude_seen": True},
                {"histories": [["i1"], ["i7", "i3"]], "deny": ["i4"], "unknown": "error"},
            ]
        }
    )

    history: History | None = Field(None, description="Item ids, the newest last")
    histories: Annotated[list[History], Field(min_length=1, max_length=MOST_HISTORIES)] | None = (
        Field(None, description="Several of them, in place of `history`")
    )
    num_beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)] | None = Field(
        None, description="Of the search, where the ranking searches beams; else the run's number"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> RecommendRequest:
        if (self.history is None) == (self.histories is None):
            raise ValueError("give one of history and histories")
        return self


class ExplainRequest(AnsweredRequest):
    """A history, and the items whose places in its answer are to be explained."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": ["i1", "i7"], "top_k": 3, "exclude_seen": True},
                {"history": ["i1"], "items": ["i9"], "ranking": "PRORec"},
            ]
        }
    )

    history: History = Field(description="Item ids, the newest last")
    items: Annotated[list[ItemId], Field(min_length=1, max_length=MOST_ITEMS)] | None = Field(
        None, description="Ids that the run knows; the `top_k` of the answer where it is left out"
    )


class SimilarRequest(RequestModel):
    """An item whose nearest items are wanted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": "i1", "top_k": 5}]})

    item: ItemId = Field(description="Its id")
    top_k: TopK = 10


class ReloadRequest(RequestModel):
    """The folder of a complete run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run": "monday"}, {}]})

    run: str | None = Field(
        None,
        max_length=1024,
        description="A folder under the one that holds the run that `serve` was started with; "
        "where it is left out, the folder that is served is read again",
    )


class Item(BaseModel):
    """An item of the run."""

    id: str
    title: str
    codes: list[int] | None = Field(description="Its semantic ID; null where the run has none")


class ScoredItem(Item):
    """An item of an answer."""

    score: float


class HistoryAnswer(BaseModel):
    """What a history is answered with."""

    items: list[ScoredItem] = Field(description="The best first")
    unknown: list[str] = Field(description="Ids of the history that the run does not know")
    popular: bool = Field(
        description="Whether the run knows no item of the history, so that these are the popular"
    )


class RecommendAnswer(BaseModel):
    """The answers of a request, an answer a history."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run": "demo",
                    "ranking": None,
                    "answers": [
                        {
                            "items": [
                                {"id": "i3", "title": "a lamp", "codes": [4, 1], "score": -1.2}
                            ],
                            "unknown": ["i9999"],
                            "popular": False,
                        }
                    ],
                    "unknown": [],
                }
            ]
        }
    )

    run: str = Field(description="The name of the run's folder")
    ranking: str | None = Field(description="As it was asked for")
    answers: list[HistoryAnswer] = Field(description="In the order of the histories")
    unknown: list[str] = Field(description="Ids of allow and deny that the run does not know")


class Step(BaseModel):
    """A code of an item's path down the tree of codes."""

    code: int
    probability: float = Field(
        description="Of the code, given those before it and the history, by the generator"
    )
    choices: int = Field(description="How many codes may follow those before it")
    kept: bool | None = Field(
        description="Whether the beams keep the path up to here; null where none are searched"
    )


class ExplainedItem(Item):
    """Where an item stands in a ranking, and why."""

    rank: int | None = Field(description="Its place, from 1 on; null where it is not ranked")
    score: float | None = Field(description="As the ranking has it")
    struck: Struck | None = Field(
        description="Why it is not ranked: it is in the history, was denied, is not among those "
        "allowed, was never had by anybody, or generation did not come to it"
    )
    path: list[Step] | None = Field(
        description="Its codes with their probabilities; null where the ranking generates none"
    )
    parts: dict[str, float] | None = Field(
        description="What its score is the sum of; null where it is of one part"
    )
    free_rank: int | None = Field(
        description="Its place if nothing were struck out, where that is in the first `top_k`"
    )


class ExplainAnswer(BaseModel):
    """Where items stand after a history, and why."""

    run: str = Field(description="The name of the run's folder")
    ranking: str | None = Field(description="As it was asked for")
    items: list[ExplainedItem] = Field(description="Those asked for, or those of the answer")
    left_out: list[ExplainedItem] = Field(
        description="Those that would be in the answer if nothing were struck out"
    )
    unknown: list[str] = Field(description="Ids of history, allow and deny that are not known")
    popular: bool = Field(
        description="Whether the run knows no item of the history, so that the popular answer"
    )


class RankingName(BaseModel):
    """A ranking of the run."""

    name: str
    is_floor: bool = Field(description="Whether it is of no training, such as popularity")


class RunAnswer(BaseModel):
    """The run that is served."""

    run: str = Field(description="The name of its folder")
    app: str = Field(description="The app that made it")
    items: int = Field(description="How many it has")
    levels: int | None = Field(description="Codes of an item; null where the run has none")
    answers_by: str | None = Field(
        description="The ranking of an answer whose `ranking` is null; null where that depends on "
        "`exclude_seen`"
    )
    rankings: list[RankingName] = Field(description="What `ranking` may be")


class SimilarAnswer(BaseModel):
    """The nearest items of an item, the nearest first."""

    item: Item
    by_vectors: list[ScoredItem] = Field(description="Scores are the cosines of the embeddings")
    by_codes: list[ScoredItem] | None = Field(
        description="Scores are how many codes are the same, counted from the first, until one is "
        "not; among equals the cosine decides; null where the run has no codes"
    )


class SearchAnswer(BaseModel):
    """Items by their ids, then by their titles; each in the order of the catalogue."""

    items: list[Item]
    total: int = Field(description="How many there are, shown or not")


class ReloadAnswer(BaseModel):
    """The run that is served now."""

    run: str
    items: int = Field(description="How many the run has")


class Status(BaseModel):
    """How the service is."""

    status: str


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One sentence")
