"""Answers histories under the options of `recommend`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from semrec.shared.answer_options import AnswerOptions
from semrec.shared.diversity import DEPTH, diversified
from semrec.shared.queries import read_ids

if TYPE_CHECKING:
    from genrec import Answer

    from semrec.shared.pipeline import Pipeline

Stream = Callable[[Iterable[list[str]]], Iterator["Answer"]]
"""A function from histories of item ids to their answers, in order."""


def answering(pipeline: Pipeline[Any], options: AnswerOptions) -> Stream:
    """Returns the run's recommender with the options applied."""
    titles = pipeline.titles
    allowed = read_ids(options.allow, titles, strict=True)
    denied = read_ids(options.deny, titles) or ()
    depth = DEPTH if options.diversify else 1
    groups = {} if options.diversify is None else pipeline.groups(options.diversify)
    stream = partial(
        pipeline.recommender().stream,
        top_k=min(options.top_k * depth, max(len(titles), options.top_k)),
        exclude_seen=options.exclude_seen,
        unknown=options.skips_unknown,
        allow=allowed,
        deny=denied,
    )
    if options.diversify is None:
        return stream
    rule = partial(
        diversified, groups=groups, per_group=options.per_group or 2, top_k=options.top_k
    )
    return lambda histories: rule(stream(histories))
