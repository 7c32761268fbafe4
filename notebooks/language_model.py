# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A Hugging Face model that generates only items
#
# A language model generates tokens. If each code of a semantic ID is a token, it can generate items. If generation is restricted
# to the trie of all semantic IDs, it generates *only* items. Here we see both, with a tiny model with random weights.

# %%
import numpy as np
import torch
from genrec import Trie
from genrec.hf import TrieLogitsProcessor
from semtok import SemanticIds
from semtok.hf import ItemTokens
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# %% [markdown]
# ## Items and their codes

# %%
vectors = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
ids = SemanticIds.fit(vectors, quantizer="rq", num_levels=3, codebook_size=16)
print(ids)
num_codes = int(np.prod(ids.codebook_sizes))
print(f"{len(ids.codes)} items; {num_codes:,} rows of codes would be possible")

# %% [markdown]
# ## A model and a tokenizer
#
# For a real model, use `AutoTokenizer.from_pretrained(NAME)` and `AutoModelForCausalLM.from_pretrained(NAME)`.

# %%
words = Tokenizer(models.BPE())
words.pre_tokenizer = pre_tokenizers.ByteLevel()
words.train_from_iterator(["you may like"], trainers.BpeTrainer(special_tokens=["<pad>", "</s>"]))
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="</s>", padding_side="left"
)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
)
model = LlamaForCausalLM(config).eval()

# %% [markdown]
# ## A token for each code

# %%
tokens = ItemTokens.add_to(tokenizer, ids)
model.resize_token_embeddings(len(tokenizer))
print(tokens.interleaved(["you may like ", 7]))

# %% [markdown]
# ## Free generation: almost never an item

# %%
prompt = tokenizer([tokens.interleaved([3, 5, " you may like "])], return_tensors="pt")
width = prompt["input_ids"].shape[1]
settings = {
    "do_sample": True,
    "num_return_sequences": 50,
    "pad_token_id": tokenizer.pad_token_id,
    "max_new_tokens": ids.codes.shape[1],
}
inputs = {name: prompt[name] for name in ("input_ids", "attention_mask")}
free = model.generate(**inputs, **settings)
rows = ids.rows(tokens.codes_of(free[:, width:].numpy()))
print(f"{(rows >= 0).sum()} of {len(rows)} answers are items")

# %% [markdown]
# ## Restricted to the trie: always an item

# %%
trie = Trie.build(torch.from_numpy(ids.codes), ids.codebook_sizes)
processor = TrieLogitsProcessor(
    trie, tokens.token_ids, prompt_length=width, eos_token_id=tokenizer.eos_token_id
)
settings["max_new_tokens"] = processor.max_new_tokens
held = processor.items(model.generate(**inputs, **settings, logits_processor=[processor]))
print(f"{int((held >= 0).sum())} of {held.numel()} answers are items")
assert (held >= 0).all()

# %% [markdown]
# ## Next
#
# A model with random weights recommends at random. The guide "Semantic IDs in a language model" trains one on histories, with
# `HistoryTemplate` and `ItemCollator` of `semtok.hf`.
