"""The reports of runs: the files in a folder that are reports, and the names of their systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalrec.report import Report


def read_runs(runs: list[str]) -> tuple[dict[str, list[Report]], dict[str, list[Path]]]:
    """The reports of each system, and the files that they come from.

    Args:
        runs: `[NAME=]PATH`. The path is a report, or a folder, of which all reports are read. A
            system is called by NAME, else by the report's own name, else by its path. Several
            reports of a folder are never pooled: each is a system, whose name also has the
            report's own name, or its place in the folder if own names are missing or repeat. Of a
            run's folder, those reports are read that its metrics.json lists as tested, with their
            names and in the order there. Systems of one NAME with the same name are pooled; without
            NAME, none are.

    Raises:
        DataError: If a path is missing, is not a report, or holds none; or two systems that are
            not pooled have the same name.
    """
    from evalrec.interactions import DataError
    from evalrec.report import read_report

    systems: dict[str, list[Report]] = {}
    files: dict[str, list[Path]] = {}
    for run in runs:
        prefix, path = name_and_path(run)
        reports = {file: read_report(file) for file in _report_files(path)}
        tested = _tested(path, reports)
        names = {file: f"{prefix or path}: {name}" for name, file in tested.items()}
        for file, name in (names or _names(prefix, path, reports)).items():
            if name in systems and prefix is None:
                raise DataError(
                    f"{file} and {files[name][0]} are both called {name!r}: give NAME=PATH, one "
                    "name to pool them as seeds or two to compare them"
                )
            systems.setdefault(name, []).append(reports[file])
            files.setdefault(name, []).append(file)
    return systems, files


def name_and_path(run: str) -> tuple[str | None, Path]:
    """NAME and PATH of `[NAME=]PATH`; if a file with the sign in its name exists, it is a path."""
    name, equals, path = run.partition("=")
    if equals and name and not Path(run).exists():
        return name, Path(path)
    return None, Path(run)


def _report_files(path: Path) -> list[Path]:
    """The reports that can be compared: those in a folder that contain the ranks of users."""
    from evalrec.interactions import DataError

    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.rglob("*.json")) if _is_report(file)]
    if not files:
        raise DataError(f"{path} holds no report: no .json file with the ranks of users")
    return files


def _is_report(file: Path) -> bool:
    from evalrec.documents import read_json
    from evalrec.interactions import DataError

    try:
        document = read_json(file)
    except DataError:
        return False  # a file of another program, which the folder may contain
    return {"format", "ks", "ranks"} <= document.keys()


def _tested(path: Path, reports: dict[Path, Report]) -> dict[str, Path]:
    """The reports of a run's folder that its metrics.json lists as tested, by name, in order.

    Empty if the folder is not a run's.

    Raises:
        DataError: If a report is missing, or metrics.json is damaged.
    """
    from evalrec.documents import read_json
    from evalrec.interactions import DataError

    metrics = path / "metrics.json"
    test = read_json(metrics).get("test") if metrics.is_file() else None
    if not isinstance(test, dict):
        return {}
    documents = {
        file: json.loads(json.dumps(report.to_json(per_user=False)))
        for file, report in reports.items()
    }
    tested = {}
    for name, document in test.items():
        file = next((file for file, each in documents.items() if each == document), None)
        if file is None:
            raise DataError(
                f"{metrics} says that {name!r} was tested, but no report below {path} is that one"
            )
        tested[name] = file
    return tested


def _names(prefix: str | None, path: Path, reports: dict[Path, Report]) -> dict[Path, str]:
    """The names of the reports at a path, after the NAME before the path if there is one."""
    if path in reports:
        return {path: prefix or reports[path].name or str(path)}
    system = prefix or str(path)
    if len(reports) == 1:
        return dict.fromkeys(reports, system)
    places = {file: _place(file.relative_to(path)) for file in reports}
    names = {file: report.name or places[file] for file, report in reports.items()}
    if len(set(names.values())) < len(names):
        names = places
    return {file: f"{system}: {name}" for file, name in names.items()}


def _place(file: Path) -> str:
    """The place of a report in its folder: "test" for test/report.json."""
    plain = file.parent if file.name == "report.json" and file.parent.name else file.with_suffix("")
    return plain.as_posix()
