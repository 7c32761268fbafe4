"""PRORec's configuration: text, stage I, codes, stage II, joining, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genrec import Seq2SeqConfig, SequenceRecipe, TrainingRecipe
from semtok import Quantizer, is_plugin, quantizer_kind

from semrec.shared.configuration import check_at_least
from semrec.shared.data import AppConfig, Choosing, Data, check_texts
from semrec.shared.plugins import check_part, part_field

_QUANTIZERS = ("hierarchical", "pq", "opq", "rq", "rqvae", "random")

_DRAWS = 1_000_003
"""The difference between the seeds of two draws of the codes."""

Source = Literal["integrated", "semantic", "collaborative", "concatenated", "concatenated_unit"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """E_S, the semantic embeddings.

    Differs: PCA reduces them before the adaption layer. The paper uses them without PCA, as a `dim`
    equal to the width of the embedding does.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings. The paper's is Llama2-7b.
        fields: The catalogue's fields that make an item's text; missing ones are skipped.
        dim: PCA dimensions of each view.
        further: Further embeddings, each a view of its own; E_S concatenates all views.
        by_field: Whether each field is a view of its own, instead of one text of all fields.
    """

    embedding: str = "minilm"
    fields: tuple[str, ...] = ("title", "brand", "categories")
    dim: int = 128
    further: tuple[str, ...] = ()
    by_field: bool = False

    def __post_init__(self) -> None:
        names = (self.embedding, *self.further)
        if len(set(names)) < len(names):
            raise ValueError(f"further must be embeddings not named yet, got {self.further}")
        if not self.fields:
            raise ValueError("fields must be at least one, got none")
        check_at_least(1, self, "dim")


@dataclass(frozen=True, kw_only=True)
class StageOne(SequenceRecipe):
    """The sequence model with alignment (section 3.3), with the sizes of section 4.1.

    Differs: the paper trains DIN, whose steps take about nine times as long, with batches of 256
        and
    Adam with a warm-up. By default we train SASRec with a learning rate that falls to 0 and clipped
    gradients. The sampled negatives are aligned too, by cosine divided by a temperature. The
    positive stays in the denominator of eq. 3, and the sum is over logarithms. E_T is scaled by .1,
    and the integrated embeddings have length 1. `paper.toml` has the paper's settings.

    Attributes:
        backbone: "sasrec"; "din", the paper's, which has no layers, heads, dropout, similarity or
            temperature; or "package.module:Name", a `genrec.StateBackbone` of another package.
        recency: DIN: whether attention also sees how many items ago each item occurred; False is
            DIN as published, which ignores the order.
        item_input: What the sequence model reads and ranks: E_C, or E_C + E_T.
        integrated: The embeddings that are quantized and distilled; the paper does not define them.
        integrated_length: "unit" scales them to length 1, "raw" leaves them unchanged.
        adapted_weight: The factor of E_T, whose rows are at first much longer than those of E_C.
        num_negatives: SASRec: negatives drawn uniformly for a batch, with logQ correction; 0 is the
            softmax over the whole catalogue. DIN: negatives drawn for each row (EAGER: 60), at
            least one.
        alpha: Weight of the alignment loss of E_T and E_C; 0 leaves it out.
        alignment_among: The aligned items: the histories and targets of the "batch", as in the
            paper, or with "drawn" also the negatives.
        alignment_formula: The form of eq. 3: "infonce", which the text names, or as "printed",
            without the positive in the denominator and with the sum over the items inside the
            logarithm.
        alignment_similarity: The similarity of E_C and E_T; the paper does not define it.
        alignment_temperature: Divides the similarity; 1 for none.
        alignment_items: Most items of a batch that are aligned.
        batch_size: SASRec: sequences, each with about six targets; DIN: targets.
    """

    backbone: str = part_field("sasrec", ("sasrec", "din"))
    recency: bool = True
    item_input: Literal["collaborative", "sum"] = "sum"
    integrated: Literal["collaborative", "adapted", "sum", "concatenated"] = "sum"
    integrated_length: Literal["unit", "raw"] = "unit"
    adapted_weight: float = 0.1
    alpha: float = 1.0
    alignment_among: Literal["batch", "drawn"] = "drawn"
    alignment_formula: Literal["infonce", "printed"] = "infonce"
    alignment_similarity: Literal["cosine", "dot"] = "cosine"
    alignment_temperature: float = 0.07
    alignment_items: int = 768

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part(self, "backbone")
        check_at_least(0, self, "alpha")
        check_at_least(1, self, "alignment_items")
        if not self.alignment_temperature > 0:
            raise ValueError(
                f"alignment_temperature must be positive, got {self.alignment_temperature}"
            )
        if self.backbone == "din" and not self.num_negatives:
            raise ValueError(
                "num_negatives must be at least 1 where backbone is 'din', which scores items that "
                "are drawn for each row (EAGER: 60), got 0"
            )
        ignored = ("num_layers", "num_heads", "dropout", "similarity", "temperature")
        for name in ignored if self.backbone == "din" else ("recency",):
            value = getattr(self, name)
            if value != getattr(StageOne, name):
                raise ValueError(
                    f"{name} must be left out where backbone is {self.backbone!r}, which has none, "
                    f"got {value!r}"
                )
        if self.integrated != "collaborative" and not self.alpha and self.item_input != "sum":
            raise ValueError(
                f'integrated must be "collaborative" when nothing trains the adaption layer '
                f"(alpha is 0 and item_input is collaborative), got {self.integrated!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Codes:
    """How codes are made; in the paper by hierarchical k-means with K = 256 (section 4.1).

    Differs: by default the clusters have equal sizes, as in EAGER's code, so that all codes are
    equally long; the paper has plain k-means, `balanced = false`.

    Attributes:
        source: The item embeddings that are quantized, and that stage II reads and distils:
            "integrated", those of stage I; "semantic", E_S alone; "collaborative", E_C of a model
            trained on ids alone; "concatenated", E_C and E_S reduced to the same width;
            "concatenated_unit", the same with both scaled to length 1 first (table 5).
        quantizer: Hierarchical k-means, product quantization, the same after a rotation ("opq"),
            residual quantization, RQ-VAE, or codes at random (figure 8); or "package.module:Name",
            a `semtok.Quantizer` of another package.
        codebook_size: Codes per level; the K of k-means.
        balanced: Hierarchical k-means: whether clusters have equal sizes, which is the default.
        num_levels: The other quantizers: the number of levels; 3 by default.
        collisions: How the other quantizers' codes become unique: by a last code ("suffix", the
            default of RQ-VAE as in the paper), or by moving items to the nearest free code.
        epochs: RQ-VAE: the number of epochs; semtok's default if unset.
        draw: The number of the random draw with the run's seed; another number gives other codes.
    """

    source: Source = "integrated"
    quantizer: str = part_field("hierarchical", _QUANTIZERS)
    codebook_size: int = 256
    balanced: bool | None = None
    num_levels: int | None = None
    collisions: Literal["suffix", "reassign"] | None = None
    epochs: int | None = None
    draw: int = 0

    def __post_init__(self) -> None:
        check_at_least(0, self, "draw")
        check_part(self, "quantizer")
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {self.codebook_size}")
        for name, quantizers in (
            ("balanced", ("hierarchical",)),
            ("num_levels", ("pq", "opq", "rq", "rqvae", "random")),
            ("collisions", ("pq", "opq", "rq", "rqvae", "random")),
            ("epochs", ("rqvae",)),
        ):
            value = getattr(self, name)
            is_taken = self.quantizer in quantizers or (
                name in ("num_levels", "collisions") and is_plugin(self.quantizer)
            )
            if value is not None and not is_taken:
                raise ValueError(
                    f"{name} must be unset where quantizer is {self.quantizer!r}, got {value}"
                )
            if type(value) is int and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def policy(self) -> Literal["suffix", "reassign"]:
        """How collisions are resolved."""
        return self.collisions or ("suffix" if self.quantizer == "rqvae" else "reassign")

    def check(self, num_items: int) -> None:
        """Raises ValueError if there are fewer codes than items that need a unique code."""
        levels = self.num_levels or 3
        is_bounded = self.quantizer != "hierarchical" and self.policy == "reassign"
        if is_bounded and self.codebook_size**levels < num_items:
            raise ValueError(
                f"codes.codebook_size must make a code for each of {num_items:,} items, got "
                f"{self.codebook_size} with {levels} levels"
            )

    def fitting(self, seed: int, trust: Collection[str] = ()) -> Callable[..., Quantizer]:
        """The function with which `semtok.Tokenizer.fit` fits the quantizer.

        Args:
            seed: The seed of the run.
            trust: The packages whose code may run.
        """
        shared: dict[str, Any] = {
            "codebook_size": self.codebook_size,
            "seed": seed + _DRAWS * self.draw,
        }
        if self.quantizer == "hierarchical":
            shared["balanced"] = self.balanced is not False
            return partial(quantizer_kind("hierarchical").fit, **shared)
        shared["num_levels"] = self.num_levels or 3
        if self.epochs is not None:
            shared["epochs"] = self.epochs
        return partial(quantizer_kind(self.quantizer, trust=trust).fit, **shared)


@dataclass(frozen=True, kw_only=True)
class StageTwo(TrainingRecipe):
    """Generation with distillation (section 3.4), with the sizes of section 4.1.

    Differs: the paper's generator has 4 decoder layers, reads the codes of the history, has one
    softmax per level, distils by raw dot products (eq. 7) and uses no graph (`paper.toml`). By
    default our generator starts from stage I and has one decoder layer. Each node of the tree has
    its own output row, the newest state is added to the decoder's first input, the tree uses the
    floors' scores, and distillation is by cosine divided by a temperature, with negatives that the
    batch shares. The learning rate falls to 0 and gradients are clipped; the paper has only a
    warm-up. `generator.toml` is a generator between the two. EAGER, a baseline of `study rivals`,
    is trained without its task that transfers from text to behaviour.

    Attributes, those of `genrec.Seq2SeqConfig` aside:
        history_input: "backbone" starts from stage I: its item vectors and layers read the history
            and are trained further.
        tree_scores: Floors whose scores the tree uses: "graph", the transition graph without the
            pairs of the scored history, and "text". Beyond the paper.
        teacher: A second target at every level: a distribution over items by stage I, where each
            half of the users is scored by a model trained on the other half ("stage_one"), or by
            the cosine of the integrated embeddings with the target's ("vectors"). Beyond the paper.
        teacher_weight: The teacher's share of the generation loss.
        teacher_temperature: Divides the teacher's scores: cosines, or the scores of stage I.
        beta: Weight of the distillation loss; 0 also leaves out <c_dis>.
        distillation_similarity: The similarity of the distilled state and integrated embeddings.
        distillation_temperature: Divides the similarity.
        distillation_negatives: Negative items drawn for a batch.
    """

    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    dim: int = 128
    num_heads: int = 4
    feedforward_dim: int = 256
    dropout: float = 0.2
    history_length: int = 20
    history_input: Literal["vectors", "codes", "both", "backbone"] = "backbone"
    train_item_vectors: bool = False
    output_vocabulary: Literal["level", "node"] = "node"
    scoring: Literal["masked", "renormalized"] = "renormalized"
    node_start: Literal["random", "vectors"] = "vectors"
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = 1.0
    history_bias: bool = True
    direct_path: bool = True
    tree_scores: tuple[Literal["graph", "text"], ...] = ("graph", "text")
    label_smoothing: float = 0.0
    teacher: Literal["none", "stage_one", "vectors"] = "none"
    teacher_weight: float = 0.3
    teacher_temperature: float = 0.1
    beta: float = 1.0
    distillation_similarity: Literal["cosine", "dot"] = "cosine"
    distillation_temperature: float = 0.07
    distillation_negatives: int = 2048
    distillation_state: Literal["last", "first"] = "last"
    warmup_steps: int = 300
    batch_size: int = 256
    epochs: int = 3
    patience: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model(1)
        check_at_least(0, self, "beta")
        if not 0 < self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be in (0, 1], got {self.teacher_weight}")
        if len(set(self.tree_scores)) < len(self.tree_scores):
            raise ValueError(f"tree_scores must be different floors, got {self.tree_scores}")
        if self.tree_scores and self.scoring == "masked":
            raise ValueError('tree_scores must be empty when scoring is "masked"')
        if not self.teacher_temperature > 0:
            raise ValueError(
                f"teacher_temperature must be positive, got {self.teacher_temperature}"
            )
        if self.beta:
            check_at_least(1, self, "distillation_negatives")

    @property
    def kind(self) -> str:
        """Whether this is the paper's generator or an extended one."""
        added = ("history_input", "direct_path", "tree_scores", "teacher")
        is_plain = all(getattr(self, name) == PLAIN_STAGE_TWO[name] for name in added)
        return "the paper's" if is_plain else "ours"

    def model(self, integrated_dim: int) -> Seq2SeqConfig:
        """The configuration of the encoder-decoder."""
        names = {field.name for field in dataclasses.fields(Seq2SeqConfig)}
        options = {name: value for name, value in vars(self).items() if name in names}
        return Seq2SeqConfig(**options, distillation_dim=integrated_dim if self.beta else None)


