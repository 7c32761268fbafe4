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
"""Seeds that lie between two draws of the codes."""

Source = Literal["integrated", "semantic", "collaborative", "concatenated", "concatenated_unit"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """E_S, the semantic embeddings.

    Differs: PCA reduces them before the adaption layer; the paper feeds them whole, which a `dim`
    as wide as the embedding does.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings. The paper's is Llama2-7b.
        fields: The catalogue's fields that make an item's text; absent ones are passed over.
        dim: Dimensions kept by PCA, of each view.
        further: Embeddings beside that one, each a view of its own: E_S is all views side by side.
        by_field: Whether each field is a view of its own, in place of one text of all fields.
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
    """The sequence model with alignment (section 3.3). Width, rate and history are section 4.1's.

    Differs: the paper trains DIN, a step of which takes some nine times as long, with batches of
    256 and a warm-up of Adam. By default SASRec is trained, whose rate falls to 0 and whose
    gradients are clipped; the negatives that the next item is told from are aligned as well, by
    cosine over a temperature; the positive stays in the denominator of eq. 3, whose sum is over
    logarithms; E_T is scaled by .1; and the integrated embeddings have length 1. `paper.toml` has
    the paper's way.

    Attributes:
        backbone: "sasrec"; "din", which is the paper's and has no layers, heads, dropout,
            similarity or temperature; or "package.module:Name", a `genrec.StateBackbone` of
            another package.
        recency: DIN: whether attention also sees how many items ago each item was had; False is
            DIN as published, which does not see the order.
        item_input: What the sequence model reads and ranks: E_C, or E_C + E_T.
        integrated: What is quantized and distilled; left open by the paper.
        integrated_length: Whether it is scaled to length 1, "unit", or stays as it is, "raw".
        adapted_weight: Scales E_T, whose rows start much longer than those of E_C.
        num_negatives: SASRec: drawn uniformly for a batch, with logQ correction; 0 is the softmax
            over the whole catalogue. DIN: drawn for each row (EAGER: 60), at least one.
        alpha: Weight of the alignment of E_T and E_C; 0 leaves it out.
        alignment_among: Which items are aligned: those of the histories and targets of the "batch",
            as in the paper, or those "drawn" as negatives, too.
        alignment_formula: Of eq. 3: "infonce", which the text names, or as "printed", without the
            positive in the denominator and with the sum over the items inside the logarithm.
        alignment_similarity: Of E_C and E_T; left open by the paper.
        alignment_temperature: Divides the similarity; 1 for none.
        alignment_items: Most items of a batch that are aligned.
        batch_size: SASRec: sequences, which hold some six targets each; DIN: targets.
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
    """What becomes codes, and how; the paper's are hierarchical k-means with K = 256 (section 4.1).

    Differs: the clusters are of equal size by default, as in EAGER's code, so that all codes are
    equally long; the paper says plain k-means, `balanced = false`.

    Attributes:
        source: The item embeddings that are quantized, read and distilled in stage II:
            "integrated", those of stage I; "semantic", E_S alone; "collaborative", E_C of a model
            trained on ids alone; "concatenated", E_S reduced to the width of E_C beside it, as they
            are; "concatenated_unit", both of length 1 before (table 5).
        quantizer: Hierarchical k-means, product quantization, the same after a rotation ("opq"),
            residual quantization, RQ-VAE, or codes at random (figure 8); or "package.module:Name",
            a `semtok.Quantizer` of another package.
        codebook_size: Codes a level; the K of k-means.
        balanced: Of hierarchical k-means: clusters of equal size, by default.
        num_levels: Of the other quantizers; 3 by default.
        collisions: How the other quantizers' codes become unique: by a last code ("suffix", the
            default of RQ-VAE as in the paper), or by moving items to the nearest free code.
        epochs: Of RQ-VAE; semtok's default if unset.
        draw: Which of the codes that could be drawn with the run's seed; another number gives
            others.
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
        """Raises ValueError where items that are to have codes of their own outnumber these."""
        levels = self.num_levels or 3
        is_bounded = self.quantizer != "hierarchical" and self.policy == "reassign"
        if is_bounded and self.codebook_size**levels < num_items:
            raise ValueError(
                f"codes.codebook_size must make a code for each of {num_items:,} items, got "
                f"{self.codebook_size} with {levels} levels"
            )

    def fitting(self, seed: int, trust: Collection[str] = ()) -> Callable[..., Quantizer]:
        """What `semtok.Tokenizer.fit` calls to fit the quantizer.

        Args:
            seed: Of the run.
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
    """Generation with distillation (section 3.4). Width, rate and batch are section 4.1's.

    Differs: the paper's generator has 4 decoder layers, reads the codes of the history and has one
    softmax a level; it distils by raw dot products (eq. 7) and knows no graph (`paper.toml`). By
    default there is one decoder layer that starts from stage I, each node of the tree has a row of
    its own, the newest state is added to the decoder's first input, the floors' scores enter the
    tree, and distillation is by cosine over a temperature, with negatives that the batch shares.
    The rate falls to 0 and gradients are clipped; the paper says warm-up alone. `generator.toml` is
    a generator between the two. EAGER, a baseline of `study rivals`, is trained without its task
    that transfers from text to behaviour.

    Attributes, those of `genrec.Seq2SeqConfig` aside:
        history_input: "backbone" starts from stage I: its item vectors and its layers read the
            history, and are trained on.
        tree_scores: Floors whose scores enter the tree: "graph", the transition graph without the
            pairs of the history that is scored, and "text". Beyond the paper.
        teacher: Whose distribution over items is a target beside the item that came, at every
            level: that of stage I, each half of the users scored by a model trained on the other
            ("stage_one"), or the closeness of the integrated embeddings to the target's
            ("vectors"). Beyond the paper.
        teacher_weight: Its share of the generation loss.
        teacher_temperature: Divides its scores: cosines, or what stage I gives.
        beta: Weight of distillation; 0 leaves out <c_dis> as well.
        distillation_similarity: Of its state and the integrated embeddings.
        distillation_temperature: Divides the similarity.
        distillation_negatives: Items drawn for a batch.
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
        """Whether it is the paper's generator or one that has more in it."""
        added = ("history_input", "direct_path", "tree_scores", "teacher")
        is_plain = all(getattr(self, name) == PLAIN_STAGE_TWO[name] for name in added)
        return "the paper's" if is_plain else "ours"

    def model(self, integrated_dim: int) -> Seq2SeqConfig:
        """The encoder-decoder's own configuration."""
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
"""What makes stage II the paper's generator, as far as the paper says what it is."""

FEATURES = ("c_dis", "stage_one", "transition", "graph_text", "popularity", "seen")
"""What can be joined to generation; the names are those of `Joining`."""


BASES = ("stage_one", "graph_text")
"""Features that can take the place of generation."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What is joined to the scores of generation, beyond the paper.

    Each feature has a weight, picked on validation; see `prorec_joining`. A run tests generation
    alone as well; the command `recommend` answers by the joined scores of a run that joins.

    Attributes:
        base: What the features are added to: the log-probabilities of "generation", the scores of
            "stage_one", those of the floor "graph_text", or whichever of these does best on
            validation ("chosen").
        c_dis: The dense item head: the state distilled from the integrated embeddings, compared
            with these. Needs `stage_two.distillation_state` "first".
        stage_one: The scores of stage I's sequence model, whatever the codes are made of.
        transition: Those of the transition graph, a floor.
        graph_text: Those of the floor "graph + text": the same with text neighbours.
        popularity: Minus the logarithm of an item's count, which corrects the catalogue's prior.
        seen: Minus 1 for the items of the history: what the others rank high and nobody buys twice.
        candidates: Best items of each ranking of the catalogue at hand that are ranked beside the
            beam's: of the item head, of stage I, of "graph + text".
        exact: Whether the whole catalogue is scored in place of beam search.
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
        """What is joined."""
        return tuple(name for name in FEATURES if getattr(self, name))

    @property
    def bases(self) -> tuple[str, ...]:
        """What the features may be added to."""
        if self.base != "chosen":
            return (self.base,)
        return ("generation", *(name for name in BASES if getattr(self, name)))

    @property
    def any(self) -> bool:
        """Whether anything is joined, or ranked by other scores than those of beam search."""
        return bool(self.features) or self.exact or self.base != "generation"


UNJOINED: dict[str, Any] = dataclasses.asdict(Joining.nothing())
"""What makes a variant of a run one that joins nothing."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Choosing):
    """How models are chosen and tested.

    Attributes:
        num_beams: Beams of the test; as many items are ranked.
        validation_beams: Beams of early stopping.
        reference: Whether to train the stage I model on ids alone as well: a baseline, and the
            collaborative modality that the modality share is measured against.
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
    """Everything that makes a run what it is."""

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
                f"product quantization parts, got {levels} and {dim * (1 + both)}"
            )

        if self.stage_two.history_input == "backbone":
            self._check_backbone()

    def _check_backbone(self) -> None:
        """Refuses a stage I that cannot read the history of stage II."""
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
        """What embeds the texts, a view each."""
        return (self.text.embedding, *self.text.further)

    @property
    def quantizers(self) -> tuple[str, ...]:
        """What the codes are made by."""
        return (self.codes.quantizer,)

    @property
    def backbones(self) -> tuple[str, ...]:
        """The sequence model of stage I."""
        return (self.stage_one.backbone,)

    def training_samples(self, data: Data) -> dict[str, int]:
        """Those of stage I and of stage II, whose samples are pairs."""
        train, num_items = data.split.train, len(data.catalog)
        single = dataclasses.replace(self.stage_one, batch_size=1)
        batches = single.pairs if single.backbone == "din" else single.sequences
        return {
            "stage_one": len(batches(train, num_items, self.seed)),
            "stage_two": sum(len(history) - 1 for history in train if len(history)),
        }

    def check_items(self, data: Data) -> list[Path]:
        """Refuses items without texts where these are joined or embedded, and too few codes."""
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
