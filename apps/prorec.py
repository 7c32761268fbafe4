"""PRORec end to end: a file of items and a file of interactions to recommended item ids.

Progressive Collaborative and Semantic Knowledge Fusion for Generative Recommendation, stage by
stage: text embeddings; stage I, a sequence model whose item embeddings are aligned with the text
(section 3.3); semantic IDs of the integrated embeddings; stage II, an encoder-decoder over them
with distillation (section 3.4); the floors; the test. Each stage is a folder of the run.

    python apps/prorec.py run --data DIR --out RUN
    python apps/prorec.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/prorec.py demo --out RUN
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from evalrec import DataError, Queries, Report, evaluate, reports_table, write_synthetic
from experiment import (
    Bar,
    ExperimentError,
    Run,
    Screen,
    choose_device,
    content_hash,
    guarded,
    load_config,
    replacing,
    write_json,
)
from figures import Panel, curves, histogram, read_series, scatter_panels, tsne_panel
from fusion import ModalityAdaptionLayer, alignment_loss, modality_share
from genrec import (
    DIN,
    ArtifactError,
    Batch,
    PairBatches,
    Recommender,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    SequenceBatches,
    TrainingConfig,
    Trie,
    beam_search,
    candidate_cross_entropy,
    distillation_loss,
    fit,
    full_cross_entropy,
    load_model,
    query_batches,
    sample_candidates,
    sample_negatives,
    sampled_cross_entropy,
    save_model,
)
from jaxtyping import Float, Int
from report import (
    Example,
    Section,
    duration,
    examples_table,
    results_table,
    share_bars,
    table,
    tag,
    write_report,
)
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from semtok import (
    CatalogError,
    HierarchicalKMeans,
    Pca,
    Tokenizer,
    load_tokenizer,
    measure_health,
    save_tokenizer,
)
from stages import (
    Columns,
    Data,
    check_embedding,
    embed_texts,
    fit_and_test_floors,
    keep_titles,
    read_data,
    read_histories,
    read_report,
    read_titles,
    report_stage,
)
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Text:
    """E_S, the semantic embeddings.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings. The paper's is Llama2-7b.
        fields: The catalogue's fields that make an item's text; absent ones are passed over.
        dim: Dimensions kept by PCA.
    """

    embedding: str = "minilm"
    fields: tuple[str, ...] = ("title", "brand", "categories")
    dim: int = 128


@dataclass(frozen=True, kw_only=True)
class StageOne:
    """The sequence model with alignment (section 3.3). Sizes and rates are section 4.1's.

    Attributes:
        backbone: "din" is the paper's.
        item_input: What the sequence model reads and ranks: E_C, or E_C + E_T.
        integrated: What is quantized and distilled; left open by the paper.
        adapted_weight: Scales E_T, whose rows start much longer than those of E_C.
        num_negatives: SASRec: drawn uniformly for a batch, with logQ correction; 0 is the softmax
            over the whole catalogue. DIN: drawn for each row (EAGER: 60).
        alignment_items: Most items of a batch that are aligned.
        batch_size: SASRec: sequences, which hold some six targets each; DIN: targets.
    """

    backbone: Literal["sasrec", "din"] = "sasrec"
    item_input: Literal["collaborative", "sum"] = "sum"
    integrated: Literal["collaborative", "adapted", "sum", "concatenated"] = "sum"
    adapted_weight: float = 0.1
    dim: int = 128
    num_layers: int = 2
    num_heads: int = 4
    dropout: float = 0.4
    history_length: int = 20
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = 0.07
    num_negatives: int = 2048
    alpha: float = 1.0
    alignment_temperature: float = 0.07
    alignment_items: int = 768
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    gradient_clip: float = 1.0
    batch_size: int = 96
    epochs: int = 12
    patience: int = 3

    def __post_init__(self) -> None:
        training_config(self, 0, monitor="any")
        if self.dim < 1 or self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, got {self.dim} and {self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}")
        if self.integrated != "collaborative" and not self.alpha and self.item_input != "sum":
            raise ValueError(
                f'integrated must be "collaborative" when nothing trains the adaption layer '
                f"(alpha is 0 and item_input is collaborative), got {self.integrated!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Hierarchical k-means over the integrated embeddings; K = 256 in section 4.1."""

    codebook_size: int = 256
    balanced: bool = True


