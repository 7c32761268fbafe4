"""The report of a language model's run beside its test: its codes and a prompt."""

from __future__ import annotations

from evalrec.page import Section, table, tag, text
from semtok import measure_health

from semrec.llm.system import MODEL, LlmPipeline
from semrec.shared.findings import Findings


def findings(pipeline: LlmPipeline) -> Findings:
    """The codes' health, a prompt, and the choices of the configuration."""
    config = pipeline.config
    health = measure_health(pipeline.codes())
    levels = [
        [level, size.codebook_size, size.used, f"{size.utilisation:.1%}", size.perplexity]
        for level, size in enumerate(health.levels, start=1)
    ]
    facts = pipeline.tuned.complete()
    example = pipeline.tuned.result().example(pipeline.data.split.test.histories[0])
    trained = f"{facts['trained']:,} of {facts['weights']:,} weights"
    return Findings(
        lead="Semantic IDs in a language model",
        choices={
            "embedding": config.text.embedding,
            "codes": f"{config.codes.quantizer}, {config.codes.num_levels} levels",
            "model": config.model.model,
            "trained": trained if config.model.is_tiny else f"{trained}, by LoRA",
            "items in a prompt": config.model.items,
            "seed": config.seed,
        },
        trainings=[(pipeline.tuned, MODEL, ["next_item"])],
        cards=[
            Section(
                title="Semantic codes",
                body=[table(["level", "codebook", "used", "utilisation", "perplexity"], levels)],
                note=f"{health.collision_rate:.2%} of the items share all their codes with "
                "another. Each code is a token of the language model.",
            ),
            Section(
                title="A prompt",
                body=[tag("p", text(example["prompt"]))],
                note="The prompt of the first test user. Decoding allows only tokens of items.",
            ),
        ],
        metrics={
            "codes": {
                "codebook_sizes": [level.codebook_size for level in health.levels],
                "collision_rate": health.collision_rate,
                "perplexity": [level.perplexity for level in health.levels],
            }
        },
    )
