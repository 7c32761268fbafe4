"""Sizes that follow the data: what suits 20,000 users starves a shop of 2,000.

The defaults of an app are those for its papers' data, some ten thousand items and more. What a TOML
leaves out of the following is fitted to the data before a run begins; what it sets stays as it is.

| field | rule |
|---|---|
| `batch_size` | the default, at most a hundredth of an epoch's samples, at least 32 |
| `epochs` | the default, or as many as make 2,000 steps of such batches, at most 50 |
| `patience` | grows with `epochs` |
| `warmup_steps` | the default, at most a fifth of all steps |
| `codebook_size` | the default, at most the greatest power of two that leaves 16 items to a code, \
at least the smallest of which two levels hold all items |
| `validation_users` | the default, all users where they are fewer |

Samples are what the training draws: windows of histories, or pairs of a history and its next item.
Amazon Beauty and Games have all the defaults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from semrec.shared.data import AppConfig, Data, check_sizes

LEAST_STEPS_AN_EPOCH, LEAST_BATCH = 100, 32
LEAST_STEPS, MOST_EPOCHS = 2000, 50
WARMUP_SHARE = 0.2
ITEMS_A_CODE = 16

Config = TypeVar("Config", bound=AppConfig)


def sized(config: Config, keys: Collection[str], data: Data, say: Callable[[str], None]) -> Config:
    """A configuration whose sizes follow the data, where nobody has set them.

    Args:
        config: The configuration.
        keys: What was set, such as "stage_two.epochs"; it stays.
        data: What is trained on.
        say: Told the sizes, a line for each part of the configuration.

    Raises:
        ValueError: There are too few items or users to train on at all.
    """
    check_sizes(data, config.evaluation)
    num_items, tables = len(data.catalog), {}
    for table, samples in config.training_samples(data).items():
        recipe = getattr(config, table)
        is_set = _names_of(table, keys)
        tables[table] = training_sizes(recipe, samples, is_set)
        say(f"sizes: {table}: {_training_words(tables[table], samples, is_set)}")
    codes = getattr(config, "codes", None)
    if codes is not None:
        is_set = _names_of("codes", keys)
        size = codes.codebook_size
        if "codebook_size" not in is_set:
            size = codebook_size(num_items, most=size)
        tables["codes"] = {"codebook_size": size}
        mark = _mark("codebook_size", is_set)
        say(f"sizes: codes: {size}{mark} a level (of {num_items:,} items)")
    drawn, users = config.evaluation.validation_users, len(data.split.validation)
    who = f"{drawn:,}{_mark('validation_users', _names_of('evaluation', keys))} of {users:,} users"
    say(f"sizes: validation: {who if drawn < users else f'all {users:,} users'}")
    parts = {
        table: dataclasses.replace(getattr(config, table), **values)
        for table, values in tables.items()
    }
    return dataclasses.replace(config, **parts)


def training_sizes(recipe: Any, samples: int, is_set: Collection[str]) -> dict[str, int]:
    """The sizes of a training.

    Args:
        recipe: A `genrec.TrainingRecipe`, whose class has the defaults.
        samples: How many there are in an epoch.
        is_set: The fields of the recipe that stay as they are.

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
    """As many epochs as make 2,000 steps, at most 50; `least` where these are enough."""
    enough = -(-LEAST_STEPS // steps_an_epoch)
    return max(least, min(enough, MOST_EPOCHS))


def num_steps(sizes: Mapping[str, int], samples: int) -> int:
    """All steps of a training of these sizes."""
    return -(-samples // sizes["batch_size"]) * sizes["epochs"]


def codebook_size(num_items: int, *, most: int) -> int:
    """A power of two that leaves 16 items to a code, and two levels for all items; or `most`."""
    leaving = 1 << int(math.log2(max(num_items // ITEMS_A_CODE, 1)))
    holding = 1 << math.ceil(math.log2(num_items) / 2)
    return min(max(leaving, holding), most)


def _names_of(table: str, keys: Collection[str]) -> set[str]:
    """The names of what is set of a table."""
    return {key.removeprefix(f"{table}.") for key in keys if key.startswith(f"{table}.")}


def _mark(name: str, is_set: Collection[str]) -> str:
    return " (set)" if name in is_set else ""


def _training_words(sizes: Mapping[str, int], samples: int, is_set: Collection[str]) -> str:
    values = {name: f"{value:,}{_mark(name, is_set)}" for name, value in sizes.items()}
    steps = num_steps(sizes, samples)
    share = f"{sizes['warmup_steps'] / steps:.0%}"
    return (
        f"batch {values['batch_size']} of {samples:,} samples, epochs {values['epochs']}, "
        f"patience {values['patience']}, warm-up {values['warmup_steps']} of {steps:,} steps "
        f"({share})"
    )
