"""`recommend`, as the three apps have it: one history, a file of them, or all users."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semrec.shared.answer_files import Answered, JsonLines, Parts, kept_parts
from semrec.shared.answer_options import AnswerOptions
from semrec.shared.diversity import DEPTH, diversified
from semrec.shared.errors import ExperimentError
from semrec.shared.files import content_hash, file_hash, input_files, is_stream, replacing, writing
from semrec.shared.queries import count_histories, history_ids, read_histories, read_ids
from semrec.shared.screen import Bar, Screen
from semrec.shared.text import visible
from semrec.shared.users import USERS_AT_ONCE, ChosenUsers, read_later

if TYPE_CHECKING:
    from genrec import Answer

    from semrec.shared.pipeline import Pipeline

Stream = Callable[[Iterable[list[str]]], Iterator["Answer"]]
"""From histories of item ids to their answers, in order."""


def recommend(pipeline: Pipeline[Any], options: AnswerOptions) -> None:
    """Answers by a complete run, on the screen or to a file.

    Args:
        pipeline: The run.
        options: Those that `check` has passed.

    Raises:
        ExperimentError: An id is unknown and is to be refused, a file cannot be used, or the run
            keeps nothing of its users.
    """
    titles = pipeline.titles
    chosen = None if options.users is None else _chosen_users(pipeline, options)
    if options.history is not None:
        ids = history_ids(options.history, titles, options.skips_unknown)
        (result,) = answering(pipeline, options)([ids])
        show(result, titles)
    elif chosen is not None:
        answer_users(pipeline, chosen, answering(pipeline, options), options)
    else:
        answer_file(titles, answering(pipeline, options), options)


def answering(pipeline: Pipeline[Any], options: AnswerOptions) -> Stream:
    """The run's recommender under the options."""
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


def show(result: Answer, titles: Mapping[str, str]) -> None:
    """Prints one answer as a table."""
    if not result.items:
        _say_nothing_left("the history")
        return
    if result.popular:
        words = "the history has no item that the run knows: these are the popular items"
        typer.echo(words, err=True)
    if result.unknown:
        typer.echo(f"{result.unknown:,} unknown item ids of the history were skipped", err=True)
    table = Table("", "item_id", "title", "score")
    for place, item in enumerate(result.items, start=1):
        # As it stands: rich would take what is in square brackets for its own.
        shown = Text(visible(item.item_id)), Text(visible(titles[item.item_id]))
        table.add_row(str(place), *shown, f"{item.score:.3f}")
    Console().print(table)


def answer_file(titles: Mapping[str, str], stream: Stream, options: AnswerOptions) -> None:
    """Writes the answers to a file of histories.

    Args:
        titles: What the items that there are are called, by their ids.
        stream: The model.
        options: `source` and `output` are read.

    Raises:
        ExperimentError: The output cannot be written, or a line of the source cannot be used.
    """
    source, output = options.source, options.output
    assert source is not None
    assert output is not None
    total, counts = count_histories(source), Counter[str]()
    unknown = options.skips_unknown
    queries, histories = itertools.tee(read_histories(source, titles, unknown))
    answers = stream(query["history"] for query in histories)
    answered = (
        Answered(query=query, where=f"{source}, history {number}", answer=result)
        for number, (query, result) in enumerate(zip(queries, answers, strict=True), start=1)
    )
    with _replacing(output, options.force) as beside, Screen().bar("recommending") as bar:
        counted = _counted(answered, counts, options.top_k, bar, total)
        if is_stream(output):
            _write_lines(counted, titles, output)
        else:
            parts = Parts(beside.parent)
            number = 0
            while batch := list(itertools.islice(counted, USERS_AT_ONCE)):
                parts.write(number, options.form.part(batch, titles), Counter())
                number += 1
            options.form.join(parts.paths(number), beside)
    _report(options, counts, "answers", "histories")


def answer_users(
    pipeline: Pipeline[Any], users: ChosenUsers, stream: Stream, options: AnswerOptions
) -> None:
    """Writes the answers to users, a part at a time; goes on where a killed command stopped.

    Args:
        pipeline: The run.
        users: Whom to answer.
        stream: The model.
        options: `output` and what the answers follow from are read.

    Raises:
        ExperimentError: The output cannot be written, or another command's parts are beside it.
    """
    output, titles = options.output, pipeline.titles
    assert output is not None
    counts, answered = Counter[str](), partial(_answered, users, stream, pipeline.item_ids)
    with Screen().bar("recommending") as bar:
        if is_stream(output):
            everyone = itertools.chain.from_iterable(map(answered, range(users.num_parts)))
            counted = _counted(everyone, counts, options.top_k, bar, users.count)
            _write_lines(counted, titles, output)
        else:
            with kept_parts(output, _identity(pipeline, options)) as parts:
                for number in range(users.num_parts):
                    part_counts = parts.counts(number)
                    if part_counts is None:
                        part_counts = Counter[str]()
                        batch = list(
                            _counted(
                                answered(number),
                                part_counts,
                                options.top_k,
                                bar,
                                users.count,
                                start=counts["all"],
                            )
                        )
                        parts.write(number, options.form.part(batch, titles), part_counts)
                    counts += part_counts
                with _replacing(output, options.force) as beside:
                    options.form.join(parts.paths(users.num_parts), beside)
    _report(options, counts, "users", "users")
    if users.num_unknown:
        _say(options, f"{users.num_unknown:,} ids of --users are unknown, and were skipped")


