# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # New items, without changing old IDs
#
# Published codes are stored in logs, caches and other people's tables. So they must not change when the catalogue
# grows. Here a catalogue grows, and we check that every old item keeps its codes.

# %%
from functools import partial

import numpy as np
from evalrec import write_synthetic
from semtok import (
    Catalog,
    HierarchicalKMeans,
    LsaEmbedding,
    Tokenizer,
    load_tokenizer,
    read_catalog,
    save_tokenizer,
)

# %% [markdown]
# ## Monday: 300 items

# %%
everything = read_catalog(write_synthetic("data", num_items=320, num_users=50) / "items.jsonl")


def part(rows: range) -> Catalog:
    """Some items of the catalogue."""
    return Catalog(
        item_ids=[everything.item_ids[row] for row in rows],
        fields={name: [values[row] for row in rows] for name, values in everything.fields.items()},
    )


monday = part(range(300))
tokenizer = Tokenizer.fit(
    monday,
    source=LsaEmbedding.fit(monday, dim=32),
    quantizer=partial(HierarchicalKMeans.fit, codebook_size=32, balanced=True),
)
save_tokenizer("tokenizer", tokenizer)
published = tokenizer.semantic_ids

# %% [markdown]
# ## Next Monday: 20 more
#
# `extended` returns a tokenizer that also knows the new items; the old one does not change. New items get free codes close to
# those of similar items. In a terminal: `semtok encode new.jsonl --tokenizer tokenizer --extend`.

# %%
new = part(range(300, 320))
encoding = load_tokenizer("tokenizer").encode(new)
extended = load_tokenizer("tokenizer").extended(encoding.semantic_ids)
ids = extended.semantic_ids
for item_id, codes in list(zip(new.item_ids, encoding.semantic_ids.codes.tolist(), strict=True))[
    :5
]:
    title = new.fields["title"][new.item_ids.index(item_id)]
    print(item_id, title, codes)

# %% [markdown]
# ## Did any code change?

# %%
old_rows = [ids.row(item_id) for item_id in published.item_ids]
assert np.array_equal(ids.codes[old_rows], published.codes)
assert len(np.unique(ids.codes, axis=0)) == len(ids.codes)
print("300 items keep their codes, 20 new items have codes, all codes differ")

# %% [markdown]
# ## When is a new fit due?
#
# Codes represent a point in the embedding space. The drift is the mean squared distance of new items from their points, divided
# by that of the fitted items. At 1 the codes fit new items equally well; above 1.5 a new fit is advised.

# %%
drift = encoding.drift
print(f"drift {drift.ratio:.2f} at level {drift.level}, advised above {drift.threshold}")

# %% [markdown]
# ## A trained recommender too
#
# A run of `prorec`, `cocorec` or `tssr` takes new items in the same way: `prorec extend --run RUN --items new.jsonl --out RUN2`
# adds them at once, and `prorec update --run RUN --data NOW --out RUN2` trains the run further. See the page "Refresh".
