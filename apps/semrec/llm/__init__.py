"""Semantic IDs in a language model: supervised fine-tuning with LoRA, constrained decoding."""