def _answered(
    users: ChosenUsers, stream: Stream, item_ids: Sequence[str], number: int
) -> Iterator[Answered]:
    """The answers to a part of the users."""
    part = users.part(number)
    histories = ([item_ids[row] for row in rows] for _, rows in part)
    for (user, _), result in zip(part, stream(histories), strict=True):
        yield Answered(query={"user": user}, where=f"user {user!r}", answer=result)


def _chosen_users(pipeline: Pipeline[Any], options: AnswerOptions) -> ChosenUsers:
    """Whom the options name, with what they had since."""
    assert options.users is not None
    histories, later = pipeline.kept_users().histories, None
    if options.interactions is not None:
        rows = {item_id: row for row, item_id in enumerate(pipeline.item_ids)}
        later = read_later(
            options.interactions, pipeline.config.columns, rows, histories, pipeline.run.screen
        )
        if later.unknown and options.skips_unknown == "skip":
            _say(
                options,
                f"{options.interactions}: {later.unknown:,} interactions are with items that the "
                "run does not know, and were passed over",
            )
    return ChosenUsers(histories, later, options.users, options.skips_unknown)


def _identity(pipeline: Pipeline[Any], options: AnswerOptions) -> dict[str, Any]:
    """What the answers to users follow from: two commands of one identity write one file."""
    values: dict[str, Any] = dataclasses.asdict(options)
    for name in ("source", "history", "force", "output"):
        del values[name]
    for name in ("interactions", "allow", "deny"):
        values[name] = values[name] and _named(str(values[name]))
    values["users"] = _named(options.users or "")
    run_file, metrics_file = pipeline.run.path / "run.json", pipeline.run.path / "metrics.json"
    return {
        **values,
        "run": [file_hash(run_file), file_hash(metrics_file)],
        "suffix": (options.output or Path()).suffix.lower(),
    }


def _named(text: str) -> str:
    """What a text names: the content of its file or folder, or else the text itself."""
    files = input_files(text)
    return content_hash(files) if files else text


@contextmanager
def _replacing(output: Path, force: bool) -> Iterator[Path]:
    """`replacing`, with words for a file that came since the output was checked."""
    try:
        with replacing(output, overwrite=force) as beside:
            yield beside
    except FileExistsError as error:
        raise ExperimentError(f"{output} exists: choose another --output, or --force") from error


def _counted(
    answered: Iterable[Answered],
    counts: Counter[str],
    top_k: int,
    bar: Bar,
    total: int | None,
    *,
    start: int = 0,
) -> Iterator[Answered]:
    """Passes answers on; counts them, and those that are popular, short or empty."""
    for each in answered:
        size = len(each.answer.items)
        counts["all"] += 1
        counts["popular"] += each.answer.popular
        counts["empty"] += not size
        counts["short"] += 0 < size < top_k
        counts["unknown"] += each.answer.unknown
        bar.update(start + counts["all"], total)
        yield each


def _write_lines(answered: Iterable[Answered], titles: Mapping[str, str], output: Path) -> None:
    """Writes JSONL to a pipe or a device as the answers come."""
    form = JsonLines()
    with writing(output), output.open("wb") as written:
        for each in answered:
            written.write(form.line(each, titles))


def _report(options: AnswerOptions, counts: Counter[str], answers: str, of: str) -> None:
    """Says what was written, and what of it a reader would not expect."""
    _say(options, f"{options.output}: {counts['all']:,} {answers}")
    if counts["popular"]:
        words = "have no item that the run knows: their answers are the popular items"
        _say(options, f"{counts['popular']:,} of {counts['all']:,} {of} {words}")
    if counts["unknown"]:
        _say(options, f"{counts['unknown']:,} unknown item ids in them were skipped")
    if counts["short"]:
        words = f"have fewer than {options.top_k:,} items"
        _say(options, f"{counts['short']:,} of {counts['all']:,} answers {words}")
    if counts["empty"]:
        _say_nothing_left(f"{counts['empty']:,} of {counts['all']:,} {of}")


def _say(options: AnswerOptions, message: str) -> None:
    """One line; on stderr where a pipe gets the answers, and is to get no line that is none."""
    typer.echo(visible(message), err=options.output is not None and is_stream(options.output))


def _say_nothing_left(of: str) -> None:
    typer.echo(
        f"nothing is left to recommend for {of}: --allow, --deny and --exclude-seen leave no item",
        err=True,
    )
