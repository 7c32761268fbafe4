"""The options of `semtok fit` and `semtok encode`, and which of them go together."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

Engine = Literal["local", "ray"]
STORED_SUFFIXES = (".npy", ".safetensors", ".parquet")
IMAGE_VIEW, IMAGE_MODEL = "image", "ViT-B-32"

_FITTING = "How to fit"
_RUNNING = "How to run"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What does not change the codes; None where it was not given."""

    id_column: Annotated[
        str, typer.Option(help="The field with the item's id.", rich_help_panel=_RUNNING)
    ] = "item_id"
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
            help="Keep embeddings here by content: a second run embeds only what changed, a "
            "killed one resumes.",
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
        typer.Option(min=1, help="Threads at most. Default: all.", rich_help_panel=_RUNNING),
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
    """What decides the codes; None where it was not given."""

    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="lsa|minilm|MODEL|FILE",
            help="lsa (the default: no download), minilm, a sentence-transformers name or folder, "
            "or a .npy, .safetensors or .parquet file of embeddings.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    fields: Annotated[
        str | None,
        typer.Option(
            help="Fields that make an item's text, joined by commas. Default: title, brand, "
            "categories, features and description, as far as there are any.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    views: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=EMBEDDING],...",
            help="Fields that are embedded each alone, by --embedding or as said here: title,"
            "brand=lsa,sound=sound.npy,image=resnet50. A field image holds paths of images; their "
            "models are resnet50 and open_clip's, MODEL or MODEL@WEIGHTS. Default: ViT-B-32.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse",
            help="Quantize the views side by side as one vector. Default: each alone, the codes "
            "one after the other.",
            rich_help_panel=_FITTING,
        ),
    ] = False
    pca: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="DIM",
            help="Reduce embeddings, each view's alone, to so many dimensions.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    whiten: Annotated[
        bool,
        typer.Option(
            "--whiten", help="Scale each of them to unit variance.", rich_help_panel=_FITTING
        ),
    ] = False
    quantizer: Annotated[
        Literal["hierarchical", "pq", "opq", "rq", "rqvae", "random"],
        typer.Option(help="What makes codes of vectors.", rich_help_panel=_FITTING),
    ] = "hierarchical"
    levels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Codes an item, or an item's view. hierarchical finds its own.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    codebook_size: Annotated[
        int | None,
        typer.Option(min=2, help="Codes at each level. Default: 256.", rich_help_panel=_FITTING),
    ] = None
    beams: Annotated[
        int | None,
        typer.Option(min=1, help="For rq: how many candidates it keeps.", rich_help_panel=_FITTING),
    ] = None
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced",
            help="For hierarchical: make clusters equal in size.",
            rich_help_panel=_FITTING,
        ),
    ] = False
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="For rqvae: how often it sees each item.", rich_help_panel=_FITTING
        ),
    ] = None
    collisions: Annotated[
        Literal["reassign", "suffix", "allow"] | None,
        typer.Option(
            help="What an item gets whose codes are taken: the nearest free code (the default), "
            "one level more that numbers such items, or the same codes.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(help="Of text models. Default: fp32.", rich_help_panel=_FITTING),
    ] = None
    missing_images: Annotated[
        Literal["error", "empty"] | None,
        typer.Option(
            help="What becomes of an image that is absent or broken: an error that names the item "
            "(the default), or an empty vector.",
            rich_help_panel=_FITTING,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Same seed, same catalogue: same codes. Default: 0.",
            rich_help_panel=_FITTING,
        ),
    ] = None

    @property
    def specs(self) -> dict[str, str]:
        """The embedding of each view by its name; one view called "embedding" without --views."""
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
            specs[name] = embedding or (IMAGE_MODEL if name == IMAGE_VIEW else default)
        return specs

    def check(self, run: RunOptions) -> None:
        """Raises BadParameter if an option has no effect beside the others."""
        specs = self.specs
        if self.views is not None:
            _refuse(self.fields, "--fields", "has no effect with --views, which names the fields")
            if all("=" in part for part in self.views.split(",")):
                _refuse(self.embedding, "--embedding", "has no effect: each view names its own")
        refuse_cache_with_ray(run)
        if len(specs) == 1:
            _refuse(self.fuse, "--fuse", "needs several --views")
        if self.pca is None:
            _refuse(self.whiten, "--whiten", "needs --pca")
        if all(map(is_stored, specs.values())):
            _refuse(self.fields, "--fields", "has no effect with stored embeddings")
            _refuse(run.cache, "--cache", "has no effect with stored embeddings")
            _refuse(run.engine == "ray", "--engine", "has no effect with stored embeddings")
        images = [is_image(name, spec) for name, spec in specs.items()]
        texts = [
            not image and spec != "lsa" and not is_stored(spec)
            for image, spec in zip(images, specs.values(), strict=True)
        ]
        if not any(texts):
            _refuse(self.precision, "--precision", "needs a text model")
        if not any(images):
            _refuse(self.missing_images, "--missing-images", "needs a view of images")
        if not any(texts + images) and "device" not in self._accepted:
            _refuse(run.device, "--device", "needs a model of texts or images, or rqvae")
        for flag, value, name in self._of_quantizer():
            if value is not None and name not in self._accepted:
                raise typer.BadParameter(
                    f"has no effect with --quantizer {self.quantizer}", param_hint=flag
                )

    def check_capacity(self, num_items: int) -> None:
        """Raises ValueError if items are to have codes of their own and there are too few."""
        if self.collisions in ("suffix", "allow") or "num_levels" not in self._accepted:
            return
        levels = self.levels or self._accepted["num_levels"].default
        levels *= 1 if self.fuse else len(self.specs)
        size = self.codebook_size or self._accepted["codebook_size"].default
        if size**levels < num_items:
            raise ValueError(
                f"codes must leave a free one, got {num_items:,} items for {size**levels:,}: give "
                "more --levels, a larger --codebook-size, or --collisions suffix"
            )

    def quantizer_options(self, run: RunOptions) -> dict[str, Any]:
        """The options of the quantizer's `fit` that were given."""
        options = {name: value for _, value, name in self._of_quantizer() if value is not None}
        if "device" in self._accepted and run.device is not None:
            options["device"] = run.device
        return {**options, "seed": self.seed or 0}

    def _of_quantizer(self) -> Iterable[tuple[str, object, str]]:
        yield "--levels", self.levels, "num_levels"
        yield "--codebook-size", self.codebook_size, "codebook_size"
        yield "--beams", self.beams, "num_beams"
        yield "--balanced", self.balanced or None, "balanced"
        yield "--epochs", self.epochs, "epochs"

    @property
    def _accepted(self) -> Mapping[str, inspect.Parameter]:
        from semtok.quantizers.contract import QUANTIZERS

        return inspect.signature(QUANTIZERS[self.quantizer].quantizer_class.fit).parameters


def is_image(name: str, spec: str) -> bool:
    """Whether an embedding is a model of images."""
    return not is_stored(spec) and (name == IMAGE_VIEW or spec == "resnet50" or "@" in spec)


def is_stored(spec: str) -> bool:
    """Whether an embedding is a file of vectors rather than a model."""
    return spec.endswith(STORED_SUFFIXES) and "@" not in spec


def refuse_fitting(options: FitOptions) -> None:
    """Raises BadParameter if an option says how to fit what is fitted already.

    Files of embeddings are not such an option: a tokenizer without a source needs one.
    """
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


def refuse_cache_with_ray(run: RunOptions) -> None:
    """Raises BadParameter if a cache is asked of the Ray engine, which has none."""
    if run.engine == "ray":
        _refuse(run.cache, "--cache", "has no effect with --engine ray")


def _refuse(value: object, flag: str, reason: str) -> None:
    if value:
        raise typer.BadParameter(reason, param_hint=flag)


Command = TypeVar("Command", bound=Callable[..., None])


def with_options(**groups: type) -> Callable[[Command], Command]:
    """Gives a command the options of dataclasses, whose instances it takes by these names."""

    def decorate(command: Command) -> Command:
        def run(**values: Any) -> None:
            for name, group in groups.items():
                names = [field.name for field in dataclasses.fields(group)]
                values[name] = group(**{one: values.pop(one) for one in names})
            command(**values)

        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [parameter for parameter in own if parameter.name not in groups]
        for group in groups.values():
            hints = get_type_hints(group, include_extras=True)
            parameters += [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=hints[field.name],
                )
                for field in dataclasses.fields(group)
            ]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run  # type: ignore[return-value]

    return decorate
