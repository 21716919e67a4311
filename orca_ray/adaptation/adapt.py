"""The implementation of ``orca_ray.adapt``: data in, predictor out."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_ray.adaptation.notebook import notebook_progress
from orca_ray.adaptation.sweep import AdaptationSweep
from orca_ray.data.cache import scratch_directory
from orca_ray.errors import UserError
from orca_ray.predictor import Predictor
from orca_ray.sweep.executors import nodes_of
from orca_ray.sweep.run.events import Listener
from orca_ray.tasks.task import Task

if TYPE_CHECKING:
    from orca_ray.own_data import UserData

logger = logging.getLogger(__name__)


def adapt(
    task: "Task | UserData | str | Path | tuple[Any, Any]",
    *,
    minutes: float = 20.0,
    methods: Sequence[str] = (),
    body: str = "",
    results: str = "results",
    executor: str = "ray",
    listener: Listener | None = None,
    **options: Any,
) -> Predictor:
    """Adapt a pretrained body to data, and return the best model.

    After an interruption, the same call continues the adaptation.

    Args:
        task: the data: a task, a path, arrays ``(x, y)``, or samples that
            `orca_ray.own_data.read` returned.
        minutes, methods, body, results, executor: see `AdaptationSweep`.
        listener: function that is called with every event. None: in a notebook, the
            progress is shown below the cell.
        options: settings that are not inferred from the data, e.g. ``target="label"``:
            fields of `orca_ray.own_data.Options`.

    Raises:
        UserError: nothing can be learnt from the data, an option does not fit, or no
            trial ended in time.
    """
    if listener is None:
        listener = notebook_progress(minutes)
    # The nodes matter only for the choice of the body: a GPU can train the whole one.
    needs_no_nodes = body or isinstance(task, Task)
    nodes = () if needs_no_nodes else nodes_of(executor, address=None)
    has_gpus = any(node.gpus for node in nodes)
    sweep = AdaptationSweep(
        task=as_task(task, options, gpus=has_gpus),
        minutes=minutes,
        methods=methods,
        body=body,
        results=results,
        executor=executor,
        listener=listener,
    )
    for line in sweep.left_out():
        logger.warning("%s", line)
    sweep.run()
    with scratch_directory() as scratch:
        sweep.save(scratch / "model")
        return Predictor.load(scratch / "model")


def as_task(data: Any, options: Mapping[str, Any], *, gpus: bool = False) -> Task:
    """Return the task for ``data``, which is anything that `adapt` takes.

    ``gpus``: whether trials run on GPUs (see `infer`).

    Raises UserError if data or options are unusable.
    """
    if isinstance(data, Task):
        if options:
            raise UserError(f"a task is complete: leave out {', '.join(options)}")
        return data
    from orca_ray.own_data import UserData, make_options, read
    from orca_ray.own_data.infer_task import infer
    from orca_ray.own_data.registration import from_arrays, register

    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(*data, **{**options, "gpus": gpus})
    data_options = make_options("adapt", dict(options))
    if isinstance(data, str | Path):
        data = read(data, data_options)
    if not isinstance(data, UserData):
        raise UserError(
            f"adapt takes a task, a path or arrays (x, y), got {type(data).__name__}"
        )
    return register(infer(data, data_options, gpus=gpus), data)
