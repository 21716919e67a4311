"""The fuzzer of servers: a few attacks, and faults of a server that it must find."""

from pathlib import Path

import pytest

from benchmarks.fuzz_server import COMMAND, fuzz, save_models, serve_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FAULTY = f"""
from orca_ray.serving import decoding
read = decoding.DecodingProcess.read
def faulty(self, media, body):
    if body.startswith(b'{{"samples":[') or body.startswith(b'{{"rows":['):
        return 1 / 0
    return read(self, media, body)
decoding.DecodingProcess.read = faulty
{COMMAND}
"""
"""A server that fails if a JSON request has no blank after its first colon."""


@pytest.fixture(scope="module")
def folder(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


def test_a_few_attacks(folder: Path) -> None:
    with serve_models(folder) as servers:
        outcomes = list(fuzz(servers, 0, range(10)))
    assert len(outcomes) == 10
    assert [each for each in outcomes if each.findings] == []


def test_a_fault_is_found(folder: Path) -> None:
    with serve_models(folder, FAULTY) as servers:
        (outcome,) = fuzz(servers, 0, [1])
    assert outcome.kind == "JSON lists"
    assert outcome.findings == ["answered 500"]
