# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Codes for a catalogue, and how good they are
#
# A semantic ID is a short row of codes that represents an item. Rows of similar items start with the same codes.
# Here we make semantic IDs for a catalogue, and look at them in three ways.
#
# Open this file as a notebook: `jupytext --to ipynb notebooks/codes.py`.

# %%
from functools import partial

import numpy as np
from evalrec import write_synthetic
from semtok import (
    HierarchicalKMeans,
    LsaEmbedding,
    RandomCodes,
    ResidualQuantizer,
    Tokenizer,
    measure_health,
    neighbour_overlap,
    read_catalog,
)

# %% [markdown]
# ## The catalogue
#
# A file with one item per line, each with an `item_id`. Use the path of your own file here: JSONL, CSV or parquet.

# %%
folder = write_synthetic("data", num_items=400, num_users=50)
catalog = read_catalog(folder / "items.jsonl")
print(len(catalog), "items with", list(catalog.fields))
print(catalog.item_ids[0], catalog.fields["title"][0])

# %% [markdown]
# ## Embeddings, then codes
#
# `LsaEmbedding` counts words. A language model is one line as well: `TextEmbedding("minilm")`.
# The tokenizer contains the embedding, the quantizer and the code table.

# %%
source = LsaEmbedding.fit(catalog, dim=32)
tokenizer = Tokenizer.fit(
    catalog,
    source=source,
    quantizer=partial(HierarchicalKMeans.fit, codebook_size=16, balanced=True),
)
ids = tokenizer.semantic_ids
print(ids.codes.shape, "codes of sizes", ids.codebook_sizes)

# %% [markdown]
# ## First look: do items with the same first code belong together?

# %%
for code in range(3):
    rows = np.flatnonzero(ids.codes[:, 0] == code)[:4]
    print(f"first code {code}:", [catalog.fields["title"][row] for row in rows])

# %% [markdown]
# ## Second look: are all codes used, and do items collide?

# %%
health = measure_health(ids, collisions=tokenizer.collisions, distortion=tokenizer.distortion)
for place, level in enumerate(health.levels, start=1):
    print(f"level {place}: {level.used} of {level.codebook_size} codes, {level.entropy:.1f} bits")
print(f"{health.collision_rate:.1%} of items collided: they had the codes of another item at first")

# %% [markdown]
# ## Third look: other quantizers
#
# How many of an item's ten nearest neighbours by embedding are also among its nearest by codes? Random codes are the floor.

# %%
vectors = source.embed(catalog)
quantizers = {
    "hierarchical k-means": HierarchicalKMeans.fit(vectors, codebook_size=16, balanced=True),
    "residual quantization": ResidualQuantizer.fit(vectors, num_levels=2, codebook_size=16),
    "random": RandomCodes.fit(vectors, num_levels=2, codebook_size=32),
}
overlap = {name: neighbour_overlap(vectors, fitted.codes) for name, fitted in quantizers.items()}
for name, share in overlap.items():
    print(f"{name}: {share:.0%} of neighbours agree")

# %% [markdown]
# Codes contain information about items if their overlap is far above that of random codes.

# %%
assert overlap["hierarchical k-means"] > 2 * overlap["random"]
