"""Start and latency of ``orca-sweep serve`` under a steady load on loopback: single
wine rows, in an open loop.

``python benchmarks/bench_serve.py [--rate 100] [--seconds 60] [--model DIR] [--body
minilm-l6] [--tree DIR] [--json FILE]``. Without ``--model`` a model of the wine table
is trained for a few seconds. ``--tree`` is the checkout whose server is measured, to
compare versions. Requests are sent at fixed times, whether earlier ones have been
answered or not, and latency counts from the time when a request was due. Server and
client share the machine, so it must be idle. Prints the seconds from the command to the
first answer, percentiles and errors; any error, or a late client, ends with exit code
1.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
import numpy as np
import pandas as pd
import psutil
from sklearn.datasets import load_wine

from orca_ray.own_data import Options, UserData
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.own_data.tables import Column, TableInputs
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, QUICK, make_data, make_task, run, start

ROOT = Path(__file__).resolve().parents[1]
LATE_SECONDS = 0.5
"""A client that sends later than this after the due time measures itself."""


def main() -> None:
    """Start the server, send the requests, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--body", default="minilm-l6")
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = (options.model or Path(directory) / "model").resolve()
        if options.model is None:
            save_wine(folder, options.body)
        begin = time.perf_counter()
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "orca_ray.cli.main",
                "serve",
                str(folder),
                "--port",
                "0",
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=options.tree,
            env={**os.environ, "PYTHONPATH": str(options.tree)},
        )
        assert server.stdout is not None
        found = re.search(r"http://\S+/v1/predict", server.stdout.readline())
        assert found, "the server did not start"
        try:
            asyncio.run(load(found[0], rate=1, seconds=1))
            first = time.perf_counter() - begin
            first_cpu = cpu_seconds(server.pid)
            # The first requests load code.
            asyncio.run(load(found[0], rate=20, seconds=3))
            before = cpu_seconds(server.pid)
            measured = asyncio.run(load(found[0], options.rate, options.seconds))
            spent = cpu_seconds(server.pid) - before
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    measured = {
        "first answer s": round(first, 2),
        "first answer CPU s": round(first_cpu, 2),
        **measured,
    }
    report = {
        "rate": options.rate,
        "seconds": options.seconds,
        "body": options.body,
        **measured,
    }
    report["server CPU ms/request"] = round(1000 * spent / report["requests"], 2)
    for name, value in report.items():
        print(f"{name:22} {value}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(bool(report["errors"] or report["latest start ms"] > 1000 * LATE_SECONDS))


def wine() -> pd.DataFrame:
    """Return the 178 rows of the wine table without the cultivar."""
    frame: pd.DataFrame = load_wine(as_frame=True).data
    return frame


def save_wine(folder: Path, body: str) -> None:
    """Train a model of the wine table, and write it to ``folder``."""
    frame = wine()
    columns = [
        Column(
            name=str(name),
            kind="number",
            mean=frame[name].mean(),
            std=frame[name].std(),
        )
        for name in frame
    ]
    encoder = TableInputs(columns=tuple(columns))
    x = encoder.encode(UserData(x=frame), print)
    y = load_wine().target.astype(np.int64)
    task = replace(make_task(CLASSES, encoder.shape), name="own/wine-000000")
    data = make_data(task)
    for number, split in enumerate(("train", "validation", "test")):
        part = np.arange(len(x)) % 3 == number
        data.splits[split] = replace(data.splits[split], x=x[part], y=y[part])  # type: ignore[index]
    adaptation = start(
        body, "nft", task=task, data=data, hyperparameters={**QUICK, "refine.epochs": 3}
    )
    run(adaptation)
    coding = TargetCoding(
        kind="classes", label_names=("Barolo", "Grignolino", "Barbera")
    )
    made = Preprocessing(reading=Options(), encoder=encoder, target=coding)
    Predictor(adaptation.snapshot(), made.to_json(), device="cpu").save(folder)


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process and its descendants have spent."""
    parent = psutil.Process(process)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


async def load(url: str, rate: float, seconds: float) -> dict[str, Any]:
    """Send ``rate`` requests a second for ``seconds``; return percentiles in ms, errors
    by kind, and lateness.
    """
    bodies = [json.dumps({"rows": [row]}).encode() for row in wine().to_dict("records")]
    count = int(rate * seconds)
    latencies = np.full(count, np.nan)
    lateness = np.zeros(count)
    errors = dict[str, int]()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, headers={"Content-Type": "application/json"}
    ) as session:
        begin = time.perf_counter() + 0.1

        async def send(number: int) -> None:
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            lateness[number] = time.perf_counter() - due
            try:
                async with session.post(
                    url, data=bodies[number % len(bodies)]
                ) as answer:
                    text = await answer.read()
                    kind = (
                        ""
                        if answer.status == 200 and b"predictions" in text
                        else f"status {answer.status}"
                    )
            except (aiohttp.ClientError, TimeoutError) as error:
                kind = type(error).__name__
            latencies[number] = time.perf_counter() - due
            if kind:
                errors[kind] = errors.get(kind, 0) + 1

        await asyncio.gather(*map(send, range(count)))
        wall = time.perf_counter() - begin
    percentiles = {
        f"p{p:g} ms": round(1000 * float(np.percentile(latencies, p)), 2)
        for p in (50, 90, 95, 99, 99.9, 100)
    }
    return {
        "requests": count,
        "wall s": round(wall, 2),
        "errors": errors,
        **percentiles,
        "latest start ms": round(1000 * float(lateness.max()), 2),
    }


if __name__ == "__main__":
    main()