@dataclass(frozen=True, kw_only=True)
class StageTwo:
    """Generation with distillation (section 3.4). Sizes and rates are section 4.1's."""

    num_encoder_layers: int = 1
    num_decoder_layers: int = 4
    dim: int = 128
    num_heads: int = 4
    feedforward_dim: int = 256
    dropout: float = 0.2
    history_length: int = 20
    history_input: Literal["vectors", "codes", "both"] = "vectors"
    output_vocabulary: Literal["level", "node"] = "node"
    scoring: Literal["masked", "renormalized"] = "renormalized"
    node_start: Literal["random", "vectors"] = "vectors"
    history_bias: bool = True
    label_smoothing: float = 0.0
    beta: float = 1.0
    distillation_similarity: Literal["cosine", "dot"] = "cosine"
    distillation_temperature: float = 0.07
    distillation_negatives: int = 2048
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    gradient_clip: float = 1.0
    batch_size: int = 256
    epochs: int = 8
    patience: int = 2

    def __post_init__(self) -> None:
        training_config(self, 0, monitor="any")
        self.model(1)
        if self.beta < 0:
            raise ValueError(f"beta must be at least 0, got {self.beta}")

    def model(self, integrated_dim: int) -> Seq2SeqConfig:
        """The encoder-decoder's own configuration."""
        own = {field.name for field in dataclasses.fields(Seq2SeqConfig)}
        shared = {name: value for name, value in vars(self).items() if name in own}
        return Seq2SeqConfig(**shared, distillation_dim=integrated_dim if self.beta else None)


