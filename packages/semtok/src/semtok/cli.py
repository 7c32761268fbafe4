"""The command line: semtok fit, semtok encode, semtok inspect, semtok compare."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semtok import inspecting_cli
from semtok.console import Console, printable
from semtok.destinations import (
    alone_with_tokenizer,
    check_cache,
    codes_path,
    keep_inputs,
)
from semtok.option_groups import with_options
from semtok.options import (
    FitOptions,
    RunOptions,
    refuse_cache_with_ray,
    refuse_fitting,
    refuse_unused,
    refuse_without,
)
from semtok.phrases import counted
from semtok.storage import check_parent, recover

if TYPE_CHECKING:
    from semtok.collisions import Collisions
    from semtok.fitting import Items
    from semtok.health import CodeHealth
    from semtok.semantic_ids import SemanticIds
    from semtok.tokenizer import Encoding, Tokenizer

app = typer.Typer(
    help="Semantic IDs for a catalogue: item attributes to embeddings, embeddings to codes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        import semtok

        typer.echo(f"semtok {semtok.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options that stand before the name of a command."""


_CATALOG = typer.Argument(
    metavar="CATALOG",
    help="Items, one per line or row: .jsonl, .csv (both also with .gz) or .parquet; - for JSONL "
    "from standard input. Or their vectors: .npy or .safetensors with --ids, or .parquet.",
)


@app.command()
@with_options(options=FitOptions, run=RunOptions)
def fit(
    catalog: Annotated[Path, _CATALOG],
    output: Annotated[Path, typer.Option("--output", "-o", help="The tokenizer's folder.")],
    options: FitOptions,
    run: RunOptions,
) -> None:
    """Fit a tokenizer on a catalogue and save it, with its items' codes, to a folder."""
    options.check(run)
    _limit_threads(run)
    recover(output)
    if output.exists() and not run.force:
        raise FileExistsError(f"{output}: exists already; --force replaces it")
    check_parent(output)
    check_cache(run.cache)

    from semtok.artifact import save_tokenizer
    from semtok.fitting import fit_tokenizer, workspace
    from semtok.inspecting import fitted_lines

    alone = alone_with_tokenizer(output if output.exists() else None)
    with alone, Console(quiet=run.quiet) as console, workspace(output) as work:
        items = _read(catalog, options, run, work, console)
        tokenizer = fit_tokenizer(items, options, run, work=work, console=console)
        save_tokenizer(output, tokenizer, overwrite=run.force)
    _warn(console, tokenizer.collisions)
    console.show(_health(tokenizer))
    for line in fitted_lines(tokenizer):
        console.say(line)
    console.say(f"wrote {output}")


@app.command()
@with_options(options=FitOptions, run=RunOptions)
def encode(
    catalog: Annotated[Path, _CATALOG],
    options: FitOptions,
    run: RunOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .jsonl, .csv (both also with .gz) or .parquet file, or - for JSONL on "
            "standard output. Default: items.codes.jsonl beside items.jsonl.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Use this fitted tokenizer: items that it knows keep their codes, new items get "
            "free codes."
        ),
    ] = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Let the tokenizer remember the new items."),
    ] = False,
    refit_above: Annotated[
        float | None,
        typer.Option(
            help="Advise to fit again if the distance of new items to their codes exceeds that of "
            "fitted items by this factor. Default: 1.5."
        ),
    ] = None,
) -> None:
    """Write the codes of every item: one line per item, in order. No two items have the same."""
    if tokenizer is None:
        options.check(run)
        refuse_without("--tokenizer", {"--extend": extend, "--refit-above": refit_above})
    else:
        refuse_fitting(options)
        refuse_cache_with_ray(run)
    _limit_threads(run)
    output = codes_path(catalog, output, run.force)
    check_cache(run.cache)
    inputs = [catalog, *map(Path, options.files.values()), *([run.ids] if run.ids else [])]
    keep_inputs(output, inputs, tokenizer)
    console = Console(quiet=run.quiet, stdout_is_taken=str(output) == "-")
    if tokenizer is None:
        result = _encode_anew(catalog, output, options, run, console)
    else:
        result = _encode_with(
            tokenizer,
            catalog,
            output,
            options,
            run,
            console,
            extend=extend,
            refit_above=refit_above,
        )
    if str(output) == "-":
        from semtok.code_files import code_lines

        table = result.semantic_ids
        sys.stdout.writelines(code_lines(table.item_ids, table.codes))
        sys.stdout.flush()
    _warn(console, result.collisions)
    console.show(result.health)
    for line in result.lines:
        console.say(line)
    if str(output) != "-":
        console.say(f"wrote {output}")


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """The codes that `encode` writes, their health, and the lines that it prints about them.

    Attributes:
        semantic_ids: The codes.
        health: The health of the codes.
        collisions: The collisions of new codes, where these may be a fault.
        lines: Further lines to print.
    """

    semantic_ids: SemanticIds
    health: CodeHealth
    collisions: Collisions | None
    lines: list[str]


