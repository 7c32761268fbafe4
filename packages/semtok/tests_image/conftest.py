"""Tests of real image models, where open_clip and torchvision are installed.

torchvision is built for one build of torch. Beside another one it cannot register its own
operators, which no image embedding needs: their schemas are then declared in their place.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

if importlib.util.find_spec("open_clip") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        from torch import library

        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("torchvision::nms", "torchvision::qnms"):
            library.define(name, boxes)
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        importlib.import_module("torchvision")
