"""`recommend` for all apps: one history, a file of histories, or users of the run."""

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
from semrec.shared.answer_stream import Stream, answering
from semrec.shared.errors import ExperimentError
from semrec.shared.files import content_hash, file_hash, input_files, is_stream, replacing, writing
from semrec.shared.queries import history_ids, read_histories
from semrec.shared.screen import Bar, Screen
from semrec.shared.text import visible
from semrec.shared.users import USERS_AT_ONCE, ChosenUsers, read_later

if TYPE_CHECKING:
    from genrec import Answer

    from semrec.shared.pipeline import Pipeline


def recommend(pipeline: Pipeline[Any], options: AnswerOptions) -> None:
    """Answers from a complete run, on the screen or to a file.

    Args:
        pipeline: The run.
        options: The options, after `check`.

    Raises:
        ExperimentError: An unknown id is refused, a file cannot be used, or the run stores no
            users.
    """
    titles = pipeline.titles
    chosen = None if options.users is None else _chosen_users(pipeline, options)
    if options.history is not None:
        ids = history_ids(options.history, titles, options.skips_unknown)
        (result,) = answering(pipeline, options)([ids])
        show(result, titles)
        return
    with _engine(pipeline, options) as stream:
        if chosen is not None:
            answer_users(pipeline, chosen, stream, options)
        else:
            answer_file(titles, stream, options)


@contextmanager
def _engine(pipeline: Pipeline[Any], options: AnswerOptions) -> Iterator[Stream]:
    """Yields what answers many histories: this process, or the workers of a cluster."""
    if options.engine == "local":
        yield answering(pipeline, options)
        return
    from semrec.shared.ray_answers import ray_answering

    app, device = pipeline.run.app, str(pipeline.device)
    with ray_answering(app, options, device, options.workers) as stream:
        yield stream


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
        # As plain text: rich would read square brackets as markup.
        shown = Text(visible(item.item_id)), Text(visible(titles[item.item_id]))
        table.add_row(str(place), *shown, f"{item.score:.3f}")
    Console().print(table)


def answer_file(titles: Mapping[str, str], stream: Stream, options: AnswerOptions) -> None:
    """Writes the answers to a file of histories; continues where a killed command stopped.

    Args:
        titles: The title of each known item, by its id.
        stream: Answers histories.
        options: Its `source`, `output` and the options that determine the answers are used.

    Raises:
        ExperimentError: The output cannot be written, a line of the source cannot be used, or
            another command's parts are beside the output.
    """
    source, output = options.source, options.output
    assert source is not None
    assert output is not None
    histories = partial(read_histories, source, titles, options.skips_unknown)
    # A wrong line is refused before any answer; a pipe can be read only once.
    total = None if is_stream(source) else sum(1 for _ in histories())
    counts, queries = Counter[str](), enumerate(histories(), start=1)
    with Screen().bar("recommending") as bar:
        if is_stream(output):
            answered = _answered_queries(queries, stream, source)
            counted = _counted(answered, counts, options.top_k, bar, total)
            _write_lines(counted, titles, output)
        else:
            batches = iter(lambda: list(itertools.islice(queries, USERS_AT_ONCE)), [])
            parts = (partial(_answered_queries, batch, stream, source) for batch in batches)
            fill = partial(_fill_parts, parts, titles, options, counts, bar, total)
            _write_file(options, fill)
    _report(options, counts, "answers", "histories")


def _answered_queries(
    queries: Iterable[tuple[int, dict[str, Any]]], stream: Stream, source: Path
) -> Iterator[Answered]:
    """Yields the answers to the numbered queries of a file."""
    numbered, histories = itertools.tee(queries)
    answers = stream(query["history"] for _, query in histories)
    for (number, query), result in zip(numbered, answers, strict=True):
        yield Answered(query=query, where=f"{source}, history {number}", answer=result)


def answer_users(
    pipeline: Pipeline[Any], users: ChosenUsers, stream: Stream, options: AnswerOptions
) -> None:
    """Writes the answers to users in parts; continues where a killed command stopped.

    Args:
        pipeline: The run.
        users: The users to answer.
        stream: Answers histories.
        options: Its `output` and the options that determine the answers are used.

    Raises:
        ExperimentError: The output cannot be written, or another command's parts are beside it.
    """
    output, titles = options.output, pipeline.titles
    assert output is not None
    counts = Counter[str]()
    parts = (
        partial(_answered_users, users, stream, pipeline.item_ids, number)
        for number in range(users.num_parts)
    )
    with Screen().bar("recommending") as bar:
        if is_stream(output):
            everyone = itertools.chain.from_iterable(part() for part in parts)
            counted = _counted(everyone, counts, options.top_k, bar, users.count)
            _write_lines(counted, titles, output)
        else:
            fill = partial(_fill_parts, parts, titles, options, counts, bar, users.count)
            _write_file(options, fill)
    _report(options, counts, "users", "users")
    if users.num_unknown:
        _say(options, f"{users.num_unknown:,} ids of --users are unknown and were skipped")


