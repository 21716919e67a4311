"""Functions of the reference implementation of ORCA, run from a checkout; nothing is copied.

Metrics and losses are compiled one by one: their module does without its FSD50K part, silently, where a package is
missing.
"""

import ast
import os
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = os.environ.get("ORCA_REFERENCE", "")

needs_reference = pytest.mark.skipif(not CHECKOUT, reason="ORCA_REFERENCE names no checkout of the reference")


def reference(*names: str) -> Any:
    """Compile functions and classes of the reference's utils.py, which may call each other; return the last one."""
    import numpy as np
    import torch
    from sklearn import metrics
    from torch import nn
    from torch.nn import functional

    path = Path(CHECKOUT) / "src" / "utils.py"
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    kinds = ast.FunctionDef | ast.ClassDef
    found: list[ast.stmt] = [node for node in tree.body if isinstance(node, kinds) and node.name in names]
    assert len(found) == len(names), f"{path} lacks some of {names}"
    scope: dict[str, Any] = {"np": np, "torch": torch, "nn": nn, "F": functional, "metrics": metrics}
    scope |= {"roc_auc_score": metrics.roc_auc_score, "device": torch.device("cpu")}
    exec(compile(ast.Module(body=found, type_ignores=[]), str(path), "exec"), scope)
    return scope[names[-1]]
