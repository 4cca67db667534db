"""Lets torchvision's wheel be imported beside a PyTorch that was built for the CPU. On the engines' PYTHONPATH only.

The wheel's compiled operators are for CUDA, and don't load here. Its Python part, which is all that preparing an image
takes, can't be imported either: it registers shapes for operators that nobody has declared. So they are declared, at
the moment of that import, and never called. The wheel lies beside the environment's packages, unseen by programs that
can do without it, such as ``transformers serve``: these would take its half for the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class _Declaring(MetaPathFinder):
    library: Any = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find nothing, but declare the operators before torchvision is found by others."""
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.path.append(str(Path(sys.prefix) / "beside"))
sys.meta_path.insert(0, _Declaring())