def _answered_users(
    users: ChosenUsers, stream: Stream, item_ids: Sequence[str], number: int
) -> Iterator[Answered]:
    """Yields the answers to a part of the users."""
    part = users.part(number)
    histories = ([item_ids[row] for row in rows] for _, rows in part)
    for (user, _), result in zip(part, stream(histories), strict=True):
        yield Answered(query={"user": user}, where=f"user {user!r}", answer=result)


def _write_file(options: AnswerOptions, fill: Callable[[Parts], int]) -> None:
    """Writes a file from parts, which stay beside it until all of them exist.

    Args:
        options: Its `output` and the options that determine the answers are used.
        fill: Writes the missing parts and returns the number of all parts.
    """
    output = options.output
    assert output is not None
    if options.source is not None and is_stream(options.source):  # it cannot be read again
        with _replacing(output, options.force) as beside:
            parts = Parts(beside.parent)
            options.form.join(parts.paths(fill(parts)), beside)
        return
    with kept_parts(output, _identity(options)) as parts:
        count = fill(parts)
        with _replacing(output, options.force) as beside:
            options.form.join(parts.paths(count), beside)


def _fill_parts(
    answered: Iterable[Callable[[], Iterator[Answered]]],
    titles: Mapping[str, str],
    options: AnswerOptions,
    counts: Counter[str],
    bar: Bar,
    total: int | None,
    parts: Parts,
) -> int:
    """Writes the missing parts and returns the number of all parts.

    Args:
        answered: Answers the queries of each part.
        titles: The title of each item, by its id.
        options: The options of the output.
        counts: The counts of each part are added to it.
        bar: Shows the progress.
        total: The number of all answers; None if it is not known.
        parts: The parts.
    """
    number = 0
    for number, answer in enumerate(answered, start=1):
        part_counts = parts.counts(number - 1)
        if part_counts is None:
            part_counts, start = Counter[str](), counts["all"]
            batch = list(_counted(answer(), part_counts, options.top_k, bar, total, start=start))
            parts.write(number - 1, options.form.part(batch, titles), part_counts)
        counts += part_counts
    return number


def _chosen_users(pipeline: Pipeline[Any], options: AnswerOptions) -> ChosenUsers:
    """The users that the options name, with their newer interactions."""
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
                "run does not know and were skipped",
            )
    return ChosenUsers(histories, later, options.users, options.skips_unknown)


def _identity(options: AnswerOptions) -> dict[str, Any]:
    """Everything that determines the answers: two commands of one identity write the same file."""
    values: dict[str, Any] = dataclasses.asdict(options)
    for name in ("history", "force", "output", "engine", "workers"):
        del values[name]
    for name in ("source", "interactions", "allow", "deny"):
        values[name] = values[name] and _named(str(values[name]))
    values["users"] = _named(options.users or "")
    return {
        **values,
        "run": [file_hash(options.run / name) for name in ("run.json", "metrics.json")],
        "suffix": (options.output or Path()).suffix.lower(),
    }


def _named(text: str) -> str:
    """The content of the file or folder that a text names, else the text itself."""
    files = input_files(text)
    return content_hash(files) if files else text


@contextmanager
def _replacing(output: Path, force: bool) -> Iterator[Path]:
    """`replacing`, with a message for a file that appeared after the output was checked."""
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
    """Passes answers on and counts them, and those that are popular, short or empty."""
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
    """Writes each answer to a pipe or a device as soon as it is ready."""
    form = JsonLines()
    with writing(output), output.open("wb") as written:
        for each in answered:
            written.write(form.line(each, titles))


def _report(options: AnswerOptions, counts: Counter[str], answers: str, of: str) -> None:
    """Prints what was written, and what a reader may not expect in it."""
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
    """Prints one line; to stderr if a pipe gets the answers, which must hold nothing else."""
    typer.echo(visible(message), err=options.output is not None and is_stream(options.output))


def _say_nothing_left(of: str) -> None:
    typer.echo(
        f"nothing is left to recommend for {of}: --allow, --deny and --exclude-seen leave no item",
        err=True,
    )
