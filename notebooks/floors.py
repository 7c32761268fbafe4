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
# anything yet. Here a SASRec is trained for some seconds and put beside them.

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
# A folder with `items.jsonl` and `interactions.parquet`. `evalrec prepare table orders.csv items.csv --out data` makes one of
# your own tables.

# %%
folder = write_synthetic("data", num_items=150, num_users=300)
items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
item_ids = [item["item_id"] for item in items]
interactions = read_interactions(folder / "interactions.parquet", item_ids=item_ids)
split = leave_one_out(interactions)
print(split.counts)

# %% [markdown]
# ## Before anything: would the data mislead?

# %%
findings = [*check_interactions(interactions), *check_split(split, interactions)]
print([finding.message for finding in findings] or "nothing that would mislead")

# %% [markdown]
# ## A model
#
# Any model goes here that gives a score to every item for a list of histories. This one is trained on the training
# histories alone.

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
# Both halves matter: with all items in the list, and with the items of the history struck out ("filtered").

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
# The same users are asked of both, so a paired test can tell. The first system is the baseline: the best floor.

# %%
best = max(floors, key=lambda name: reports[f"floor: {name}"].metrics["filtered"]["ndcg@10"].mean)
comparison = compare({f"floor: {best}": [reports[f"floor: {best}"]], "SASRec": [reports["SASRec"]]})
print(comparison_table(comparison))

# %% [markdown]
# On so little data the best floor is ahead. A model needs more users, or the texts of the items, before it pays. Without the
# floors this table would have one row, and nobody could tell.
