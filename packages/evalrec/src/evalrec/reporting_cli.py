"""The commands `evalrec floors`, `evalrec compare` and `evalrec gate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evalrec.runs import name_and_path, read_runs
from evalrec.terminal import print_table, say

if TYPE_CHECKING:
    from evalrec.report import Report
    from evalrec.splits import Split

TEXT_FIELDS = ("title", "categories")

PageOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Also write an HTML page with charts; needs evalrec\\[page]."
    ),
]


def floors(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with interactions.* and items.jsonl.")
    ],
    text_fields: Annotated[
        list[str] | None,
        typer.Option(
            "--text-field",
            metavar="NAME",
            help="A field of items.jsonl for the text of items; give it once per field. "
            "Default: title and categories.",
        ),
    ] = None,
    matrix_factorization: Annotated[
        bool,
        typer.Option(
            "--bpr/--no-bpr", help="Also train matrix factorisation; needs evalrec\\[implicit]."
        ),
    ] = True,
    ks: Annotated[
        list[int] | None, typer.Option("--k", min=1, help="A cut-off; give it once per cut-off.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the reports, which `compare` reads.")
    ] = None,
    page: PageOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit and test the floors that any model must beat: counts, text and a factorisation."""
    if out is not None:
        from evalrec.storage import check_writable

        check_writable(out, parents=True)
    _check_page(page)
    split, texts = _read(directory, tuple(text_fields or TEXT_FIELDS), required=bool(text_fields))
    most = split.num_items
    if ks and max(ks) > most:
        raise ValueError(f"--k must be at most the number of items, {most}, got {max(ks)}")
    cut_offs = tuple(sorted(set(ks or (min(k, most) for k in (5, 10, 20)))))
    reports, parameters = _fit_and_test(split, texts, matrix_factorization, cut_offs)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, report in reports.items():
            report.write_json(out / f"{name.replace(' ', '_').replace('+', 'and')}.json")
    title = f"Floors, test, {directory.name}"
    if page is not None:
        from evalrec.page import report_page

        chosen = {name: values for name, values in parameters.items() if values}
        report_page(reports, page, title=title, summary=chosen)
        typer.echo(f"wrote {page}", err=True)
    if as_json:
        documents = {
            name: {"parameters": parameters[name], **report.to_json(per_user=False)}
            for name, report in reports.items()
        }
        typer.echo(json.dumps(documents, indent=2))
    else:
        _print_floors(reports, parameters, title=title)


def _print_floors(
    reports: dict[str, Report], parameters: dict[str, dict[str, float]], *, title: str
) -> None:
    """The floors side by side, and their chosen parameters."""
    from evalrec.tables import reports_table

    print_table(reports_table(reports, title=title))
    for name, chosen in parameters.items():
        if chosen:
            settings = ", ".join(f"{key} {value:g}" for key, value in chosen.items())
            say(f"{name}: {settings}")


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="[NAME=]PATH of a report, of a folder of reports, or of a run's folder. Reports "
            "of one NAME are seeds of one system. Reports in one folder are several systems; each "
            "is pooled with the same system in NAME's other folders. Without NAME, each report is "
            "a system. The first system is the baseline.",
        ),
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Such as recall@5; repeatable. Default: recall@10, ndcg@10."),
    ] = None,
    output: Annotated[
        Literal["table", "json", "latex", "markdown"],
        typer.Option("--format", help="The format of the output."),
    ] = "table",
    samples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 5000,
    seed: Annotated[int, typer.Option(help="The seed of the bootstrap.")] = 0,
    page: PageOption = None,
) -> None:
    """Compare systems user by user: means, differences, intervals and corrected tests."""
    from evalrec.comparison import compare as compare_systems
    from evalrec.tables import comparison_table, to_latex, to_markdown

    _check_page(page)
    systems, files = read_runs(runs)
    comparison = compare_systems(
        systems, metrics=metrics or ("recall@10", "ndcg@10"), num_samples=samples, seed=seed
    )
    if page is not None:
        from evalrec.page import comparison_page

        comparison_page(comparison, page, title=f"Compared with {comparison.systems[0].name}")
        typer.echo(f"wrote {page}", err=True)
    if output == "json":
        sources = {name: [str(path) for path in paths] for name, paths in files.items()}
        typer.echo(json.dumps({**comparison.to_json(), "files": sources}, indent=2))
    elif output == "latex":
        say(to_latex(comparison).rstrip())
    elif output == "markdown":
        say(to_markdown(comparison).rstrip())
    else:
        for name, paths in files.items():
            plural = f"{len(paths)} seeds" if len(paths) > 1 else "1 report"
            say(f"{name}: {plural}")
            for path in paths:
                say(f"  {path}")
        print_table(comparison_table(comparison), width=120)


