"""The options of `semtok fit` and `semtok encode`, and which of them go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from semtok.limits import MOST_CODES

if TYPE_CHECKING:
    from semtok.embedding.kinds import EmbeddingKind
    from semtok.tokenizer import Tokenizer

Engine = Literal["local", "ray"]

QUANTIZER_NAMES = ("hierarchical", "pq", "opq", "rq", "rqvae", "random")
TEXT_KINDS = ("lsa", "text")
"""The kinds of embeddings that read texts."""

_FITTING = "How to fit"
_RUNNING = "How to run"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that do not change the codes; None where an option was not set."""

    id_column: Annotated[
        str, typer.Option(help="The field with the item's id.", rich_help_panel=_RUNNING)
    ] = "item_id"
    ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="If CATALOG is a .npy or .safetensors file of vectors: a text file with the ids "
            "of its rows, one per line.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="Where models run, as torch names it. Default: cpu.", rich_help_panel=_RUNNING
        ),
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder that keeps embeddings by content: a second run embeds only what "
            "changed, and a killed run resumes.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    engine: Annotated[
        Engine,
        typer.Option(
            help="ray embeds and encodes on all machines of a Ray cluster, or all cores of this "
            "one (semtok[ray]).",
            rich_help_panel=_RUNNING,
        ),
    ] = "local"
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads to use at most. Default: all.", rich_help_panel=_RUNNING),
    ] = None
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE",
            help="Let the code of this package run, for parts named package.module:Name; give the "
            "option once a package.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Only warnings and errors.", rich_help_panel=_RUNNING),
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=_RUNNING)
    ] = False


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options that change the codes; None where an option was not set."""

    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="lsa|minilm|MODEL|FILE",
            help="lsa (the default: no download), minilm, a sentence-transformers name or folder, "
            "a .npy, .safetensors or .parquet file of embeddings, or package.module:Name of "
            "another package.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    fields: Annotated[
        str | None,
        typer.Option(
            help="Fields that make an item's text, separated by commas. Default: those of title, "
            "brand, categories, features and description that exist.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    views: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=EMBEDDING],...",
            help="Fields to embed separately, by --embedding or as named here: title,"
            "brand=lsa,sound=sound.npy,image=resnet50. A field image holds paths of images; their "
            "models are resnet50 and open_clip's, MODEL or MODEL@WEIGHTS. Default: ViT-B-32.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse",
            help="Quantize the concatenated views as one vector. Default: each view alone, and "
            "the codes concatenated.",
            rich_help_panel=_FITTING,
        ),
    ] = False
    pca: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="DIM",
            help="Reduce the embeddings of each view to this many dimensions.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    whiten: Annotated[
        bool,
        typer.Option(
            "--whiten", help="Scale each dimension to unit variance.", rich_help_panel=_FITTING
        ),
    ] = False
    quantizer: Annotated[
        str,
        typer.Option(
            metavar="|".join(QUANTIZER_NAMES),
            help="The method that makes codes of vectors; or package.module:Name.",
            rich_help_panel=_FITTING,
        ),
    ] = "hierarchical"
    levels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Codes per item, or per view of an item. hierarchical chooses its own number.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    codebook_size: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=MOST_CODES,
            help="Codes at each level. Default: 256.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    beams: Annotated[
        int | None,
        typer.Option(min=1, help="For rq: width of the beam search.", rich_help_panel=_FITTING),
    ] = None
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced",
            help="For hierarchical: make all clusters equally large.",
            rich_help_panel=_FITTING,
        ),
    ] = False
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="For rqvae: passes over the items.", rich_help_panel=_FITTING),
    ] = None
    collisions: Annotated[
        Literal["reassign", "suffix", "allow"] | None,
        typer.Option(
            help="What an item gets whose codes are taken: the nearest free code (the default), "
            "an additional code that numbers such items, or the same codes.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(help="Precision of text models. Default: fp32.", rich_help_panel=_FITTING),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Prompt before every text of text models. Default: the model's own for documents.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    truncate_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many leading dimensions of a text model to keep. Default: the model's own.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    fix_text: Annotated[
        bool,
        typer.Option(
            "--fix-text",
            help="Repair text that was decoded by the wrong encoding, now and for new items "
            "(semtok[ftfy]).",
            rich_help_panel=_FITTING,
        ),
    ] = False
    missing_images: Annotated[
        Literal["error", "empty"] | None,
        typer.Option(
            help="What to do with an image that is absent or broken: stop with an error that names "
            "the item (the default), or use an empty vector.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The same seed and catalogue give the same codes. Default: 0.",
            rich_help_panel=_FITTING,
        ),
    ] = None

    @property
    def specs(self) -> dict[str, str]:
        """The embedding of each view by its name; one view called "embedding" without --views."""
        from semtok.embedding.kinds import IMAGE_FIELD, IMAGE_MODEL

        default = self.embedding or "lsa"
        if self.views is None:
            return {"embedding": default}
        specs: dict[str, str] = {}
        for part in self.views.split(","):
            name, equals, embedding = (piece.strip() for piece in part.partition("="))
            if not name or (equals and not embedding) or name in specs:
                raise typer.BadParameter(
                    f"must name each view once, got {part!r}", param_hint="--views"
                )
            specs[name] = embedding or (IMAGE_MODEL if name == IMAGE_FIELD else default)
        return specs

    @property
    def kinds(self) -> dict[str, EmbeddingKind]:
        """The kind of each view's embedding."""
        from semtok.embedding.kinds import embedding_kind

        return {name: embedding_kind(spec, (name,)) for name, spec in self.specs.items()}

    @property
    def files(self) -> dict[str, str]:
        """The files of embeddings by the names of their views."""
        from semtok.embedding.kinds import is_stored

        return {name: spec for name, spec in self.specs.items() if is_stored(spec)}

    def files_for(self, tokenizer: Tokenizer) -> dict[str, str]:
        """The files of embeddings for the views of a tokenizer: --embedding is for the first."""
        files = self.files
        if self.views is None and files:
            return {tokenizer.views[0].name: files["embedding"]}
        return files

    def check(self, run: RunOptions) -> None:
        """Raises BadParameter if an option has no effect together with the others.

        Raises:
            CatalogError: If a package is not trusted, or has no such part.
        """
        from semtok.embedding.kinds import check_source
        from semtok.plugins import is_plugin

        if self.quantizer not in QUANTIZER_NAMES and not is_plugin(self.quantizer):
            names = ", ".join(QUANTIZER_NAMES)
            raise typer.BadParameter(
                f"must be one of {names}, or package.module:Name, got {self.quantizer!r}",
                param_hint="--quantizer",
            )
        for spec in self.specs.values():
            check_source(spec, trust=run.trust or ())
        kinds = self.kinds.values()
        if self.views is not None:
            _refuse(self.fields, "--fields", "has no effect with --views, which names the fields")
            if all("=" in part for part in self.views.split(",")):
                _refuse(self.embedding, "--embedding", "has no effect: each view names its own")
        refuse_cache_with_ray(run)
        if len(kinds) == 1:
            _refuse(self.fuse, "--fuse", "needs several --views")
        if self.pca is None:
            _refuse(self.whiten, "--whiten", "needs --pca")
        if set(kinds) == {"stored"}:
            _refuse(self.fields, "--fields", "has no effect with stored embeddings")
            _refuse(run.cache, "--cache", "has no effect with stored embeddings")
            _refuse(run.engine == "ray", "--engine", "has no effect with stored embeddings")
        if "text" not in kinds:
            _refuse(self.precision, "--precision", "needs a text model")
            _refuse(self.prompt, "--prompt", "needs a text model")
            _refuse(self.truncate_dim, "--truncate-dim", "needs a text model")
        if not set(TEXT_KINDS) & set(kinds):
            _refuse(self.fix_text, "--fix-text", "needs lsa or a text model")
        if "image" not in kinds:
            _refuse(self.missing_images, "--missing-images", "needs a view of images")
        defaults = self._defaults(run)
        if not {"text", "image", "plugin"} & set(kinds) and "device" not in defaults:
            _refuse(
                run.device, "--device", "needs a model of texts or images, or another quantizer"
            )
        for flag, value, name in self._of_quantizer():
            if value is not None and name not in defaults:
                raise typer.BadParameter(
                    f"has no effect with --quantizer {self.quantizer}", param_hint=flag
                )

    def check_capacity(self, num_items: int, run: RunOptions) -> None:
        """Raises ValueError if each item needs its own codes and there are too few."""
        defaults = self._defaults(run)
        is_known = {"num_levels", "codebook_size"} <= defaults.keys()
        if self.collisions in ("suffix", "allow") or not is_known:
            return
        levels = self.levels or defaults["num_levels"]
        levels *= 1 if self.fuse else len(self.specs)
        size = self.codebook_size or defaults["codebook_size"]
        if size**levels < num_items:
            raise ValueError(
                f"codes must leave a free one, got {num_items:,} items for {size**levels:,}: give "
                "more --levels, a larger --codebook-size, or --collisions suffix"
            )

    def check_dims(self, shapes: Mapping[str, tuple[int, ...]], run: RunOptions) -> None:
        """Raises ValueError if the embeddings of a view, [items, dim], are too few or too short."""
        dims = []
        for name, (num_items, dim) in shapes.items():
            if self.pca is not None and self.pca > min(num_items, dim):
                raise ValueError(
                    f"--pca must be at most {min(num_items, dim)}, as view {name!r} has "
                    f"{num_items:,} items of {dim} dimensions, got {self.pca}"
                )
            dims.append(self.pca or dim)
        most = sum(dims) if self.fuse else min(dims)
        levels = self.levels or self._defaults(run).get("num_levels", 1)
        if self.quantizer in ("pq", "opq") and levels > most:
            raise ValueError(
                f"--levels must be at most {most}, as there are dimensions, got {levels}"
            )

    def quantizer_options(self, run: RunOptions) -> dict[str, Any]:
        """The options of the quantizer's `fit` that were set."""
        options = {name: value for _, value, name in self._of_quantizer() if value is not None}
        if "device" in self._defaults(run) and run.device is not None:
            options["device"] = run.device
        return {**options, "seed": self.seed or 0}

    def _of_quantizer(self) -> Iterable[tuple[str, object, str]]:
        yield "--levels", self.levels, "num_levels"
        yield "--codebook-size", self.codebook_size, "codebook_size"
        yield "--beams", self.beams, "num_beams"
        yield "--balanced", self.balanced or None, "balanced"
        yield "--epochs", self.epochs, "epochs"

    def _defaults(self, run: RunOptions) -> Mapping[str, Any]:
        """The options that the quantizer takes, with their defaults."""
        from semtok.quantizers.kinds import quantizer_kind

        return quantizer_kind(self.quantizer, trust=run.trust or ()).defaults


