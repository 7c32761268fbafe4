"""Hugging Face T5 as the peer of `decoding.py`: `generate` within a trie, and the same weights.

A T5 and a `genrec.Seq2Seq` compute the same function, up to rounding, if
- T5's residual stream has mean zero (embeddings, and the outputs of attention and feed-forward):
  then its RMS norm is a layer norm without bias;
- T5's relative position biases, our learned positions and all our biases are zero;
- our query weights are sqrt(head width) times T5's, which does not scale dot products;
- both use GELU, and our head is T5's embedding times dim**-0.5, as T5 ties and scales it.
`make_t5` makes such a T5 at random, `load_t5` loads its weights into our model.
"""

from __future__ import annotations

import os
from collections import defaultdict

os.environ.setdefault("USE_TORCH", "1")

import torch
from genrec import Seq2Seq, Seq2SeqConfig, Trie
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, T5Config, T5ForConditionalGeneration

FIRST_CODE = 2  # T5's token of the first code; 0 is padding and the decoder's start


def make_t5(config: Seq2SeqConfig, codebook_sizes: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Makes a random T5 with the sizes of `config` that a `Seq2Seq` can compute too."""
    torch.manual_seed(seed)
    t5_config = T5Config(
        vocab_size=FIRST_CODE + sum(codebook_sizes),
        d_model=config.dim,
        d_kv=config.dim // config.num_heads,
        d_ff=config.feedforward_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gelu",
        layer_norm_epsilon=1e-5,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    t5 = T5ForConditionalGeneration(t5_config).eval()
    # `generate` sizes its cache by the encoder's layers and fails if the decoder has more.
    t5.config.num_layers = config.num_decoder_layers
    t5.generation_config.eos_token_id = None
    with torch.no_grad():
        for name, weight in t5.named_parameters():
            if "relative_attention_bias" in name:
                weight.zero_()
            elif "layer_norm" in name:
                weight.uniform_(0.5, 1.5)
            elif name == "shared.weight":
                weight.normal_()
                weight -= weight.mean(dim=1, keepdim=True)
            else:
                weight.normal_(std=2 * weight.shape[1] ** -0.5)
                if name.endswith(".q.weight"):
                    weight *= t5_config.d_kv**-0.5
                if name.endswith((".o.weight", ".wo.weight")):
                    weight -= weight.mean(dim=0)
    return t5


def load_t5(t5: nn.Module, model: Seq2Seq) -> Seq2Seq:
    """Overwrites the model's weights by those of a T5 from `make_t5`."""
    weights = dict(t5.named_parameters())
    scale = (model.config.dim // model.config.num_heads) ** 0.5
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}

    def copy_attention(ours: str, theirs: str) -> None:
        state[f"{ours}.query.weight"] = weights[f"{theirs}.q.weight"] * scale
        key, value = weights[f"{theirs}.k.weight"], weights[f"{theirs}.v.weight"]
        state[f"{ours}.key_value.weight"] = torch.cat([key, value])
        state[f"{ours}.output.weight"] = weights[f"{theirs}.o.weight"]

    for part in ("encoder", "decoder"):
        depth = len(model.get_submodule(part))  # type: ignore[arg-type]
        for number in range(depth):
            ours, theirs = f"{part}.{number}", f"{part}.block.{number}.layer"
            last = 1 if part == "encoder" else 2
            copy_attention(f"{ours}.attention", f"{theirs}.0.SelfAttention")
            norms = {"attention": 0, "feedforward": last}
            if part == "decoder":
                copy_attention(f"{ours}.cross_attention", f"{theirs}.1.EncDecAttention")
                norms["cross"] = 1
            for name, place in norms.items():
                norm = weights[f"{theirs}.{place}.layer_norm.weight"]
                state[f"{ours}.{name}_residual.norm.weight"] = norm
            for place, name in ((0, "wi"), (3, "wo")):
                weight = weights[f"{theirs}.{last}.DenseReluDense.{name}.weight"]
                state[f"{ours}.feedforward.{place}.weight"] = weight
        state[f"{part}_norm.weight"] = weights[f"{part}.final_layer_norm.weight"]
    shared = weights["shared.weight"]
    state["history.codes.weight"] = shared[FIRST_CODE:]
    state["tokens.weight"] = torch.cat([shared[FIRST_CODE:], shared[:1], shared[:1]])
    state["head.weight"] = shared[FIRST_CODE:] * model.config.dim**-0.5
    model.load_state_dict(state)
    return model.eval()


class Peer:
    """`generate` within a trie of item codes.

    Args:
        t5: The model.
        trie: The catalogue.
        num_beams: Beams.
        top_k: Items returned.
        renormalize: Whether scores are renormalised over legal tokens, or only masked.
    """

    def __init__(
        self, t5: nn.Module, trie: Trie, *, num_beams: int, top_k: int, renormalize: bool
    ) -> None:
        self.t5, self.trie = t5, trie
        offsets = [FIRST_CODE + sum(trie.codebook_sizes[:k]) for k in range(trie.num_levels)]
        self.tokens = trie.codes + torch.tensor(offsets, device=trie.device)
        rows = [tuple(row) for row in self.tokens.tolist()]
        self.item = {row: item for item, row in enumerate(rows)}
        below: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for row in rows:
            for level, token in enumerate(row):
                below[row[:level]].add(token)
        self.legal = {prefix: sorted(tokens) for prefix, tokens in below.items()}
        self.options = {
            "num_beams": num_beams,
            "num_return_sequences": top_k,
            "max_new_tokens": trie.num_levels,
            "do_sample": False,
            "renormalize_logits": renormalize,
        }

    def _generate(self, history: Tensor, **constraint: object) -> Tensor:
        """Returns item rows [batch, top_k]; histories are item rows, padded on the right."""
        is_item = history != self.trie.num_items
        tokens = self.tokens[history.masked_fill(~is_item, 0)] * is_item[:, :, None]
        levels = self.trie.num_levels
        with torch.inference_mode():
            generated = self.t5.generate(  # type: ignore[operator]
                input_ids=tokens.flatten(1),
                attention_mask=is_item.repeat_interleave(levels, 1).long(),
                **self.options,
                **constraint,
            )
        rows = [self.item[tuple(row)] for row in generated[:, 1:].tolist()]
        return torch.tensor(rows, device=history.device).view(len(history), -1)

    def with_callback(self, history: Tensor) -> Tensor:
        """Searches with `prefix_allowed_tokens_fn`, a look-up in a dict for each beam."""
        legal = self.legal

        def allowed(_: int, prefix: Tensor) -> list[int]:
            return legal.get(tuple(prefix[1:].tolist()), [0])

        return self._generate(history, prefix_allowed_tokens_fn=allowed)

    def with_processor(self, history: Tensor) -> Tensor:
        """Searches with a logits processor: a look-up in a dict for each beam, one mask for all."""
        processor = TrieProcessor(self.legal, FIRST_CODE + sum(self.trie.codebook_sizes))
        return self._generate(history, logits_processor=LogitsProcessorList([processor]))


class TrieProcessor(LogitsProcessor):
    """Masks the tokens that continue no item."""

    def __init__(self, legal: dict[tuple[int, ...], list[int]], vocab_size: int) -> None:
        self.row = {prefix: row for row, prefix in enumerate(legal)}
        self.mask = torch.ones(len(legal) + 1, vocab_size, dtype=torch.bool)
        for row, tokens in enumerate(legal.values()):
            self.mask[row, tokens] = False
        self.none = len(legal)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns the scores with minus infinity at tokens that are not legal."""
        rows = [self.row.get(tuple(prefix), self.none) for prefix in input_ids[:, 1:].tolist()]
        return scores.masked_fill(self.mask[rows].to(scores.device), -torch.inf)
