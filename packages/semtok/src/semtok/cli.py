"""The command line: semtok fit, semtok encode, semtok inspect."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

if TYPE_CHECKING:
    import numpy as np

    from semtok.catalog import Catalog
    from semtok.embedding.contract import EmbeddingSource
    from semtok.health import CodeHealth
    from semtok.tokenizer import Tokenizer

app = typer.Typer(
    help="Semantic IDs for a catalogue: item attributes to embeddings, embeddings to codes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_CATALOG = typer.Argument(
    metavar="CATALOG", help="Items, one a line or row: .jsonl, .jsonl.gz, .csv or .parquet."
)
_EMBEDDING = typer.Option(
    metavar="lsa|minilm|MODEL|FILE",
    help="lsa (the default: no download), minilm, a sentence-transformers name or folder, or a "
    ".npy, .safetensors or .parquet file of embeddings.",
)
_FIELDS = typer.Option(
    help="Fields that make an item's text, joined by commas. Default: title, brand, categories, "
    "features and description, as far as there are any."
)
_ID_COLUMN = typer.Option(help="The field with the item's id.")
_SIZE = typer.Option(help="Codes at each level. Default: 256.")
_BALANCED = typer.Option("--balanced", help="Make clusters equal in size.")
_SEED = typer.Option(help="Same seed, same catalogue: same codes. Default: 0.")
_FORCE = typer.Option("--force", help="Replace what is there.")


@app.command()
def fit(
    catalog: Annotated[Path, _CATALOG],
    output: Annotated[Path, typer.Option("--output", "-o", help="The tokenizer's folder.")],
    embedding: Annotated[str | None, _EMBEDDING] = None,
    fields: Annotated[str | None, _FIELDS] = None,
    id_column: Annotated[str, _ID_COLUMN] = "item_id",
    codebook_size: Annotated[int | None, _SIZE] = None,
    balanced: Annotated[bool, _BALANCED] = False,
    collisions: Annotated[
        Literal["reassign", "suffix", "allow"],
        typer.Option(
            help="What a new item gets whose codes are taken: a free code beside them, one level "
            "more that numbers such items, or the same codes."
        ),
    ] = "reassign",
    seed: Annotated[int | None, _SEED] = None,
    force: Annotated[bool, _FORCE] = False,
) -> None:
    """Fit a tokenizer on a catalogue and save it, with its items' codes, to a folder."""
    if output.exists():
        if not force:
            raise FileExistsError(f"{output}: exists already; --force replaces it")
        from semtok.artifact import is_tokenizer

        if not is_tokenizer(output):
            raise FileExistsError(f"{output}: exists and is no tokenizer, so it is not replaced")
    _check_parent(output)
    options = _Options(embedding, fields, id_column, codebook_size, balanced, seed)
    with _Reporter() as report:
        items = _read(catalog, id_column, report)
        tokenizer = _fit(items, options, collisions, report)

    from semtok.artifact import save_tokenizer

    save_tokenizer(output, tokenizer, overwrite=force)
    _print_health(_health(tokenizer))
    typer.echo(f"wrote {output}")


