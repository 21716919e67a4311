"""Writer of answers as JSON and as Arrow IPC streams, and the OpenAPI description."""

from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, create_model
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from orca_ray.data.rows import Array
from orca_ray.predictor import Predictor
from orca_ray.serving.reading import ARROW, JSON, RequestReader, nested_lists
from orca_ray.version import __version__


class Formats:
    """Writer of answers, in JSON or Arrow, and reader of requests.

    A request has rows of a table by column name, or arrays.
    """

    def __init__(self, model: Predictor, most_samples: int) -> None:
        """Allow ``most_samples`` in a request, or fewer if their arrays are large."""
        self._model = model
        self.reader = RequestReader(model.task, model.preprocessing, most_samples)
        self._answer = self._answer_type()

    def write(self, media: str, outputs: Array, warnings: list[str]) -> bytes:
        """Return the body of an answer.

        It has predictions, probabilities, label names and ``warnings``.
        """
        arrays = {"predictions": self._model.decide(outputs)}
        if self._model.decides:
            arrays["probabilities"] = self._model.probabilities(outputs)
        notes = {"labels": list(self._model.label_names), "warnings": warnings}
        if media == JSON:
            return to_json({**arrays, **notes}, fallback=np.ndarray.tolist)
        columns = {name: _arrow_column(values) for name, values in arrays.items()}
        metadata = {key: to_json(value) for key, value in notes.items()}
        table = pa.table(columns).replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def description(self, *, token: bool) -> dict[str, Any]:
        """Return the OpenAPI description of the server.

        ``token`` says whether requests need a token.
        """
        types: list[tuple[Any, Any]] = [
            (self.reader.request_type, "validation"),
            (self._answer, "validation"),
        ]
        references, schemas = models_json_schema(
            types, ref_template="#/components/schemas/{model}"
        )
        stream = {"schema": {"type": "string", "format": "binary"}}
        request, answer = (
            {JSON: {"schema": references[key]}, ARROW: stream} for key in types
        )
        error = {
            "type": "object",
            "properties": {"error": {"type": "string"}},
            "required": ["error"],
        }
        refusal = {
            "description": "Why there is no answer.",
            "content": {JSON: {"schema": error}},
        }
        predict = {
            "description": "The answer has the content type of the request.",
            "security": [{"token": []}] if token else [],
            "requestBody": {"required": True, "content": request},
            "responses": {
                "200": {"description": "Predictions.", "content": answer},
                "default": refusal,
            },
        }
        components = {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        }
        info = {"title": f"orca-ray: {self._model.task.name}", "version": __version__}
        return {
            "openapi": "3.1.0",
            "info": info,
            "paths": {"/v1/predict": {"post": predict}},
            "components": components,
        }

    def _answer_type(self) -> type[BaseModel]:
        """Return the type of answers in JSON."""
        model = self._model
        shape = model.task.target.output_shape
        if model.preprocessing is not None and model.preprocessing.target.axes:
            shape = model.preprocessing.target.given_shape
        prediction: Any
        if model.task.target.kind == "classes":
            prediction = str if model.label_names else int
        else:
            prediction = nested_lists(shape, bool if model.decides else float)
        fields: dict[str, Any] = {
            "predictions": (list[prediction], ...),
            "labels": (list[str], ...),
            "warnings": (list[str], ...),
        }
        if model.decides:
            probability: Any = nested_lists(shape, float)
            fields["probabilities"] = (list[probability], ...)
        return create_model("Predictions", **fields)


def _arrow_column(values: Array) -> Any:
    """Return an Arrow column of numbers or text [n], or of tensors [n, ...]."""
    if values.ndim == 1:
        return pa.array(values)
    if values.dtype == bool:  # there are no tensors of booleans
        values = values.view("uint8")
    return pa.FixedShapeTensorArray.from_numpy_ndarray(values)
