"""The Ray Serve deployment that holds a model and predicts in batches."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods.model_folder import TaskSummary
from orca_ray.own_data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Description:
    """Description of a model for the HTTP side."""

    task: TaskSummary
    preprocessing: Preprocessing | None
    label_names: tuple[str, ...]
    decides: bool
    """Whether the model has probabilities."""


@dataclass(frozen=True)
class Answer:
    """Predictions for the n samples of one request."""

    predictions: Array
    """As `Predictor.predict` returns them."""
    probabilities: Array | None
    """As `Predictor.predict_proba` returns them; None: the model predicts numbers."""
    batch_samples: int
    """Number of samples in the batch that the request was part of."""


class Replica:
    """Loads a model and predicts batches of requests."""

    def __init__(self, path: str, device: str) -> None:
        """Load the model folder ``path``; an error of it is kept for `describe`, as Ray Serve would only retry."""
        from orca_ray.predictor import Predictor

        _listen_on_loopback()
        self._worker = ThreadPoolExecutor(1)  # one, because a `Predictor` is not thread-safe
        self._model: Predictor | None = None
        try:
            self._model = Predictor.load(path, device)
        except UserError as error:
            self._error = str(error)

    async def describe(self) -> Description | str:
        """Return the description of the model, or the message of the error that kept it from loading."""
        if self._model is None:
            return self._error
        model = self._model
        return Description(model.task, model.preprocessing, model.label_names, model.decides)

    async def ready(self) -> bool:
        """Return whether the model is loaded."""
        return self._model is not None

    async def predict(self, requests: list[Array]) -> list[Answer | str]:
        """Return the answers to requests of encoded samples, float32 [n, *input_shape] each; for some, an error."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, answers, self._model, requests)


def _listen_on_loopback() -> None:
    """Keep Ray Serve from opening a port of this replica, for calls of other replicas, to all machines.

    Ray has no option for it. The port checks Ray's token, but unpickles what comes with it.
    """
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def answers(model: Any, requests: list[Array]) -> list[Answer | str]:
    """Return the answers of a `Predictor` to a batch of requests, or the message of the error of one of them."""
    try:
        outputs = model.outputs_of(np.concatenate(requests))
    except UserError as error:
        return [str(error)] if len(requests) == 1 else [answers(model, [each])[0] for each in requests]
    parts = np.split(outputs, np.cumsum([len(each) for each in requests])[:-1])
    return [
        Answer(model.decide(part), model.probabilities(part) if model.decides else None, len(outputs)) for part in parts
    ]
