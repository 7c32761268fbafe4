"""A catalogue of drawn pictures, which decide a user's next item, and networks that embed them."""

from __future__ import annotations

import importlib.util
import json
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image, ImageDraw

NUM_HUES, NUM_GROUPS = 4, 8
ITEMS_A_GROUP, NEW_A_GROUP = 12, 4
NUM_ITEMS, NUM_USERS, NUM_STEPS = NUM_GROUPS * ITEMS_A_GROUP, 240, 6
SIZE = 48
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fern", "grove", "heath", "iris", "jade")
CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}

if importlib.util.find_spec("open_clip") is None:
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A native folder of items that only their pictures describe: titles are random words.

    Item i belongs to group i % NUM_GROUPS, which its picture shows. With probability .9, the next
    group follows from the last one. The item within the group is drawn uniformly. The last
    NEW_A_GROUP items of each group occur only as a user's last item, so that only their pictures
    show their group.

    Attributes:
        data: The folder.
        weights: The random weights of each network, as a safetensors file.
        is_new: For each user, whether the last item is a new one.
    """

    data: Path
    weights: dict[str, Path]
    is_new: np.ndarray


def draw(group: int, generator: np.random.Generator) -> Image.Image:
    """A picture of a group: stripes or dots of one of four hues, shifted, with noise."""
    hue = group % NUM_HUES / NUM_HUES + generator.uniform(-0.04, 0.04)
    shades = hsv_to_rgb(hue % 1, generator.uniform(0.7, 1), generator.uniform(0.7, 1))
    colour = tuple(int(255 * shade) for shade in shades)
    picture = Image.new("RGB", (SIZE, SIZE), (235, 235, 235))
    pen = ImageDraw.Draw(picture)
    shift = int(generator.integers(6))
    if group < NUM_HUES:
        for x in range(-shift, SIZE, 8):
            pen.rectangle((x, 0, x + 3, SIZE), fill=colour)
    else:
        for x in range(-shift, SIZE, 12):
            for y in range(-shift, SIZE, 12):
                pen.ellipse((x, y, x + 7, y + 7), fill=colour)
    noisy = np.asarray(picture) + generator.normal(0, 6, (SIZE, SIZE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_weights(folder: Path) -> dict[str, Path]:
    """The random initial weights of a ResNet-50 and of a tiny CLIP."""
    import open_clip
    import torchvision
    from safetensors.torch import save_file

    (folder / "drawn-clip.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder / "drawn-clip.json")
    weights = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "drawn-clip": open_clip.create_model("drawn-clip"),
            "resnet50": torchvision.models.resnet50(),
        }
    for name, network in networks.items():
        weights[name] = folder / f"{name}.safetensors"
        state = network.state_dict().items()
        save_file({key: value.clone().contiguous() for key, value in state}, weights[name])
    return weights


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """The catalogue, its users and the networks."""
    folder = tmp_path_factory.mktemp("pictures")
    data = folder / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    words = np.random.default_rng(1).choice(WORDS, size=(NUM_ITEMS, 2))
    lines = []
    for item in range(NUM_ITEMS):
        draw(item % NUM_GROUPS, generator).save(data / f"{item}.png")
        record = {"item_id": f"i{item}", "title": " ".join(words[item]), "image": f"{item}.png"}
        lines.append(json.dumps(record) + "\n")
    (data / "items.jsonl").write_text("".join(lines))
    rows, is_new = [], np.zeros(NUM_USERS, dtype=bool)
    for user in range(NUM_USERS):
        group = int(generator.integers(NUM_GROUPS))
        for step in range(NUM_STEPS):
            is_new[user] = step == NUM_STEPS - 1 and generator.random() < 0.5
            num_old = ITEMS_A_GROUP - NEW_A_GROUP
            place = (
                generator.integers(num_old, ITEMS_A_GROUP)
                if is_new[user]
                else (generator.integers(num_old))
            )
            rows.append((f"u{user}", f"i{group + NUM_GROUPS * int(place)}", step))
            follows = generator.random() < 0.9
            group = (group + 3) % NUM_GROUPS if follows else int(generator.integers(NUM_GROUPS))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(data / "interactions.parquet")
    return Pictures(data=data, weights=write_weights(folder), is_new=is_new)
