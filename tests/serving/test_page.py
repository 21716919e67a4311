"""docs/serving.md: its Python block is valid, and its answer has the fields of the endpoint."""

import ast
import json
import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_other_blocks_are_valid() -> None:
    (code,) = [block for block in BLOCKS if block.startswith("import ")]
    ast.parse(code)
    (answer,) = [json.loads(block) for block in BLOCKS if block.startswith("{")]
    assert list(answer) == ["predictions", "probabilities", "labels", "warnings"]