def gate(
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="A report, or a folder of reports, such as a run.")
    ],
    old: Annotated[str, typer.Argument(metavar="OLD", help="The reports to compare it with.")],
    metric: Annotated[str, typer.Option(help="Such as recall@5.")] = "ndcg@10",
    tolerance: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="By how much NEW may be worse: a share of OLD's mean, as 0.5%, or a number in the "
            "unit of the metric, as 0.002.",
        ),
    ] = "0%",
    mode: Annotated[
        Literal["filtered", "unfiltered"],
        typer.Option(help="Whether the items of a user's own history are removed (filtered)."),
    ] = "filtered",
    system: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which report, if a folder holds several."),
    ] = None,
    samples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 5000,
    seed: Annotated[int, typer.Option(help="The seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Exit 0 if NEW is no worse than OLD, up to the tolerance, 1 if it is worse; for pipelines.

    NEW passes if it loses no more than the tolerance at the worse end of the paired 95 % interval
    of NEW - OLD: so it has to show that it is no worse.
    """
    from evalrec.gating import gate as judge
    from evalrec.gating import parse_tolerance
    from evalrec.tables import gate_text

    try:
        parse_tolerance(tolerance)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--tolerance") from error
    reports = [_chosen(path, system) for path in (new, old)]
    for each in (report for of_system in reports for report in of_system):
        if metric not in each.known_metrics:
            raise typer.BadParameter(
                f"metric must be one of {', '.join(each.known_metrics)}, got {metric!r}",
                param_hint="--metric",
            )
    verdict = judge(
        *reports, metric=metric, mode=mode, tolerance=tolerance, num_samples=samples, seed=seed
    )
    if as_json:
        typer.echo(json.dumps(verdict.to_json(), indent=2))
    else:
        say(gate_text(verdict))
    if not verdict.passed:
        raise typer.Exit(1)


def _chosen(path: str, system: str | None) -> list[Report]:
    """The reports of one system at a path: the only one, or the one with the name.

    Raises:
        BadParameter: If there are several, or none with that name.
    """
    systems, _ = read_runs([path])
    prefix, place = name_and_path(path)
    names = {name.removeprefix(f"{prefix or place}: "): name for name in systems}
    if len(systems) == 1 and system is None:
        return next(iter(systems.values()))
    if system not in names:
        raise typer.BadParameter(
            f"{path} holds {', '.join(names)}: --system must name one of them",
            param_hint="--system",
        )
    return systems[names[system]]


def _check_page(page: Path | None) -> None:
    """Refuse a page that could not be written, before anything is computed.

    Raises:
        ImportError: If the extra for charts is missing; the message names it.
        OSError: If the path is a folder, or its folder is missing.
    """
    if page is None:
        return
    from evalrec.page.figures import check_matplotlib
    from evalrec.storage import check_writable

    check_matplotlib()
    check_writable(page)


def _read(
    directory: Path, text_fields: tuple[str, ...], *, required: bool
) -> tuple[Split, list[str] | None]:
    """A native folder's split and texts; texts are None if no item has one and none is needed."""
    from evalrec.interactions import DataError
    from evalrec.progress import ProgressScreen
    from evalrec.readers.native import find_interactions, find_items, read_interactions, read_items
    from evalrec.splits import leave_one_out

    with ProgressScreen() as screen:
        screen("reading", 0, 1)
        path = find_items(directory)
        item_ids, texts = [], []
        for _, record in read_items(path):
            item_ids.append(record["item_id"])
            texts.append(_text(record, text_fields))
        table = read_interactions(find_interactions(directory), item_ids=item_ids)
        split = leave_one_out(table)
        screen("reading", 1, 1)
    if not any(texts) and required:
        raise DataError(f"{path}: no item has a text in {', '.join(text_fields)}")
    return split, texts if any(texts) else None


def _text(record: dict[str, Any], fields: tuple[str, ...]) -> str:
    from evalrec.readers.cleaning import unescape

    words: list[str] = []
    for field in fields:
        value = record.get(field)
        parts = value if isinstance(value, list) else [value]
        words.extend(str(part) for part in parts if part is not None)
    return unescape(" ".join(words)).strip()


def _fit_and_test(
    split: Split, texts: list[str] | None, matrix_factorization: bool, ks: tuple[int, ...]
) -> tuple[dict[str, Report], dict[str, dict[str, float]]]:
    from functools import partial

    from evalrec.evaluate import evaluate
    from evalrec.floors import fit_floors
    from evalrec.matrix_factorization import fit_matrix_factorization
    from evalrec.progress import ProgressScreen

    with ProgressScreen() as screen:
        fitted = fit_floors(split, texts, progress=partial(screen, "fitting floors"))
        models: dict[str, Any] = {name: floor.score for name, floor in fitted.items()}
        parameters = {name: dict(floor.parameters) for name, floor in fitted.items()}
        if matrix_factorization:
            try:
                factors = fit_matrix_factorization(
                    split, progress=partial(screen, "fitting matrix factorisation")
                )
            except ImportError as error:
                say(f"evalrec: left out: {error}", err=True)
            else:
                models["bpr"] = factors.scorer(split.test)
                parameters["bpr"] = dict(factors.parameters)
        reports = {
            name: evaluate(
                split.test,
                model,
                ks=ks,
                item_counts=split.item_counts,
                name=name,
                progress=partial(screen, f"testing {name}"),
            )
            for name, model in models.items()
        }
    return reports, parameters