def training_config(config: StageOne | StageTwo, seed: int, *, monitor: str) -> TrainingConfig:
    """What `genrec.fit` needs of a stage's configuration."""
    return TrainingConfig(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        gradient_clip=config.gradient_clip,
        patience=config.patience,
        monitor=monitor,
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How models are chosen and tested.

    Attributes:
        ks: Cut-offs.
        num_beams: Beams of the test; as many items are ranked.
        validation_users: Users drawn for early stopping; the test takes all.
        validation_beams: Beams of early stopping.
        reference: Whether to train the stage I model on ids alone as well: a baseline, and the
            collaborative modality that the modality share is measured against.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    num_beams: int = 100
    validation_users: int = 5000
    validation_beams: int = 30
    reference: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    seed: int = 0
    columns: Columns = field(default_factory=Columns)
    text: Text = field(default_factory=Text)
    stage_one: StageOne = field(default_factory=StageOne)
    codes: Codes = field(default_factory=Codes)
    stage_two: StageTwo = field(default_factory=StageTwo)
    evaluation: Evaluation = field(default_factory=Evaluation)


class ItemEncoder(nn.Module):
    """The item embeddings of stage I: E_C, a table, and E_T = MAL(E_S) (eq. 2).

    Args:
        semantic: E_S, standardised.
        config: Which of them the sequence model reads, and which are the integrated embeddings.
    """

    semantic: Tensor

    def __init__(self, semantic: Float[Tensor, "items semantic_dim"], config: StageOne) -> None:
        super().__init__()
        self.config = config
        self.collaborative = nn.Parameter(torch.randn(len(semantic), config.dim) * 0.02)
        self.adaption = ModalityAdaptionLayer(semantic.shape[1], config.dim)
        self.register_buffer("semantic", semantic, persistent=False)

    def adapted(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """E_T of some items or of all, scaled to the size of the collaborative table."""
        semantic = self.semantic if rows is None else self.semantic[rows]
        adapted: Tensor = self.config.adapted_weight * self.adaption(semantic)
        return adapted

    def forward(self) -> Float[Tensor, "items dim"]:
        """What the sequence model reads and ranks."""
        if self.config.item_input == "collaborative":
            return self.collaborative
        return self.collaborative + self.adapted()

    def integrated(self) -> Float[Tensor, "items integrated_dim"]:
        """The integrated embeddings, of length 1; the paper leaves open which they are."""
        unit = partial(nn.functional.normalize, dim=-1)
        options: dict[str, Callable[[], Tensor]] = {
            "collaborative": lambda: self.collaborative,
            "adapted": self.adapted,
            "sum": lambda: self.collaborative + self.adapted(),
            "concatenated": lambda: torch.cat(
                [unit(self.collaborative), unit(self.adapted())], dim=1
            ),
        }
        return unit(options[self.config.integrated]())


def stage_one_model(config: StageOne, semantic: Tensor) -> SASRec | DIN:
    """The sequential recommendation model of section 3.3 over an `ItemEncoder`."""
    encoder = ItemEncoder(semantic, config)
    if config.backbone == "din":
        return DIN(
            len(semantic), dim=config.dim, recency=config.history_length, item_encoder=encoder
        )
    return SASRec(
        len(semantic),
        dim=config.dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        history_length=config.history_length,
        dropout=config.dropout,
        item_encoder=encoder,
        similarity=config.similarity,
        temperature=config.temperature,
    )


def stage_one_loss(config: StageOne, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """L_seq and alpha L_align (eq. 3-5), on the embeddings of the items that the batch needs."""
    assert isinstance(model, SASRec | DIN)
    encoder = model.item_encoder
    assert isinstance(encoder, ItemEncoder)
    num_items, device = model.num_items, batch.history.device
    if isinstance(model, DIN):
        negatives = sample_candidates(batch.targets, num_items, config.num_negatives)
    elif config.num_negatives:
        count = min(config.num_negatives, num_items)
        negatives = sample_negatives(num_items, count, device=device)
    else:
        negatives = torch.arange(num_items, device=device)
    parts = (batch.history, batch.targets, negatives)
    rows = torch.unique(torch.cat([part.flatten() for part in parts]))
    rows = rows[rows < num_items]
    vectors: Tensor = encoder.collaborative
    collaborative = vectors[rows]
    if config.alpha or config.item_input == "sum":
        adapted = encoder.adapted(rows)
    if config.item_input == "sum":
        vectors = torch.zeros_like(vectors).index_copy(0, rows, collaborative + adapted)

    if isinstance(model, DIN):
        scores = model(batch.history, negatives, vectors)
        losses = {"next_item": candidate_cross_entropy(scores, negatives)}
    else:
        states = model(batch.history, vectors)
        how: Any = {"similarity": config.similarity, "temperature": config.temperature}
        if config.num_negatives:
            log_q = torch.full((num_items,), -math.log(num_items), device=device)
            next_item = sampled_cross_entropy(
                states, vectors, batch.targets, negatives, log_q=log_q, **how
            )
        else:
            next_item = full_cross_entropy(states, vectors, batch.targets, **how)
        losses = {"next_item": next_item}
    if config.alpha:
        drawn = torch.randperm(len(rows), device=device)[: config.alignment_items]
        losses["alignment"] = config.alpha * alignment_loss(
            collaborative[drawn], adapted[drawn], temperature=config.alignment_temperature
        )
    return losses


def stage_two_loss(
    config: StageTwo, integrated: Tensor, model: nn.Module, batch: Batch
) -> dict[str, Tensor]:
    """L_gen and beta L_distillation (eq. 6-8)."""
    output = model(batch.history, batch.targets)
    losses = {"generation": output.loss}
    if config.beta:
        losses["distillation"] = config.beta * distillation_loss(
            output.distillation,
            integrated,
            batch.targets,
            num_negatives=min(config.distillation_negatives, len(integrated)),
            similarity=config.distillation_similarity,
            temperature=config.distillation_temperature,
        )
    return losses


def sample_queries(queries: Queries, count: int, seed: int) -> Queries:
    """Returns the queries of `count` users drawn without repetition, or all of them."""
    if count >= len(queries):
        return queries
    users = np.sort(np.random.default_rng(seed).choice(len(queries), size=count, replace=False))
    return Queries(
        histories=[queries.histories[user] for user in users],
        targets=queries.targets[users],
        num_items=queries.num_items,
        cold=queries.cold[users],
    )


def dense_scorer(model: SASRec | DIN, history_length: int) -> Callable[[Any], Tensor]:
    """Returns what `evaluate` asks for: scores of all items for some histories."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def score(histories: Any) -> Tensor:
        batches = query_batches(
            histories,
            num_items=model.num_items,
            history_length=history_length,
            batch_size=max(len(histories), 1),
        )
        return torch.cat([model.score(history.to(device)) for _, history in batches])

    return score


@torch.inference_mode()
def generate(
    model: Seq2Seq,
    histories: Any,
    *,
    num_beams: int,
    progress: Callable[[int, int], None] | None = None,
) -> Int[np.ndarray, "users beams"]:
    """Returns each history's best items by beam search, as many as beams."""
    device = model.trie.codes.device
    num_items, done = model.trie.num_items, 0
    num_beams = min(num_beams, num_items)
    ranked = np.full((len(histories), num_beams), -1, dtype=np.int64)
    tables = model.tables()
    for rows, history in query_batches(
        histories,
        num_items=num_items,
        history_length=model.config.history_length,
        batch_size=128,
        by_length=True,
    ):
        found = beam_search(
            model,
            model.trie,
            history.to(device),
            num_beams=num_beams,
            top_k=num_beams,
            tables=tables,
        )
        ranked[rows.numpy()] = found.items.cpu().numpy()
        done += len(rows)
        if progress is not None:
            progress(done, len(histories))
    return ranked


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The stages of a run, and what each of them needs: folder, inputs, configuration, device."""

    run: Run
    data: Data
    config: Config
    device: torch.device

    @property
    def validation(self) -> Queries:
        """The users on whom early stopping decides."""
        evaluation = self.config.evaluation
        return sample_queries(
            self.data.split.validation, evaluation.validation_users, self.config.seed
        )

    def semantic(self) -> Float[Tensor, "items semantic_dim"]:
        """E_S after PCA, of unit variance overall: the stage "text"."""
        text = self.config.text
        vectors = embed_texts(
            self.run,
            self.data,
            text.embedding,
            text.fields,
            device=str(self.device),
            seed=self.config.seed,
        )
        if text.dim < min(vectors.shape):
            vectors = Pca.fit(vectors, dim=text.dim).transform(vectors)
        vectors = vectors - vectors.mean(axis=0)
        return torch.from_numpy(vectors / vectors.std().clip(1e-6)).float().to(self.device)

    def backbone(self, name: str, config: StageOne, semantic: Tensor) -> dict[str, Tensor]:
        """A stage that trains a sequence model and tests its own ranking.

        Returns:
            Its item embeddings: "collaborative" (E_C), "adapted" (E_T) and "integrated".
        """

        def build(folder: Path) -> Mapping[str, Any]:
            torch.manual_seed(self.config.seed)
            model = stage_one_model(config, semantic).to(self.device)
            pairs = PairBatches if config.backbone == "din" else partial(SequenceBatches, stride=10)
            batches = pairs(
                self.data.split.train,
                num_items=model.num_items,
                history_length=config.history_length,
                batch_size=config.batch_size,
                seed=self.config.seed,
                bucket=20,
            )
            validation = self.validation
            score = dense_scorer(model, config.history_length)

            def validate(_: nn.Module) -> dict[str, float]:
                return _ndcg(evaluate(validation, score, ks=(10,)))

            with self.run.screen.bar(name) as bar:
                result = fit(
                    model,
                    batches,
                    partial(stage_one_loss, config),
                    training_config(config, self.config.seed, monitor="ndcg@10 filtered"),
                    validate=validate,
                    folder=folder,
                    callback=bar.training,
                )
            model.eval()
            report = evaluate(self.data.split.test, score, ks=self.config.evaluation.ks)
            report.write_json(folder / "report.json")
            encoder = model.item_encoder
            assert isinstance(encoder, ItemEncoder)
            with torch.no_grad():
                tables = {
                    "collaborative": encoder.collaborative.clone(),
                    "adapted": encoder.adapted(),
                    "integrated": encoder.integrated(),
                }
            tables = {name: table.cpu() for name, table in tables.items()}
            save_file(tables, folder / "items.safetensors")
            return {"best_epoch": result.best_epoch, "validation": result.metrics}

        self.run.stage(name, build)
        return load_file(self.run.path / name / "items.safetensors")

    def tokenizer(self, integrated: Float[Tensor, "items dim"]) -> Tokenizer:
        """The stage "tokenizer": hierarchical k-means over the integrated embeddings."""

        def build(folder: Path) -> Mapping[str, Any]:
            codes = self.config.codes
            with self.run.screen.bar("hierarchical k-means") as bar:
                tokenizer = Tokenizer.fit(
                    self.data.catalog,
                    embeddings=integrated.cpu().numpy(),
                    quantizer=partial(
                        HierarchicalKMeans.fit,
                        codebook_size=codes.codebook_size,
                        balanced=codes.balanced,
                        seed=self.config.seed,
                    ),
                    progress=lambda _, done, total: bar.update(done, total),
                )
            save_tokenizer(folder / "tokenizer", tokenizer, overwrite=True)
            return {"levels": tokenizer.semantic_ids.num_levels}

        self.run.stage("tokenizer", build)
        return load_tokenizer(self.run.path / "tokenizer/tokenizer")

    def generator(self, integrated: Tensor, tokenizer: Tokenizer) -> Seq2Seq:
        """The stage "stage_two": the encoder-decoder, which then lies in the folder "model"."""
        config = self.config.stage_two
        ids = tokenizer.semantic_ids
        trie = Trie.build(torch.from_numpy(ids.codes), ids.codebook_sizes)
        standard = integrated - integrated.mean(dim=0)
        standard = standard / standard.std().clamp(min=1e-6)
        reads_vectors = config.history_input != "codes" or config.node_start == "vectors"

        def build(folder: Path) -> Mapping[str, Any]:
            torch.manual_seed(self.config.seed)
            model = Seq2Seq(
                config.model(integrated.shape[1]),
                trie,
                item_vectors=standard if reads_vectors else None,
            ).to(self.device)
            batches = PairBatches(
                self.data.split.train,
                num_items=trie.num_items,
                history_length=config.history_length,
                batch_size=config.batch_size,
                seed=self.config.seed,
                bucket=50,
            )
            validation = self.validation

            def validate(_: nn.Module) -> dict[str, float]:
                num_beams = self.config.evaluation.validation_beams
                ranked = generate(model, validation.histories, num_beams=num_beams)
                return _ndcg(evaluate(validation, ranked, ks=(10,)))

            with self.run.screen.bar("stage_two") as bar:
                result = fit(
                    model,
                    batches,
                    partial(stage_two_loss, config, integrated.to(self.device)),
                    training_config(config, self.config.seed, monitor="ndcg@10"),
                    validate=validate,
                    folder=folder,
                    callback=bar.training,
                )
            train = self.data.split.train
            save_model(
                folder / "model",
                model,
                self.data.catalog.item_ids,
                popularity=torch.from_numpy(
                    np.bincount(np.concatenate(train), minlength=trie.num_items)
                ),
                info={"app": "prorec", "config": dataclasses.asdict(self.config)},
            )
            return {"best_epoch": result.best_epoch, "validation": result.metrics}

        self.run.stage("stage_two", build)
        return load_model(self.run.path / "stage_two/model").model

    def test(self, model: Seq2Seq) -> Report:
        """The stage "test": beam search for every user."""

        def build(bar: Bar) -> Report:
            queries = self.data.split.test
            ranked = generate(
                model.to(self.device),
                queries.histories,
                num_beams=self.config.evaluation.num_beams,
                progress=bar.update,
            )
            return evaluate(queries, ranked, ks=self.config.evaluation.ks)

        return report_stage(self.run, "test", build)


def _ndcg(report: Report) -> dict[str, float]:
    return {
        name: float(report.per_user("ndcg@10", mode).mean())
        for name, mode in (("ndcg@10", "unfiltered"), ("ndcg@10 filtered", "filtered"))
    }


MODEL = "PRORec"


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the sequence models it grew from, the floors.
    """
    run, config = pipeline.run, pipeline.config
    keep_titles(run, pipeline.data)
    semantic = pipeline.semantic()
    floors = fit_and_test_floors(run, pipeline.data, config.text.fields, config.evaluation.ks)
    alone = dataclasses.replace(
        config.stage_one, alpha=0.0, item_input="collaborative", integrated="collaborative"
    )
    reports = {}
    collaborative = None
    if config.evaluation.reference:
        collaborative = pipeline.backbone("reference", alone, semantic)["collaborative"]
    tables = pipeline.backbone("stage_one", config.stage_one, semantic)
    tokenizer = pipeline.tokenizer(tables["integrated"])
    model = pipeline.generator(tables["integrated"], tokenizer)
    reports[MODEL] = pipeline.test(model)
    name = {"sasrec": "SASRec", "din": "DIN"}[config.stage_one.backbone]
    reports[f"stage I ({name}, ids and text)"] = read_report(run.path / "stage_one/report.json")
    if config.evaluation.reference:
        reports[f"{name}, ids alone"] = read_report(run.path / "reference/report.json")
    reports |= floors
    write_json(run.path / "metrics.json", _metrics(pipeline, reports))
    write_page(pipeline, reports, _spaces(pipeline, semantic, collaborative, tables))
    return reports


def _metrics(pipeline: Pipeline, reports: Mapping[str, Report]) -> dict[str, Any]:
    """What metrics.json holds: nothing that depends on when or how often the run was started."""
    stages = ("reference", "stage_one", "tokenizer", "stage_two", "floors")
    facts = {
        name: pipeline.run.facts(name) for name in stages if (pipeline.run.path / name).exists()
    }
    return {
        "data": pipeline.data.counts,
        "stages": {
            name: {key: value for key, value in stage.items() if key != "seconds"}
            for name, stage in facts.items()
        },
        "test": {name: report.to_json(per_user=False) for name, report in reports.items()},
    }


def _spaces(
    pipeline: Pipeline, semantic: Tensor, collaborative: Tensor | None, tables: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, dict[str, float]]]:
    """The integrated and the concatenated embeddings with their modality shares (eq. 9-10).

    The collaborative modality is that of a model trained on ids alone, as in the paper's table 4;
    without that model there is nothing to compare with.
    """
    if collaborative is None:
        return {}
    unit = partial(nn.functional.normalize, dim=-1)
    semantic = semantic.cpu()
    finals = {
        "integrated": tables["integrated"],
        "concatenated": torch.cat([semantic, collaborative], dim=1),
    }
    spaces = {}
    for name, final in finals.items():
        share = modality_share(semantic, unit(collaborative), final, seed=pipeline.config.seed)
        shown = {"semantic": share.semantic, "collaborative": share.collaborative}
        spaces[name] = (final, shown)
    return spaces


def write_page(
    pipeline: Pipeline,
    reports: Mapping[str, Report],
    spaces: Mapping[str, tuple[Tensor, dict[str, float]]],
) -> None:
    """Writes report.html."""
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    tokenizer = load_tokenizer(run.path / "tokenizer/tokenizer")
    ids = tokenizer.semantic_ids
    health = measure_health(ids, collisions=tokenizer.collisions, distortion=tokenizer.distortion)
    results = {
        name: {
            mode: {
                metric: estimate.mean
                for metric, estimate in estimates.items()
                if not metric.startswith("mrr") and not metric.endswith("@5")
            }
            for mode, estimates in report.metrics.items()
        }
        for name, report in reports.items()
    }
    levels = [
        [level, size.codebook_size, size.used, f"{size.utilisation:.1%}", size.perplexity]
        for level, size in enumerate(health.levels, start=1)
    ]
    first = np.bincount(np.bincount(ids.codes[:, 0], minlength=ids.codebook_sizes[0]))
    sections = [
        Section(
            title="Results",
            body=[results_table(results, model=MODEL)],
            note=f"Test, all {data.counts['users']:,} users, ranking over all items, hits on "
            "items. Filtered: items of the user's history are struck out first. Rows below the "
            "models are floors, which need no training.",
        ),
        Section(title="Training", body=[curves(_curves(run))]),
        Section(
            title="Semantic IDs",
            body=[
                table(["level", "codebook", "used", "utilisation", "perplexity"], levels),
                tag(
                    "div",
                    histogram(
                        {size: int(count) for size, count in enumerate(first) if count},
                        title="first codes by how many items share them",
                        x_label="items",
                    ),
                    css="grid wide",
                ),
            ],
            note=f"Collisions: {health.collision_rate:.2%} of items. Items by depth of their "
            "code: " + ", ".join(f"{n:,} at {d}" for d, n in enumerate(health.depths, 1)) + ".",
        ),
    ]
    if spaces:
        sections.append(
            Section(
                title="Modalities",
                body=[
                    share_bars({name: share for name, (_, share) in spaces.items()}),
                    scatter_panels(
                        [
                            tsne_panel(name, final.numpy(), seed=config.seed)
                            for name, (final, _) in spaces.items()
                        ]
                    ),
                ],
                note="Share of each modality by KL (PRORec, eq. 9-10) and t-SNE, coloured by "
                "10 k-means clusters (figure 5). The collaborative modality is that of the "
                "backbone trained on ids alone.",
            )
        )
    sections.append(Section(title="Examples", body=[examples_table(_examples(pipeline))]))
    done = ("text", "floors", "reference", "stage_one", "tokenizer", "stage_two", "test")
    seconds = {name: run.facts(name)["seconds"] for name in done if (run.path / name).exists()}
    write_report(
        run.path / "report.html",
        title="PRORec",
        lead="Progressive collaborative and semantic knowledge fusion for generative "
        f"recommendation, {run.path.name}",
        summary={
            "Data": data.counts,
            "Choices": {
                "text": config.text.embedding,
                "backbone": config.stage_one.backbone,
                "integrated embedding": config.stage_one.integrated,
                "history": config.stage_two.history_input,
                "output": config.stage_two.output_vocabulary,
                "seed": config.seed,
            },
            "Time": {name: duration(value) for name, value in seconds.items()}
            | {"all": duration(sum(seconds.values()))},
        },
        sections=sections,
    )


def _curves(run: Run) -> list[Panel]:
    panels = []
    for stage, title, terms in (
        ("stage_one", "stage I", ("next_item", "alignment")),
        ("stage_two", "stage II", ("generation", "distillation")),
    ):
        log = run.path / stage / "log.jsonl"
        panels.append(
            Panel(title=f"{title}: loss", lines=read_series(log, {t: f"losses.{t}" for t in terms}))
        )
        ndcg = {"all items": "metrics.ndcg@10", "seen filtered": "metrics.ndcg@10 filtered"}
        panels.append(
            Panel(title=f"{title}: validation NDCG@10", lines=read_series(log, ndcg), mark="max")
        )
    return panels


def _examples(pipeline: Pipeline, count: int = 4) -> list[Example]:
    """A few users' histories, recommendations and targets."""
    titles, test = pipeline.data.titles(), pipeline.data.split.test
    chosen = sample_queries(test, count, pipeline.config.seed)
    recommender = Recommender.load(pipeline.run.path / "stage_two/model", device=pipeline.device)
    names = pipeline.data.catalog.item_ids
    row = {name: number for number, name in enumerate(names)}
    answers = recommender.recommend([[names[i] for i in h] for h in chosen.histories], top_k=10)
    return [
        Example(
            history=[titles[item] for item in history[-8:]],
            recommended=[titles[row[item.item_id]] for item in answer.items],
            target=titles[target],
        )
        for history, answer, target in zip(chosen.histories, answers, chosen.targets, strict=True)
    ]


DEMO = Config(
    text=Text(embedding="lsa", dim=64),
    stage_one=StageOne(dim=64, batch_size=64, epochs=12, warmup_steps=50),
    codes=Codes(codebook_size=32),
    stage_two=StageTwo(dim=64, feedforward_dim=128, num_decoder_layers=2, epochs=8),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""

app = typer.Typer(
    help="PRORec: from items and interactions to recommended item ids.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DeviceOption = Annotated[str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", ...')]


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="Folder with items.* and interactions.*")],
    out: Annotated[Path, typer.Option(help="Folder of the run, new or to be continued")],
    config: Annotated[Path | None, typer.Option(help="TOML: whatever is not a default")] = None,
    embedding: Annotated[
        str | None, typer.Option(help="minilm, lsa, a model's name or folder, or a file")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides all that is drawn")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train both stages, test, and write report.html; the same command continues a stopped run."""
    resolved = load_config(Config, config)
    if embedding is not None:
        resolved = dataclasses.replace(
            resolved, text=dataclasses.replace(resolved.text, embedding=embedding)
        )
    if seed is not None:
        resolved = dataclasses.replace(resolved, seed=seed)
    _run(data, out, resolved, device)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run, new or to be continued")],
    seed: Annotated[int, typer.Option(help="Decides all that is drawn")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """The same on a small synthetic catalogue, which is made first: a few minutes on a CPU."""
    data = out.with_name(f"{out.name}-data")
    if not data.exists():
        write_synthetic(data)
    _run(data, out, dataclasses.replace(DEMO, seed=seed), device)


def _run(folder: Path, out: Path, config: Config, device_name: str) -> None:
    screen = Screen()
    device = choose_device(device_name)
    data = read_data(folder, config.columns, screen)
    stored = check_embedding(config.text.embedding, data)
    started = Run(
        out,
        app="prorec",
        config=dataclasses.asdict(config),
        data=content_hash([*data.files, *stored]),
        screen=screen,
    )
    pipeline = Pipeline(run=started, data=data, config=config, device=device)
    reports = run_stages(pipeline)
    typer.echo()
    Console().print(reports_table(reports, title="PRORec on the test"))
    typer.echo(f"report: {out / 'report.html'}")


@app.command()
def recommend(
    run: Annotated[Path, typer.Option(help="Folder of a complete run")],
    history: Annotated[str | None, typer.Option(help="Item ids, oldest first, by commas")] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help='JSONL: {"history": [item ids]} a line')
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSONL to write, for --input")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Items a history")] = 10,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams, at least top-k")] = 100,
    exclude_seen: Annotated[bool, typer.Option(help="Leave out items of the history")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite --output")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Item ids, titles and scores for one history, or for a file of them, streamed."""
    if (history is None) == (source is None):
        raise typer.BadParameter("give either --history or --input")
    if (source is None) != (output is None):
        raise typer.BadParameter("--input and --output go together")
    if num_beams < top_k:
        raise typer.BadParameter(f"--num-beams must be at least --top-k, {top_k}")
    titles = read_titles(run)
    recommender = Recommender.load(run / "stage_two/model", device=choose_device(device))
    stream = partial(
        recommender.stream,
        top_k=top_k,
        num_beams=num_beams,
        exclude_seen=exclude_seen,
        unknown="error",
    )
    if source is None:
        assert history is not None
        ids = [part.strip() for part in history.split(",") if part.strip()]
        (answer,) = stream([ids])
        if answer.popular:
            typer.echo("the history is empty: these are the popular items", err=True)
        table = Table("", "item_id", "title", "score")
        for place, item in enumerate(answer.items, start=1):
            table.add_row(str(place), item.item_id, titles[item.item_id], f"{item.score:.3f}")
        Console().print(table)
        return
    assert output is not None
    if output.exists() and not force:
        raise ExperimentError(f"{output} exists: choose another --output, or --force")
    with source.open("rb") as file:
        total = sum(1 for _ in file)
    done = 0
    with replacing(output) as beside, Screen().bar("recommending") as bar:
        queries, histories = itertools.tee(read_histories(source, recommender.rows))
        answers = stream(query["history"] for query in histories)
        with beside.open("w", encoding="utf-8") as written:
            for done, (query, answer) in enumerate(zip(queries, answers, strict=True), start=1):
                items = [
                    {"item_id": item.item_id, "title": titles[item.item_id], "score": item.score}
                    for item in answer.items
                ]
                line = {**query, "items": items, "popular": answer.popular}
                written.write(json.dumps(line, ensure_ascii=False) + "\n")
                bar.update(done, total)
    typer.echo(f"{output}: {done:,} answers")


if __name__ == "__main__":
    guarded(app, (ArtifactError, CatalogError, DataError))
