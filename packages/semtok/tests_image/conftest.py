"""Tests of real image models, where open_clip and torchvision are installed."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("open_clip") is None:
    collect_ignore_glob = ["test_*.py"]
