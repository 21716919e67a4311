"""Run the reference's own ``main.py`` and print timed events as JSON lines.

``python benchmarks/run_reference.py CHECKOUT WORKDIR CONFIG.yaml``, or ``--arrays
FILE.npz`` instead of the configuration to write the arrays of its ECG loader to a file.
Nothing of the reference is copied or edited: `repair` restores what newer libraries
have moved or removed before its files run. WORKDIR becomes the current directory, where
the reference looks for ``datasets/`` and the body ``roberta-base``, and writes
``results/``. If WORKDIR has a ``task.npz``, it fills the reference's hook for new tasks
(`offer_task`). If it has a ``start.npz``, the run starts from its weights and takes
training samples in its order (`fix_start`).
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import re
import resource
import runpy
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, TextIO, cast

import numpy as np
import torch

from benchmarks.reference import repair_libraries

# Modules that the reference imports but does not use in these runs, and the names that
# it takes from them.
_UNUSED = {
    "h5py": (),
    "torchtext": (),
    "torchtext.data": (),
    "torchtext.data.utils": ("get_tokenizer",),
}

_TRAINED = re.compile(
    r"\[train (?P<stage>embedder|full) (?P<epoch>\d+) .*?time elapsed:"
    r" (?P<seconds>[\d.]+)"
)
_TESTED = re.compile(
    r"\[test (?P<which>last|best-validated)\]\s+time elapsed: (?P<seconds>[\d.]+)"
)
_VALUE = re.compile(
    r"(otdd loss|train loss|best val score|val score|test score): (-?[\d.]+|nan)"
)
_MARKS = {
    "target_seq_len": "begin",
    "src feat shape": "loaded",
    "Params to learn:": "built",
    "------- Start Training": "refine",
}
"""Prefixes of the lines that it prints between the stages, and the events that they
mark.
"""


class AttrDict(dict[str, Any]):
    """Substitute for the package ``attrdict``, which no longer installs: nested keys as
    attributes.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError as error:
            raise AttributeError(name) from error
        if isinstance(value, dict) and not isinstance(value, AttrDict):
            value = self[name] = AttrDict(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Reporter:
    """Replaces standard output: lines about progress become JSON lines, all others go
    to stderr.
    """

    def __init__(self, out: TextIO, rest: TextIO) -> None:
        self._out = out
        self._rest = rest
        self._line = ""
        self._started = perf_counter()

    def write(self, text: str) -> int:
        """Take a piece of a line."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Flush complete lines."""
        self._rest.flush()

    def emit(self, event: str, **values: Any) -> None:
        """Print one event with the wall and CPU seconds of this process, without its
        loaders' processes.
        """
        at = round(perf_counter() - self._started, 4)
        cpu = round(process_time(), 4)
        entry = {"event": event, "at": at, "cpu": cpu, **values}
        self._out.write(json.dumps(entry) + "\n")
        self._out.flush()

    def _take(self, line: str) -> None:
        line = " ".join(line.split())
        values = {
            name.replace(" ", "_"): float(value) for name, value in _VALUE.findall(line)
        }
        for start, event in _MARKS.items():
            if line.startswith(start):
                self.emit(event)
        if found := _TRAINED.search(line):
            stage = "align" if found["stage"] == "embedder" else "refine"
            self.emit(
                f"{stage}_epoch",
                epoch=int(found["epoch"]),
                seconds=float(found["seconds"]),
                **values,
            )
        elif found := _TESTED.search(line):
            self.emit(
                "test", which=found["which"], seconds=float(found["seconds"]), **values
            )
        self._rest.write(line + "\n")


def repair() -> None:
    """Restore what the reference expects of older libraries, without changing its
    arithmetic.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # The reference's loaders hold objects that cannot be sent to a spawned process.
    multiprocessing.set_start_method("fork")
    repair_libraries()
    for name, attributes in {**_UNUSED, "attrdict": ("AttrDict",)}.items():
        _stand_in(name, dict.fromkeys(attributes, AttrDict))
    if importlib.util.find_spec("timm.models.layers") is None:
        sys.modules["timm.models.layers"] = importlib.import_module("timm.layers")
    if not torch.cuda.is_available():
        # The reference saves the state with every best epoch.
        no_state = torch.empty(0, dtype=torch.uint8)
        torch.cuda.get_rng_state = lambda *_: no_state


def _stand_in(name: str, attributes: Mapping[str, Any]) -> None:
    """Register an empty module with some names, unless the real one is installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module


def offer_task(path: str) -> None:
    """Fill the reference's hook for new tasks, ``your_new_task``, with the arrays and
    the description in a file.

    It has train_x [N, C, L], train_y, test_x, test_y and ``info``: JSON with ``loss``
    and ``outputs`` (a number of classes, or the shape of a dense target). Validation is
    on test, as wherever the reference has no validation.
    """
    task_configs, utils = (
        importlib.import_module(name) for name in ("task_configs", "utils")
    )
    with np.load(path) as file:
        task = {name: file[name] for name in file.files}
    info = json.loads(str(task["info"]))
    dense = isinstance(info["outputs"], list)
    own = task_configs.get_data, task_configs.get_config, task_configs.get_metric

    def loader(part: str, batch_size: int, shuffle: bool) -> Any:
        tensors = (
            torch.from_numpy(task[f"{part}_x"]),
            torch.from_numpy(task[f"{part}_y"]),
        )
        data = torch.utils.data.TensorDataset(*tensors)
        return torch.utils.data.DataLoader(
            data, batch_size, shuffle=shuffle, num_workers=4, pin_memory=True
        )

    def get_data(
        root: str, dataset: str, batch_size: int, *args: Any, **kwargs: Any
    ) -> Any:
        if dataset != "your_new_task":
            return own[0](root, dataset, batch_size, *args, **kwargs)
        train = loader("train", batch_size, True)
        test = loader("test", batch_size, False)
        return train, test, test, len(train), len(test), len(test), None

    def get_config(root: str, args: Any) -> Any:
        with contextlib.suppress(
            UnboundLocalError
        ):  # the hook leaves its result undefined, after setting all else
            own[1](root, args)
        args.infer_label = dense
        outputs = tuple(info["outputs"]) if dense else info["outputs"]
        losses = {
            "cross_entropy": torch.nn.CrossEntropyLoss(),
            "nrmse": utils.nrmse_loss,
            "relative_l2": relative_l2,
        }
        return 1, (1, *task["train_x"].shape[1:]), outputs, losses[info["loss"]], args

    def get_metric(root: str, dataset: str) -> Any:
        metric, best = own[2](root, dataset)
        return (utils.nmse if dense else metric), best

    for replacement in (get_data, get_config, get_metric):
        setattr(task_configs, replacement.__name__, replacement)


def fix_start(path: str) -> None:
    """Let the reference start from weights in a file, and train on samples in an order
    given there.

    The file has x [N, C, L], the training inputs; ``orders`` [E, N], of each refine
    epoch; and ``projection.*`` and ``predictor.*``, the weights of embedder and head
    that are drawn at random.
    """
    task_configs = importlib.import_module("task_configs")
    with np.load(path) as file:
        given = {name: file[name] for name in file.files}
    own_data = task_configs.get_data
    orders = iter(given["orders"])
    position = {row.tobytes(): i for i, row in enumerate(given["x"])}

    class Order(torch.utils.data.Sampler[int]):
        def __init__(self, x: torch.Tensor) -> None:
            self._rows = {position[row.numpy().tobytes()]: i for i, row in enumerate(x)}

        def __len__(self) -> int:
            return len(self._rows)

        def __iter__(self) -> Iterator[int]:
            return (self._rows[i] for i in next(orders).tolist())

    def get_data(
        root: str, dataset: str, batch_size: int, *args: Any, **kwargs: Any
    ) -> Any:
        train, *rest = own_data(root, dataset, batch_size, *args, **kwargs)
        if dataset != "text":
            sampler = Order(train.dataset.tensors[0])
            train = torch.utils.data.DataLoader(
                train.dataset, batch_size, sampler=sampler
            )
        return (train, *rest)

    setattr(task_configs, "get_data", get_data)  # noqa: B010
    # After the replacement, because the module imports it.
    embedder = importlib.import_module("embedder")
    own_model = embedder.wrapper1D

    def wrapper1d(*args: Any, **kwargs: Any) -> torch.nn.Module:
        model: torch.nn.Module = own_model(*args, **kwargs)
        with torch.no_grad():
            for part in ("embedder.projection", "predictor"):
                for name, parameter in model.get_submodule(part).named_parameters():
                    parameter.copy_(
                        torch.from_numpy(given[f"{part.rpartition('.')[2]}.{name}"])
                    )
        return model

    setattr(embedder, "wrapper1D", wrapper1d)  # noqa: B010


def relative_l2(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples of the error's norm over the target's norm, a loss
    that the reference lacks.
    """
    norms = (
        torch.linalg.vector_norm(each.flatten(1), dim=1) for each in (output - y, y)
    )
    return torch.div(*norms).mean()


def write_ecg_arrays(path: Path) -> None:
    """Write the arrays that the reference's loader makes of
    ``datasets/challenge2017.pkl``.
    """
    train, _, test = importlib.import_module("data_loaders").load_ecg("./datasets", 1)
    arrays = {}
    for part, loader in (("train", train), ("test", test)):
        arrays[f"{part}_x"], arrays[f"{part}_y"] = (
            tensor.numpy() for tensor in loader.dataset.tensors
        )
    np.savez(path, **arrays)


def main() -> None:
    """Run it; the last event is ``end``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("config", type=Path, nargs="?")
    parser.add_argument(
        "--arrays",
        type=Path,
        help="write what the ECG loader returns to this file instead",
    )
    args = parser.parse_args()
    reporter = Reporter(sys.stdout, sys.stderr)
    sys.stdout = cast(TextIO, reporter)
    warnings.filterwarnings("ignore")
    repair()
    sources = args.checkout.resolve() / "src"
    config = args.config and str(args.config.resolve())
    arrays = args.arrays and args.arrays.resolve()
    sys.path[:0] = [str(sources), str(sources / "otdd")]
    os.chdir(args.workdir)
    if arrays:
        write_ecg_arrays(arrays)
        return
    if Path("task.npz").exists():
        offer_task("task.npz")
    if Path("start.npz").exists():
        fix_start("start.npz")
    sys.argv = [str(sources / "main.py"), "--config", config]
    runpy.run_path(str(sources / "main.py"), run_name="__main__")
    reporter.emit(
        "end", peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )


if __name__ == "__main__":
    main()
