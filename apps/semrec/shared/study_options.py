"""The options of `study`: its name, values and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from semrec.shared.studies import Outcome, Study

StudyArgument = Annotated[str, typer.Argument(metavar="NAME", help="One of the studies above")]
SeedsOption = Annotated[
    str | None,
    typer.Option(help="Seeds separated by commas, for all variants (default: the run's)"),
]

ValuesOption = Annotated[
    str | None, typer.Option(help="Values of a study of one setting, separated by commas")
]


STUDY_HELP = (
    "Train variants of a run and compare them in its report. Variants that the run or another "
    "study has trained are not trained again."
)


def studies_help(studies: Mapping[str, Study[Any]]) -> str:
    """The help text of `study`: each study with its docstring."""
    lines = [f"{name}: {(study.__doc__ or '').strip()}" for name, study in studies.items()]
    return "\n\n".join([STUDY_HELP, *lines])


def choose_study(studies: Mapping[str, Study[Any]], name: str) -> Study[Any]:
    """The study of that name; a usage error if there is none."""
    if name not in studies:
        raise typer.BadParameter(f"NAME must be one of {', '.join(studies)}, got {name!r}")
    return studies[name]


def with_values(studies: Mapping[str, Study[Any]], name: str, values: str | None) -> Study[Any]:
    """A study with its values.

    Args:
        studies: The studies of the app. Some have a parameter `values`, whose type gives the type
            of the values.
        name: The name of the study.
        values: Values separated by commas; None keeps the study's own.
    """
    study = choose_study(studies, name)
    if values is None:
        return study
    kinds = {n: get_type_hints(known).get("values") for n, known in studies.items()}
    if kinds[name] is None:
        known = ", ".join(n for n, kind in kinds.items() if kind) or "no study"
        raise typer.BadParameter(f"--values must be unset for {name}: {known} take it")
    parts = [part.strip() for part in values.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise typer.BadParameter(
            f"--values must be different values separated by commas, got {values!r}"
        )
    (kind,) = get_args(kinds[name])
    with_parameter: Callable[..., Outcome] = study
    return partial(with_parameter, values=[_value(part, kind) for part in parts])


def _value(text: str, kind: type) -> int | float | str:
    """A value of a study; numbers are positive."""
    if kind is str:
        return text
    words = {int: "whole numbers", float: "numbers"}[kind]
    try:
        value: int | float = kind(text)
    except ValueError as error:
        raise typer.BadParameter(f"--values must be {words}, got {text!r}") from error
    if not value > 0:
        raise typer.BadParameter(f"--values must be positive, got {text!r}")
    return value


def parse_seeds(seeds: str | None, default: int) -> list[int]:
    """The seeds of the command line; the run's own without any."""
    if seeds is None:
        return [default]
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"--seeds must be whole numbers separated by commas, got {seeds!r}"
        ) from error
    if min(numbers) < 0:
        raise typer.BadParameter(f"--seeds must be at least 0, got {seeds!r}")
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"--seeds must be different, got {seeds!r}")
    return numbers