@app.command()
def encode(
    catalog: Annotated[Path, _CATALOG],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .jsonl or .parquet file. Default: items.codes.jsonl beside items.jsonl.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Use this fitted tokenizer: items that it knows keep their codes, new ones get "
            "codes that are free."
        ),
    ] = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Let the tokenizer remember the new items."),
    ] = False,
    embedding: Annotated[str | None, _EMBEDDING] = None,
    fields: Annotated[str | None, _FIELDS] = None,
    id_column: Annotated[str, _ID_COLUMN] = "item_id",
    codebook_size: Annotated[int | None, _SIZE] = None,
    balanced: Annotated[bool, _BALANCED] = False,
    seed: Annotated[int | None, _SEED] = None,
    force: Annotated[bool, _FORCE] = False,
) -> None:
    """Write the codes of every item: one line an item, in order, no two items with the same."""
    options = _Options(embedding, fields, id_column, codebook_size, balanced, seed)
    if tokenizer is not None:
        _refuse_fitting(options)
    elif extend:
        raise typer.BadParameter("needs --tokenizer", param_hint="--extend")
    output = _codes_path(catalog, output, force)

    with _Reporter() as report:
        items = _read(catalog, id_column, report)
        if tokenizer is None:
            fitted = _fit(items, options, "reassign", report)
            semantic_ids, health = fitted.semantic_ids, _health(fitted)
        else:
            from semtok.artifact import load_tokenizer
            from semtok.health import measure_health

            fitted = load_tokenizer(tokenizer)
            vectors = _read_stored(embedding, items, id_column) if embedding else None
            semantic_ids = fitted.encode(items, embeddings=vectors, progress=report)
            health = measure_health(semantic_ids)
    num_new = sum(not fitted.semantic_ids.has(item_id) for item_id in items.item_ids)
    if extend and tokenizer is not None:
        from semtok.artifact import save_tokenizer

        # Before the codes: whatever happens in between, the tokenizer gives the same ones again.
        save_tokenizer(tokenizer, fitted.extended(semantic_ids), overwrite=True)
    semantic_ids.write(output)
    _print_health(health)
    if num_new:
        memory = "remembered" if extend else "not remembered: --extend keeps their codes"
        typer.echo(f"{num_new:,} new items, {memory}")
    typer.echo(f"wrote {output}")


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="TOKENIZER|CODES", help="A tokenizer's folder or a file of codes."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how good codes are: utilisation, perplexity, collisions, depth, distortion."""
    import json

    from semtok.artifact import load_tokenizer
    from semtok.health import measure_health
    from semtok.semantic_ids import SemanticIds

    if path.is_file():
        health = measure_health(SemanticIds.read(path, allow_collisions=True))
    else:
        health = _health(load_tokenizer(path))
    if as_json:
        typer.echo(json.dumps(health.to_dict(), indent=2))
    else:
        _print_health(health)


def main() -> None:
    """Runs the command line: bad input ends in one line on stderr and exit code 1."""
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
    typer.echo("semtok: " + " ".join(text.split()), err=True)
    sys.exit(code)


def _check_parent(output: Path) -> None:
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"{output.parent}: no such folder")


class _Options(NamedTuple):
    """How to fit, as the command line was given it; None where it was not."""

    embedding: str | None
    fields: str | None
    id_column: str
    codebook_size: int | None
    balanced: bool
    seed: int | None


def _is_stored(embedding: str | None) -> bool:
    return embedding is not None and embedding.endswith((".npy", ".safetensors", ".parquet"))


def _refuse_fitting(options: _Options) -> None:
    """Raises BadParameter if an option says how to fit what is fitted already."""
    for value, flag in (
        (None if _is_stored(options.embedding) else options.embedding, "--embedding"),
        (options.fields, "--fields"),
        (options.codebook_size, "--codebook-size"),
        (options.balanced or None, "--balanced"),
        (options.seed, "--seed"),
    ):
        if value is not None:
            raise typer.BadParameter(
                "has no effect with --tokenizer, which is fitted already", param_hint=flag
            )


def _codes_path(catalog: Path, output: Path | None, force: bool) -> Path:
    """Where the codes go; raises if they cannot go there."""
    from semtok.catalog import catalog_suffix

    suffix = catalog_suffix(catalog)
    if output is None:
        output = catalog.with_name(catalog.name[: -len(suffix)] + ".codes.jsonl")
    if output.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{output}: must end in .jsonl or .parquet")
    if output.exists() and catalog.exists() and output.samefile(catalog):
        raise FileExistsError(f"{output}: is the catalogue itself")
    if output.is_dir() or (output.exists() and not force):
        raise FileExistsError(f"{output}: exists already; --force replaces it")
    _check_parent(output)
    return output


def _fit(
    items: Catalog,
    options: _Options,
    policy: Literal["reassign", "suffix", "allow"],
    report: _Reporter,
) -> Tokenizer:
    """Fits a tokenizer, showing each of its steps."""
    import os

    from semtok.catalog import TEXT_FIELDS
    from semtok.quantizers.hierarchical import HierarchicalKMeans
    from semtok.tokenizer import Tokenizer

    embedding, seed = options.embedding or "lsa", options.seed or 0
    names: tuple[str, ...] = TEXT_FIELDS
    if options.fields is not None:
        names = tuple(name.strip() for name in options.fields.split(","))
        items.require_fields(names)
    source: EmbeddingSource | None = None
    vectors: np.ndarray | None = None
    if _is_stored(embedding):
        if options.fields is not None:
            raise typer.BadParameter("has no effect with stored embeddings", param_hint="--fields")
        vectors = _read_stored(embedding, items, options.id_column)
    elif embedding == "lsa":
        from semtok.embedding.lsa import LsaEmbedding

        report("learning words", 0, 1)
        source = LsaEmbedding.fit(items, fields=names, seed=seed)
        report("learning words", 1, 1)
    else:
        from semtok.embedding.text import TextEmbedding

        if not sys.stderr.isatty():
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        source = TextEmbedding(model=embedding, fields=names)
    return Tokenizer.fit(
        items,
        source=source,
        embeddings=vectors,
        quantizer=partial(
            HierarchicalKMeans.fit,
            codebook_size=256 if options.codebook_size is None else options.codebook_size,
            balanced=options.balanced,
            seed=seed,
        ),
        policy=policy,
        progress=report,
    )


def _read(catalog: Path, id_column: str, report: _Reporter) -> Catalog:
    from semtok.catalog import read_catalog

    report("reading", 0, 1)
    items = read_catalog(catalog, id_column=id_column)
    report("reading", 1, 1)
    return items


def _read_stored(path: str, items: Catalog, id_column: str) -> np.ndarray:
    from semtok.embedding.stored import read_embeddings

    return read_embeddings(path, items.item_ids, id_column=id_column)


def _health(tokenizer: Tokenizer) -> CodeHealth:
    from semtok.health import measure_health

    return measure_health(
        tokenizer.semantic_ids,
        collisions=tokenizer.collisions,
        distortion=tokenizer.distortion,
    )


def _print_health(health: CodeHealth) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 100).print(health.table())


class _Reporter:
    """Shows how far each stage is: bars on a terminal, plain lines elsewhere; both on stderr."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._shown = 0.0
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Reporter:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=None)
            # Until the first item is done there is nothing to fill the bar with: let it pulse.
            self._bars.update(self._tasks[stage], completed=done, total=total if done else None)
        elif stage not in self._started:
            typer.echo(f"{stage} ...", err=True)
        elif done >= total:
            typer.echo(f"{stage}: {now - self._started[stage]:.1f} s", err=True)
        elif now - self._shown >= 10:
            typer.echo(f"{stage}: {done:,} of {total:,}", err=True)
        else:
            return
        self._started.setdefault(stage, now)
        self._shown = now