PLAIN_STAGE_TWO: dict[str, Any] = {
    "num_decoder_layers": 4,
    "history_input": "vectors",
    "direct_path": False,
    "tree_scores": (),
    "label_smoothing": 0.0,
    "teacher": "none",
    "epochs": 8,
    "warmup_steps": 500,
}
"""The settings of the paper's generator, as far as the paper gives them."""

FEATURES = ("c_dis", "stage_one", "transition", "graph_text", "popularity", "seen")
"""The features that can be joined to generation, named as in `Joining`."""


BASES = ("stage_one", "graph_text")
"""Features that can replace generation."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Features that are joined to the scores of generation, beyond the paper.

    Each feature has a weight that is chosen on validation (`semrec.prorec.joining`). A run also
    tests generation alone. If features are joined, `recommend` answers by the joined scores.

    Attributes:
        base: The scores to which the features are added: log-probabilities of "generation", scores
            of "stage_one", scores of the floor "graph_text", or the best of these on validation
            ("chosen").
        c_dis: The scores of the dense item head: the distilled state compared with the integrated
            embeddings. Needs `stage_two.distillation_state` "first".
        stage_one: The scores of stage I's sequence model, for any source of the codes.
        transition: The scores of the transition graph, a floor.
        graph_text: The scores of the floor "graph + text", a transition graph with text neighbours.
        popularity: Minus the logarithm of an item's count, which corrects the catalogue's prior.
        seen: Minus 1 for the items of the history, which other features rank high though nobody
            buys them twice.
        candidates: The number of best items of each joined dense ranking (item head, stage I,
            "graph + text") that are ranked with the beam's items.
        exact: Whether the whole catalogue is scored instead of beam search.
    """

    base: Literal["chosen", "generation", "stage_one", "graph_text"] = "chosen"
    c_dis: bool = False
    stage_one: bool = True
    transition: bool = False
    graph_text: bool = True
    popularity: bool = True
    seen: bool = True
    candidates: int = 50
    exact: bool = False

    def __post_init__(self) -> None:
        if self.candidates < 0:
            raise ValueError(f"candidates must be at least 0, got {self.candidates}")
        if getattr(self, self.base, False):
            raise ValueError(f"{self.base} must be false where base is {self.base!r}, got true")

    @classmethod
    def nothing(cls) -> Joining:
        """Generation alone, as in the paper."""
        return cls(
            base="generation",
            stage_one=False,
            graph_text=False,
            popularity=False,
            seen=False,
            candidates=0,
        )

    @property
    def features(self) -> tuple[str, ...]:
        """The joined features."""
        return tuple(name for name in FEATURES if getattr(self, name))

    @property
    def bases(self) -> tuple[str, ...]:
        """The scores to which the features may be added."""
        if self.base != "chosen":
            return (self.base,)
        return ("generation", *(name for name in BASES if getattr(self, name)))

    @property
    def any(self) -> bool:
        """Whether a feature is joined, or the ranking is not by beam search alone."""
        return bool(self.features) or self.exact or self.base != "generation"


