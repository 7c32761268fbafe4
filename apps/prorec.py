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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from answers import (
    ForceOption,
    HistoryOption,
    InputOption,
    OutputOption,
    RunOption,
    SeenOption,
    TopKOption,
    answer,
    check_answer_options,
)
from commands import (
    ConfigOption,
    DataOption,
    DemoSeedOption,
    DeviceOption,
    EmbeddingOption,
    OutOption,
    SeedOption,
    Setting,
    chosen,
    demo_data,
    open_run,
    show_results,
)
from evalrec import (
    DataError,
    Report,
    evaluate,
    read_report,
)
from experiment import (
    Bar,
    choose_device,
    guarded,
    load_config,
    write_json,
)
from genrec import (
    DIN,
    ArtifactError,
    PairBatches,
    Recommender,
    SASRec,
    Seq2Seq,
    SequenceBatches,
    Trie,
    fit,
    load_model,
    save_model,
)
from jaxtyping import Float
from prorec_model import (
    Codes,
    Config,
    Evaluation,
    ItemEncoder,
    StageOne,
    StageTwo,
    Text,
    stage_one_loss,
    stage_one_model,
    stage_two_loss,
)
from prorec_page import MODEL, Spaces, metrics, modality_spaces, write_page
from safetensors.torch import load_file, save_file
from semtok import (
    CatalogError,
    HierarchicalKMeans,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from stages import (
    check_complete,
    embed_texts,
    fit_and_test_floors,
    generate,
    keep_items,
    report_stage,
    standardised,
)
from torch import Tensor, nn
from training import DenseTraining, dense_stage, ndcg


@dataclass(frozen=True, kw_only=True)
class Pipeline(Setting):
    """The stages of a run."""

    config: Config

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
        return standardised(vectors, text.dim).to(self.device)

    def backbone(self, name: str, config: StageOne, semantic: Tensor) -> dict[str, Tensor]:
        """A stage that trains a sequence model and tests its own ranking.

        Returns:
            Its item embeddings: "collaborative" (E_C), "adapted" (E_T) and "integrated".
        """
        train, seed = self.data.split.train, self.config.seed
        batches: PairBatches | SequenceBatches = (
            PairBatches(
                config.training_histories(train, seed),
                num_items=len(semantic),
                history_length=config.history_length,
                batch_size=config.batch_size,
                seed=seed,
                bucket=20,
            )
            if config.backbone == "din"
            else config.sequences(train, len(semantic), seed)
        )
        plan = DenseTraining(
            model=lambda: stage_one_model(config, semantic).to(self.device),
            loss=partial(stage_one_loss, config),
            batches=batches,
            training=config,
            history_length=config.history_length,
            validation=self.validation,
            test=self.data.split.test,
            ks=self.config.evaluation.ks,
            seed=self.config.seed,
            keep=_keep_items,
        )
        dense_stage(self.run, name, plan)
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
                return ndcg(evaluate(validation, ranked, ks=(10,)))

            with self.run.screen.bar("stage_two") as bar:
                result = fit(
                    model,
                    batches,
                    partial(stage_two_loss, config, integrated.to(self.device)),
                    config.settings(self.config.seed, monitor="ndcg@10"),
                    validate=validate,
                    folder=folder,
                    callback=bar.training,
                )
            save_model(
                folder / "model",
                model,
                self.data.catalog.item_ids,
                popularity=torch.from_numpy(self.data.popularity()),
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


def _keep_items(model: SASRec | DIN, folder: Path) -> None:
    """Saves the item embeddings of stage I."""
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


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the sequence models it grew from, the floors.
    """
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    keep_items(run, data)
    semantic = pipeline.semantic()
    floors = fit_and_test_floors(run, data, config.text.fields, config.evaluation.ks)
    name = {"sasrec": "SASRec", "din": "DIN"}[config.stage_one.backbone]
    tables = pipeline.backbone("stage_one", config.stage_one, semantic)
    tokenizer = pipeline.tokenizer(tables["integrated"])
    model = pipeline.generator(tables["integrated"], tokenizer)
    reports = {
        MODEL: pipeline.test(model),
        f"stage I ({name}, ids and text)": read_report(run.path / "stage_one/report.json"),
    }
    spaces: Spaces = {}
    if config.evaluation.reference:
        alone = dataclasses.replace(
            config.stage_one, alpha=0.0, item_input="collaborative", integrated="collaborative"
        )
        collaborative = pipeline.backbone("reference", alone, semantic)["collaborative"]
        reports[f"{name}, ids alone"] = read_report(run.path / "reference/report.json")
        spaces = modality_spaces(semantic.cpu(), collaborative, tables["integrated"], config.seed)
    reports |= floors
    write_json(run.path / "metrics.json", metrics(run, data, reports, spaces))
    write_page(run, data, config, reports, spaces)
    return reports


DEMO = Config(
    text=Text(embedding="lsa", dim=64),
    stage_one=StageOne(dim=64, batch_size=64, epochs=8, warmup_steps=50),
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


@app.command()
def run(
    data: DataOption,
    out: OutOption,
    config: ConfigOption = None,
    embedding: EmbeddingOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train both stages, test, and write report.html; the same command continues a stopped run."""
    _run(data, out, chosen(load_config(Config, config), "text", embedding, seed), device)


@app.command()
def demo(
    out: OutOption,
    seed: DemoSeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """The same on a small synthetic catalogue, which is made first: a few minutes on a CPU."""
    _run(demo_data(out), out, dataclasses.replace(DEMO, seed=seed), device)


def _run(folder: Path, out: Path, config: Config, device: str) -> None:
    pipeline = _open(folder, out, config, device)
    show_results(MODEL, pipeline.run, run_stages(pipeline))


def _open(folder: Path, out: Path, config: Config, device: str) -> Pipeline:
    setting = open_run(MODEL, folder, out, config, config.text.embedding, device)
    return Pipeline(**vars(setting))


@app.command()
def recommend(
    run: RunOption,
    history: HistoryOption = None,
    source: InputOption = None,
    output: OutputOption = None,
    top_k: TopKOption = 10,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams, at least top-k")] = 100,
    exclude_seen: SeenOption = False,
    force: ForceOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Item ids, titles and scores for one history, or for a file of them, streamed."""
    check_answer_options(history, source, output)
    if num_beams < top_k:
        raise typer.BadParameter(f"--num-beams must be at least --top-k, {top_k}")
    check_complete(run)
    recommender = Recommender.load(run / "stage_two/model", device=choose_device(device))
    stream = partial(
        recommender.stream,
        top_k=top_k,
        num_beams=num_beams,
        exclude_seen=exclude_seen,
        unknown="error",
    )
    answer(
        run, stream, recommender.rows, history=history, source=source, output=output, force=force
    )


if __name__ == "__main__":
    guarded(app, (ArtifactError, CatalogError, DataError))
