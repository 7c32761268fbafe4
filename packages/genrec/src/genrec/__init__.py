"""Generative recommendation: an encoder-decoder over semantic IDs, constrained decoding, one training loop."""
