"""Bounds on what a file may ask for, so that a small one cannot fill the memory."""

from __future__ import annotations

MOST_CODES = 2**24
"""Codes that a level may have: tables with a number a code are made of it."""
