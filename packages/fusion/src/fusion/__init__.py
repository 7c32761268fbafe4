"""Modules and losses that join text and collaborative signals."""