UNJOINED: dict[str, Any] = dataclasses.asdict(Joining.nothing())
"""The settings of a variant that joins nothing."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Choosing):
    """How models are chosen and tested.

    Attributes:
        num_beams: Beams of the test, which is also the number of ranked items.
        validation_beams: Beams for early stopping.
        reference: Whether to also train the stage I model on ids alone: a baseline, and the
            collaborative modality of the modality share.
    """

    num_beams: int = 100
    validation_beams: int = 30
    reference: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_beams < max(self.ks):
            raise ValueError(
                f"num_beams must be at least the greatest of ks, {max(self.ks)}, "
                f"got {self.num_beams}"
            )
        check_at_least(10, self, "validation_beams")  # stage II is stopped by NDCG@10


@dataclass(frozen=True, kw_only=True)
class Config(AppConfig):
    """The whole configuration of a PRORec run."""

    text: Text = field(default_factory=Text)
    stage_one: StageOne = field(default_factory=StageOne)
    codes: Codes = field(default_factory=Codes)
    stage_two: StageTwo = field(default_factory=StageTwo)
    joining: Joining = field(default_factory=Joining)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.stage_two.distillation_state == "first"
        if self.joining.c_dis and not first:
            raise ValueError(
                'joining.c_dis needs stage_two.distillation_state to be "first", got "last"'
            )
        dim, levels = self.stage_one.dim, self.codes.num_levels or 3
        both = self.codes.source.startswith("concatenated") or (
            self.codes.source == "integrated" and self.stage_one.integrated == "concatenated"
        )
        is_parted = self.codes.quantizer == "pq" and self.codes.source != "semantic"
        if is_parted and levels > dim * (1 + both):
            raise ValueError(
                "codes.num_levels must be at most the dimensions of the item embeddings, which "
                f"product quantization splits, got {levels} and {dim * (1 + both)}"
            )

        if self.stage_two.history_input == "backbone":
            self._check_backbone()

    def _check_backbone(self) -> None:
        """Refuses a stage I that cannot be the encoder of stage II."""
        first, second = self.stage_one, self.stage_two
        words = 'where stage_two.history_input is "backbone"'
        if first.backbone != "sasrec":
            raise ValueError(f"stage_one.backbone must be 'sasrec' {words}, got {first.backbone!r}")
        if first.dim != second.dim:
            raise ValueError(
                f"stage_two.dim must be stage_one.dim {words}, got {second.dim} and {first.dim}"
            )
        if second.history_length > first.history_length:
            raise ValueError(
                f"stage_two.history_length must be at most stage_one.history_length {words}, got "
                f"{second.history_length} and {first.history_length}"
            )

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The embeddings of the texts, one per view."""
        return (self.text.embedding, *self.text.further)

    @property
    def quantizers(self) -> tuple[str, ...]:
        """The quantizer of the codes."""
        return (self.codes.quantizer,)

    @property
    def backbones(self) -> tuple[str, ...]:
        """The sequence model of stage I."""
        return (self.stage_one.backbone,)

    def training_samples(self, data: Data) -> dict[str, int]:
        """The numbers of samples of stage I and of stage II, whose samples are pairs."""
        train, num_items = data.split.train, len(data.catalog)
        single = dataclasses.replace(self.stage_one, batch_size=1)
        batches = single.pairs if single.backbone == "din" else single.sequences
        return {
            "stage_one": len(batches(train, num_items, self.seed)),
            "stage_two": sum(len(history) - 1 for history in train if len(history)),
        }

    def check_items(self, data: Data) -> list[Path]:
        """Refuses items without texts if texts are joined or embedded, and too few codes."""
        self.codes.check(len(data.catalog))
        for embedding in self.embeddings:
            check_texts(embedding, [self.text.fields], data.catalog)
        wrong = []
        if self.joining.graph_text:
            wrong.append("joining.graph_text must be false")
        if "text" in self.stage_two.tree_scores:
            wrong.append("stage_two.tree_scores must lack 'text'")
        if wrong and data.texts(self.text.fields) is None:
            raise ValueError(f"{' and '.join(wrong)}: the items have no texts")
        return []

    @property
    def has_reference(self) -> bool:
        """Whether the stage I model is trained on ids alone as well."""
        return self.evaluation.reference or self.codes.source not in ("integrated", "semantic")
