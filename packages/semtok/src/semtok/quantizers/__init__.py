"""Quantizers: vectors to codes and back."""
