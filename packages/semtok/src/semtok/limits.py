"""Bounds on what a file may demand, so that a small file cannot fill the memory."""

from __future__ import annotations

MOST_CODES = 2**24
"""Maximal number of codes of a level: some tables have an entry for each code."""