def _encode_anew(
    catalog: Path, output: Path, options: FitOptions, run: RunOptions, console: Console
) -> _Encoded:
    """`encode` without a tokenizer: fits one that is not kept."""
    from semtok.fitting import fit_tokenizer, workspace
    from semtok.inspecting import fitted_lines

    with console, workspace(output) as work:
        items = _read(catalog, options, run, work, console)
        tokenizer = fit_tokenizer(items, options, run, work=work, console=console)
        _write_codes(tokenizer.semantic_ids, output)
        health = _health(tokenizer)
    return _Encoded(
        semantic_ids=tokenizer.semantic_ids,
        health=health,
        collisions=tokenizer.collisions,
        lines=fitted_lines(tokenizer),
    )


def _encode_with(
    folder: Path,
    catalog: Path,
    output: Path,
    options: FitOptions,
    run: RunOptions,
    console: Console,
    *,
    extend: bool,
    refit_above: float | None,
) -> _Encoded:
    """`encode` with the tokenizer in a folder; with `extend`, it remembers the new items."""
    from semtok.artifact import load_tokenizer, save_tokenizer
    from semtok.fitting import encode_items, workspace
    from semtok.health import measure_health

    # The folder is locked from loading to saving, so that no other run gives the same codes.
    alone = alone_with_tokenizer(folder if extend else None)
    with alone, console, workspace(output) as work:
        tokenizer = load_tokenizer(folder, trust=run.trust or ())
        items = _read(catalog, options, run, work, console, tokenizer)
        refuse_unused(tokenizer, options, run)
        encoding = encode_items(
            tokenizer, items, options, run, refit_above=refit_above, work=work, console=console
        )
        health = measure_health(encoding.semantic_ids)
        if extend:
            # Saved before the codes: if the run dies in between, the next gives the same codes.
            save_tokenizer(folder, tokenizer.extended(encoding.semantic_ids), overwrite=True)
        _write_codes(encoding.semantic_ids, output)
    in_tree = encoding.drift is not None and encoding.drift.in_tree
    return _Encoded(
        semantic_ids=encoding.semantic_ids,
        health=health,
        collisions=None if in_tree else encoding.collisions,
        lines=_news(encoding, extend),
    )


def _warn(console: Console, collisions: Collisions | None) -> None:
    """Warns if most items collided, even if quiet."""
    from semtok.verdict import collision_warning

    warning = None if collisions is None else collision_warning(collisions)
    if warning is not None:
        console.warn(warning)


def _news(encoding: Encoding, extend: bool) -> list[str]:
    """Lines about the new items, if there are any."""
    drift = encoding.drift
    if drift is None:
        return []
    memory = "remembered" if extend else "not remembered: --extend keeps their codes"
    new = ", ".join(filter(None, [counted(drift.num_new, "new item"), drift.placement]))
    return [f"{new}; {memory}", str(drift)]


app.command()(inspecting_cli.inspect)
app.command()(inspecting_cli.compare)


def main() -> None:
    """Runs the command line: bad input ends in one line on stderr and exit code 1."""
    # Threads that spin while they wait slow other programs; OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(prog_name="semtok")
    except KeyboardInterrupt:
        _stop("interrupted; nothing is half-written", 130)
    except SystemExit as stop:
        if stop.code == 130:  # typer has swallowed a KeyboardInterrupt
            typer.echo("semtok: interrupted; nothing is half-written", err=True)
        raise
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _stop(text, 1)
    except (ValueError, ImportError) as error:
        _stop(str(error), 1)


def _stop(text: str, code: int) -> None:
    typer.echo("semtok: " + " ".join(printable(text).split()), err=True)
    sys.exit(code)


def _terminated(*_: object) -> None:
    sys.exit(143)


def _limit_threads(run: RunOptions) -> None:
    """Before numpy, faiss, torch and polars are imported: they read the setting only once."""
    if run.threads is not None:
        for name in ("OMP", "OPENBLAS", "MKL", "POLARS_MAX", "RAYON"):
            suffix = "THREADS" if name.endswith("MAX") else "NUM_THREADS"
            os.environ[f"{name}_{suffix}"] = str(run.threads)


def _write_codes(semantic_ids: SemanticIds, output: Path) -> None:
    """Writes the codes to a file; codes for standard output are written at the very end."""
    if str(output) != "-":
        semantic_ids.write(output)


def _read(
    catalog: Path,
    options: FitOptions,
    run: RunOptions,
    work: Path,
    console: Console,
    tokenizer: Tokenizer | None = None,
) -> Items:
    from semtok.fitting import Items
    from semtok.vector_files import is_of_vectors

    if is_of_vectors(catalog, options, run, tokenizer):
        return Items.read_vectors(catalog, run, console)
    return Items.read(catalog, id_column=run.id_column, work=work, console=console)


def _health(tokenizer: Tokenizer) -> CodeHealth:
    from semtok.inspecting import tokenizer_health

    return tokenizer_health(tokenizer)
