"""The process that decodes requests: what it returns, and how it is replaced."""

import json
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from orca_ray.errors import UserError
from orca_ray.predictor import Predictor
from orca_ray.serving import decoding
from orca_ray.serving.decoding import DecodingProcess, ModelForm
from orca_ray.serving.reading import JSON, RequestReader
from tests.serving.requests import ROWS

BODY = json.dumps({"rows": ROWS}).encode()


@pytest.fixture
def form(models: dict[str, Predictor]) -> ModelForm:
    model = models["mixed"]
    return ModelForm(model.task, model.preprocessing, 1000)


@pytest.fixture
def process(form: ModelForm) -> Iterator[DecodingProcess]:
    process = DecodingProcess(form, 2**20, 30)
    yield process
    process.close()


def test_it_reads_as_the_reader_does_and_is_replaced_when_it_ends(
    process: DecodingProcess, form: ModelForm
) -> None:
    expected, expected_warnings = RequestReader(*form).read(JSON, BODY)
    samples, warnings = process.read(JSON, BODY)
    assert warnings == expected_warnings
    np.testing.assert_array_equal(samples, expected)
    with pytest.raises(UserError, match="row 1, column 'age of cask' is missing"):
        process.read(JSON, b'{"rows": [{}]}')
    process._child.process.send_signal(signal.SIGKILL)
    with pytest.raises(UserError, match="takes too much memory or time"):
        process.read(JSON, BODY)
    assert len(process.read(JSON, BODY)[0]) == len(ROWS)
    process._seconds = 0.1
    process._child.process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="takes too much memory or time"):
        process.read(JSON, BODY)


def test_a_body_that_it_does_not_take_ends_it(process: DecodingProcess) -> None:
    """The body is larger than what the system keeps of it for a stopped process."""
    assert len(process.read(JSON, BODY)[0]) == len(ROWS)
    process._seconds = 0.1
    process._child.process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="takes too much memory or time"):
        process.read(JSON, b" " * 2**24)
    process._seconds = 10
    assert len(process.read(JSON, BODY)[0]) == len(ROWS)


def test_its_memory_is_limited(
    form: ModelForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "LEAST_MEMORY", 2**26)
    process = DecodingProcess(form, 0, 30)
    try:
        assert len(process.read(JSON, BODY)[0]) == len(ROWS)
        with pytest.raises(UserError, match="takes too much memory or time"):
            process.read(JSON, b" " * 2**28)
    finally:
        process.close()
