# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # PRORec on your data
#
# From two files to recommendations, then a look inside. PRORec learns item embeddings from behaviour and text together,
# turns them into semantic IDs, and generates the IDs of the next item.

# %%
import subprocess
from pathlib import Path

from evalrec import write_synthetic
from rich import print

import semrec

# %% [markdown]
# ## Data and configuration
#
# The folder holds `items.jsonl` and `interactions.parquet`. The configuration below is tiny, so the notebook ends within a
# minute. For real data leave `--config` out: then the sizes are chosen from the data.

# %%
data = write_synthetic("data", num_items=60, num_users=120)
Path("tiny.toml").write_text("""
[text]
embedding = "lsa"
dim = 16
[stage_one]
dim = 16
num_heads = 2
num_layers = 1
epochs = 3
[codes]
codebook_size = 16
[stage_two]
dim = 16
num_heads = 2
feedforward_dim = 32
epochs = 2
batch_size = 128
[evaluation]
reference = false
num_beams = 40
""")

# %% [markdown]
# ## The run
#
# This is the same as `prorec run --data data --out runs/mine --config tiny.toml` in a terminal. You can stop it at any moment;
# the same command resumes it. It writes the report `runs/mine/report.html`.

# %%
command = ["prorec", "run", "--data", str(data), "--out", "runs/mine", "--config", "tiny.toml"]
subprocess.run(command, check=True)

# %% [markdown]
# ## What won?
#
# You can get every row of the run's table by its name, floors included.

# %%
run = semrec.load_run("runs/mine")
print(run.rankings)
for name in ("PRORec", "graph + text"):
    print(name, run.reports[name].metrics["filtered"]["ndcg@10"])

# %% [markdown]
# ## Recommendations
#
# Without a name, `run.recommender()` is the system that `prorec recommend` uses.

# %%
history = run.item_ids[:2]
(answer,) = run.recommender().recommend([history], top_k=5, exclude_seen=True)
for item in answer.items:
    print(item.item_id, run.titles[item.item_id], f"{item.score:.2f}")

# %% [markdown]
# ## Semantic IDs
#
# Row i belongs to item i. No two items have the same codes.

# %%
codes = run.codes.codes
print(codes[:5])
assert len({tuple(row) for row in codes.tolist()}) == len(run.item_ids)
