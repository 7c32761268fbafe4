"""The fields of requests and answers, which `/docs` shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semrec.shared.explaining import Struck

MOST_ITEMS = 500
"""Most items of an answer."""

MOST_BEAMS = 500
"""Most beams of a search."""

MOST_HISTORIES = 100
"""Most histories of a request."""

LONGEST_HISTORY = 4096
"""Most items of a history."""

ItemId = Annotated[str, Field(max_length=1024)]
History = Annotated[list[ItemId], Field(max_length=LONGEST_HISTORY)]
TopK = Annotated[int, Field(ge=1, le=MOST_ITEMS, description="Most items of an answer")]


class RequestModel(BaseModel):
    """Strict JSON types; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AnsweredRequest(RequestModel):
    """The options of an answer."""

    top_k: TopK = 10
    allow: list[ItemId] | None = Field(
        None, description="The only item ids that may be recommended; default: all"
    )
    deny: list[ItemId] = Field([], description="Item ids that must not be recommended")
    exclude_seen: bool = Field(False, description="Whether items of a history are left out")
    unknown: Literal["skip", "error"] = Field(
        "skip", description="Ids that the run does not know: skip and list them, or refuse"
    )
    ranking: str | None = Field(
        None, description="A row of the run's tables; default: the one of `recommend`"
    )


class RecommendRequest(AnsweredRequest):
    """One history or several, with the options of the answer."""

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
        Field(None, description="Several histories instead of `history`")
    )
    num_beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)] | None = Field(
        None, description="Beams, if the ranking uses beam search; default: the run's number"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> RecommendRequest:
        if (self.history is None) == (self.histories is None):
            raise ValueError("give one of history and histories")
        return self


class ExplainRequest(AnsweredRequest):
    """A history, and the items whose ranks are to be explained."""

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
        None, description="Known ids; default: the `top_k` items of the answer"
    )


class SimilarRequest(RequestModel):
    """An item whose nearest items are returned."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": "i1", "top_k": 5}]})

    item: ItemId = Field(description="Its id")
    top_k: TopK = 10


class ReloadRequest(RequestModel):
    """The folder of a complete run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run": "monday"}, {}]})

    run: str | None = Field(
        None,
        max_length=1024,
        description="A folder under the folder that contains the run of `serve`; default: load the "
        "served folder again",
    )


class Item(BaseModel):
    """An item of the run."""

    id: str
    title: str
    codes: list[int] | None = Field(description="Its semantic ID; null if the run has none")


class ScoredItem(Item):
    """An item of an answer."""

    score: float


class HistoryAnswer(BaseModel):
    """The answer to a history."""

    items: list[ScoredItem] = Field(description="Best first")
    unknown: list[str] = Field(description="Ids of the history that the run does not know")
    popular: bool = Field(
        description="Whether the items are popular ones, as no item of the history is known"
    )


class RecommendAnswer(BaseModel):
    """The answers of a request, one per history."""

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
    ranking: str | None = Field(description="The `ranking` of the request")
    answers: list[HistoryAnswer] = Field(description="One per history, in their order")
    unknown: list[str] = Field(description="Ids of allow and deny that the run does not know")


class Step(BaseModel):
    """A code of an item's path in the tree of codes."""

    code: int
    probability: float = Field(
        description="The generator's probability, given the codes before and the history"
    )
    choices: int = Field(description="How many codes may follow the codes before it")
    kept: bool | None = Field(
        description="Whether beam search keeps the path up to here; null without beam search"
    )


class ExplainedItem(Item):
    """The rank of an item and the reasons for it."""

    rank: int | None = Field(description="Its rank, from 1; null if it is not ranked")
    score: float | None = Field(description="Its score in the ranking")
    struck: Struck | None = Field(
        description="Why it is not ranked: it is in the history, is denied, is not among the "
        "allowed items, has no interactions, or generation did not reach it"
    )
    path: list[Step] | None = Field(
        description="Its codes with their probabilities; null if the ranking generates no codes"
    )
    parts: dict[str, float] | None = Field(
        description="The terms of its score; null if the score is not a sum"
    )
    free_rank: int | None = Field(
        description="Its rank if nothing were excluded, if that is within `top_k`"
    )


class ExplainAnswer(BaseModel):
    """The ranks of items after a history and the reasons for them."""

    run: str = Field(description="The name of the run's folder")
    ranking: str | None = Field(description="The `ranking` of the request")
    items: list[ExplainedItem] = Field(description="The items of the request or of the answer")
    left_out: list[ExplainedItem] = Field(
        description="Items that would be in the answer if nothing were excluded"
    )
    unknown: list[str] = Field(description="Unknown ids of history, allow and deny")
    popular: bool = Field(
        description="Whether the popular items answer, as no item of the history is known"
    )


class RankingName(BaseModel):
    """A ranking of the run."""

    name: str
    is_floor: bool = Field(description="Whether it needs no training, such as popularity")


class RunAnswer(BaseModel):
    """The run that is served."""

    run: str = Field(description="The name of the run's folder")
    app: str = Field(description="The app that made the run")
    items: int = Field(description="The number of items")
    levels: int | None = Field(description="Codes per item; null if the run has none")
    answers_by: str | None = Field(
        description="The ranking that is used if `ranking` is null; null if it depends on "
        "`exclude_seen`"
    )
    rankings: list[RankingName] = Field(description="The possible values of `ranking`")


class SimilarAnswer(BaseModel):
    """The nearest items of an item, nearest first."""

    item: Item
    by_vectors: list[ScoredItem] = Field(description="Scores are the cosines of the embeddings")
    by_codes: list[ScoredItem] | None = Field(
        description="Scores are the lengths of the common prefixes of codes; the cosine decides "
        "between equal scores; null if the run has no codes"
    )


class SearchAnswer(BaseModel):
    """Items found by their ids, then by their titles, both in the order of the catalogue."""

    items: list[Item]
    total: int = Field(description="The number of all matches")


class ReloadAnswer(BaseModel):
    """The run that is served now."""

    run: str
    items: int = Field(description="The number of its items")


class Status(BaseModel):
    """The state of the service."""

    status: str


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One sentence")
