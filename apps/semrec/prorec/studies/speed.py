"""The inference time with one code per item and with two (figure 2)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genrec import Ranked, beam_search, query_batches
from jaxtyping import Int
from torch import Tensor

from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.studies.two_codes import load_two_codes, two_codes
from semrec.prorec.system import MODEL
from semrec.shared.files import read_json
from semrec.shared.stage import Facts, Stage

ROUNDS = 7
AT_ONCE = (1, 32)
"""The numbers of users per batch: the first measures latency, the second throughput."""

System = Callable[[Int[Tensor, "users length"]], Ranked]


def speed_stage(pipeline: PRORecPipeline) -> Stage[dict[str, dict[str, list[float]]]]:
    """The stage "speed": seconds per user at beam 100 and top 5, with one code and with two.

    Its result: median, lower and upper quartile over the rounds, by system and users per batch.
    """
    num_beams = min(100, len(pipeline.data.catalog))

    def fill(folder: Path) -> Facts:
        single, streams = pipeline.stage_two.result().eval(), load_two_codes(pipeline)
        single_tables, stream_tables = single.tables(), streams.tables()
        systems: dict[str, System] = {
            MODEL: lambda history: beam_search(
                single, single.trie, history, num_beams=num_beams, top_k=5, tables=single_tables
            ),
            "two codes": lambda history: streams.beam_search(
                history, num_beams=num_beams, top_k=5, tables=stream_tables
            ),
        }
        histories = pipeline.data.split.test.histories[: max(AT_ONCE)]
        batches = {
            count: [
                history.to(pipeline.device)
                for _, history in query_batches(
                    histories,
                    num_items=len(pipeline.data.catalog),
                    history_length=pipeline.config.stage_two.history_length,
                    batch_size=count,
                )
            ]
            for count in AT_ONCE
        }
        with pipeline.run.screen.bar("speed") as bar:
            return {"by_system": timed(systems, batches, len(histories), bar.update)}

    def load(folder: Path) -> dict[str, dict[str, list[float]]]:
        by_system: dict[str, dict[str, list[float]]] = read_json(folder / "stage.json")["by_system"]
        return by_system

    return pipeline.stage(
        "speed",
        reads=(),
        after=(pipeline.stage_two, two_codes(pipeline)),
        fill=fill,
        load=load,
    )


def timed(
    systems: Mapping[str, System],
    batches: Mapping[int, Sequence[Int[Tensor, "users length"]]],
    num_users: int,
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, list[float]]]:
    """Seconds per user, measured in turn, so that other load of the machine affects all systems.

    Args:
        systems: Functions that answer a batch of histories.
        batches: The same users' histories, by the number of users per batch.
        num_users: The number of users.
        progress: Called with the number of finished rounds and of all.

    Returns:
        Median, lower and upper quartile over the rounds, by system and users per batch. A first
        round warms up and is not counted.
    """
    seconds: dict[str, dict[str, list[float]]] = {
        name: {str(count): [] for count in batches} for name in systems
    }
    for number in range(ROUNDS + 1):
        for count, histories in batches.items():
            for name, answer in systems.items():
                start = time.perf_counter()
                for history in histories:
                    answer(history).items.cpu()  # waits for the device
                if number:
                    taken = (time.perf_counter() - start) / num_users
                    seconds[name][str(count)].append(taken)
        progress(number, ROUNDS)
    return {
        name: {count: _quartiles(values) for count, values in rows.items()}
        for name, rows in seconds.items()
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return [median, low, high]