def refuse_fitting(options: FitOptions) -> None:
    """Raises BadParameter if an option describes the fitting of a tokenizer that is fitted already.

    Files of embeddings are not such an option: a tokenizer without a source needs one.
    """
    from semtok.embedding.kinds import is_stored

    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "views" and value is not None:
            value = None if all(map(is_stored, options.specs.values())) else value
        if field.name == "embedding" and value is not None:
            value = None if is_stored(value) else value
        if value != field.default and value is not None:
            raise typer.BadParameter(
                "has no effect with --tokenizer, which is fitted already",
                param_hint="--" + field.name.replace("_", "-"),
            )


def refuse_unused(tokenizer: Tokenizer, options: FitOptions, run: RunOptions) -> None:
    """Raises BadParameter if an option has no effect with this fitted tokenizer."""
    sources = {view.name: view.source for view in tokenizer.views if view.source is not None}
    if not sources:
        _refuse(run.cache, "--cache", "has no effect: the tokenizer embeds nothing itself")
    if not any(hasattr(source, "device") for source in sources.values()):
        reason = "has no effect: the tokenizer has no model of texts or images"
        _refuse(run.device, "--device", reason)
    for name in options.files_for(tokenizer):
        flag = "--embedding" if options.views is None else "--views"
        reason = f"has no effect: the tokenizer embeds view {name!r} itself"
        _refuse(name in sources, flag, reason)


def refuse_cache_with_ray(run: RunOptions) -> None:
    """Raises BadParameter if a cache is set for the Ray engine, which has none."""
    if run.engine == "ray":
        _refuse(run.cache, "--cache", "has no effect with --engine ray")


def _refuse(value: object, flag: str, reason: str) -> None:
    if value:
        raise typer.BadParameter(reason, param_hint=flag)


def refuse_without(needed: str, values: dict[str, object]) -> None:
    """Raises BadParameter if a flag was set that has no meaning without another one."""
    for flag, value in values.items():
        _refuse(value, flag, f"needs {needed}")
