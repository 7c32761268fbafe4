# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Is my recommender better than the floors?
#
# A floor is a simple method that counts instead of learning. A model that does not beat the floors has not shown
# anything yet. Here we train a SASRec for some seconds and compare it with the floors.

# %%
import json

import torch
from evalrec import (
    check_interactions,
    check_split,
    compare,
    comparison_table,
    evaluate,
    fit_floors,
    leave_one_out,
    read_interactions,
    reports_table,
    write_synthetic,
)
from genrec import SequenceModelConfig, dense_scorer, fit
from rich import print

# %% [markdown]
# ## The data
#
# A folder with `items.jsonl` and `interactions.parquet`. `evalrec prepare table orders.csv items.csv --out data` makes such a
# folder from your own tables.

# %%
folder = write_synthetic("data", num_items=150, num_users=300)
items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
item_ids = [item["item_id"] for item in items]
interactions = read_interactions(folder / "interactions.parquet", item_ids=item_ids)
split = leave_one_out(interactions)
print(split.counts)

# %% [markdown]
# ## First check: are the data misleading?

# %%
findings = [*check_interactions(interactions), *check_split(split, interactions)]
print([finding.message for finding in findings] or "nothing misleading")

# %% [markdown]
# ## A model
#
# You can use any model that scores every item for a list of histories. This one is trained only on the training histories.

# %%
torch.manual_seed(0)
config = SequenceModelConfig(
    backbone="sasrec",
    epochs=10,
    batch_size=64,
    learning_rate=3e-3,
    warmup_steps=20,
    num_negatives=0,
)
model = config.model(num_items=len(items))
batches = config.batches(split.train, num_items=len(items), seed=0)
fit(model, batches, config.loss_terms, config.settings(seed=0, monitor=None))
score = dense_scorer(model.eval(), config.history_length)

# %% [markdown]
# ## The floors, and all in one table
#
# The table has two halves: all items are ranked, or the items of the history are left out ("filtered"). Read both.

# %%
texts = [" ".join([item["title"], *item["categories"]]) for item in items]
floors = fit_floors(split, texts)
reports = {"SASRec": evaluate(split.test, score, name="SASRec")}
for name, floor in floors.items():
    reports[f"floor: {name}"] = evaluate(split.test, floor.score, name=name)
print(reports_table(reports, title="Test"))

# %% [markdown]
# ## Is the difference real?
#
# Both systems are tested on the same users, so we can use a paired test. The first system is the baseline: the best floor.

# %%
best = max(floors, key=lambda name: reports[f"floor: {name}"].metrics["filtered"]["ndcg@10"].mean)
comparison = compare({f"floor: {best}": [reports[f"floor: {best}"]], "SASRec": [reports["SASRec"]]})
print(comparison_table(comparison))

# %% [markdown]
# On so little data the best floor is better. A model needs more users, or the texts of the items, to beat it. Without the
# floors this table would have one row, and we would not know this.
