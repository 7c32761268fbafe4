"""Sizes that follow the data, because sizes for 20,000 users do not suit a shop of 2,000.

The defaults of an app suit its paper's data, with ten thousand items and more. Each of the
following sizes that the TOML does not set is fitted to the data before a run begins. A size that it
sets stays.

| field | rule |
|---|---|
| `batch_size` | the default, but at most a hundredth of an epoch's samples and at least 32 | |
`epochs` | the default, or as many epochs as make 1,500 steps with that batch size, at most 50 | |
`patience` | grows with `epochs` | | `warmup_steps` | the default, but at most a fifth of all steps
| | `codebook_size` | the default, but at most the greatest power of two that leaves 16 items for \
each code, and at least the smallest with which two levels have a code for every item | |
`validation_users` | the default, or all users if there are fewer |

A sample is one training example: a window of a history, or a pair of a history and its next item.
Amazon Beauty and Games keep all defaults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from genrec import TrainingRecipe

from semrec.shared.data import AppConfig, Data, check_sizes

LEAST_STEPS_AN_EPOCH, LEAST_BATCH = 100, 32
LEAST_STEPS, MOST_EPOCHS = 1500, 50
WARMUP_SHARE = 0.2
ITEMS_A_CODE = 16

_CODEBOOK_SIZE = "codes.codebook_size"
_TRAINING = ("batch_size", "epochs", "patience", "warmup_steps")

Config = TypeVar("Config", bound=AppConfig)


def sized(config: Config, keys: Collection[str], data: Data) -> Config:
    """A configuration whose unset sizes follow the data.

    Args:
        config: The configuration.
        keys: The keys that were set, such as "stage_two.epochs"; their values stay.
        data: The training data.

    Raises:
        ValueError: There are too few items or users for a training.
    """
    check_sizes(data, config.evaluation)
    sizes = {
        table: training_sizes(getattr(config, table), samples, _names_of(table, keys))
        for table, samples in config.training_samples(data).items()
    }
    codes = getattr(config, "codes", None)
    if codes is not None and _CODEBOOK_SIZE not in keys:
        sizes["codes"] = {"codebook_size": codebook_size(len(data.catalog), codes.codebook_size)}
    parts = {
        table: dataclasses.replace(getattr(config, table), **values)
        for table, values in sizes.items()
    }
    return dataclasses.replace(config, **parts)


def following_keys(config: AppConfig) -> set[str]:
    """The keys of sizes that follow the data unless they are set, such as "stage_two.epochs"."""
    keys = {
        f"{table.name}.{name}"
        for table in dataclasses.fields(config)
        if isinstance(getattr(config, table.name), TrainingRecipe)
        for name in _TRAINING
    }
    return keys | ({_CODEBOOK_SIZE} if hasattr(config, "codes") else set())


def size_lines(config: AppConfig, keys: Collection[str], data: Data) -> list[str]:
    """The sizes of a configuration as text, one line per part; arguments as for `sized`."""
    lines = []
    for table, samples in config.training_samples(data).items():
        words = _training_words(getattr(config, table), samples, _names_of(table, keys))
        lines.append(f"sizes: {table}: {words}")
    codes = getattr(config, "codes", None)
    if codes is not None:
        size = f"{codes.codebook_size}{_mark('codebook_size', _names_of('codes', keys))}"
        lines.append(f"sizes: codes: {size} per level (for {len(data.catalog):,} items)")
    drawn, users = config.evaluation.validation_users, len(data.split.validation)
    mark = _mark("validation_users", _names_of("evaluation", keys))
    who = f"{drawn:,}{mark} of {users:,} users" if drawn < users else f"all {users:,} users"
    return [*lines, f"sizes: validation: {who}"]


def training_sizes(recipe: Any, samples: int, is_set: Collection[str]) -> dict[str, int]:
    """The sizes of a training.

    Args:
        recipe: A `genrec.TrainingRecipe`, whose class has the defaults.
        samples: The number of samples in an epoch.
        is_set: The fields of the recipe whose values stay.

    Returns:
        By field: "batch_size", "epochs", "patience", "warmup_steps".
    """
    default = type(recipe)
    batch = batch_size(samples, most=default.batch_size)
    epochs = num_epochs(-(-samples // batch), least=default.epochs)
    sizes: dict[str, int] = {
        "batch_size": batch,
        "epochs": epochs,
        "patience": -(-default.patience * epochs // default.epochs),
    }
    sizes |= {name: getattr(recipe, name) for name in sizes if name in is_set}
    sizes["warmup_steps"] = recipe.warmup_steps
    if "warmup_steps" not in is_set:
        most = int(WARMUP_SHARE * num_steps(sizes, samples))
        sizes["warmup_steps"] = min(recipe.warmup_steps, most)
    return sizes


def batch_size(samples: int, *, most: int) -> int:
    """A hundredth of an epoch's samples, a multiple of 8, from 32 to `most`."""
    fitting = max(samples // LEAST_STEPS_AN_EPOCH // 8 * 8, LEAST_BATCH)
    return min(fitting, most)


def num_epochs(steps_an_epoch: int, *, least: int) -> int:
    """As many epochs as make 1,500 steps, at least `least` and at most 50."""
    enough = -(-LEAST_STEPS // steps_an_epoch)
    return max(least, min(enough, MOST_EPOCHS))


def num_steps(sizes: Mapping[str, int], samples: int) -> int:
    """The number of all steps of a training with these sizes."""
    return -(-samples // sizes["batch_size"]) * sizes["epochs"]


def codebook_size(num_items: int, most: int) -> int:
    """A power of two with 16 items per code and codes of two levels for all items; or `most`."""
    leaving = 1 << int(math.log2(max(num_items // ITEMS_A_CODE, 1)))
    holding = 1 << math.ceil(math.log2(num_items) / 2)
    return min(max(leaving, holding), most)


def _names_of(table: str, keys: Collection[str]) -> set[str]:
    """The names of the set keys of a table."""
    return {key.removeprefix(f"{table}.") for key in keys if key.startswith(f"{table}.")}


def _mark(name: str, is_set: Collection[str]) -> str:
    return " (set)" if name in is_set else ""


def _training_words(recipe: Any, samples: int, is_set: Collection[str]) -> str:
    sizes = {name: getattr(recipe, name) for name in _TRAINING}
    words = {name: f"{value:,}{_mark(name, is_set)}" for name, value in sizes.items()}
    steps = num_steps(sizes, samples)
    return (
        f"batch {words['batch_size']} of {samples:,} samples, epochs {words['epochs']}, "
        f"patience {words['patience']}, warm-up {words['warmup_steps']} of {steps:,} steps "
        f"({sizes['warmup_steps'] / steps:.0%})"
    )
