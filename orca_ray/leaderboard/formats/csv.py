"""CSV with one row per number, in full precision."""

import csv
import io
import math

from orca_ray.leaderboard.effects import Effects, Levels
from orca_ray.leaderboard.format import Format
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard
from orca_ray.results.record import Status


def _render(board: Leaderboard) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["benchmark", "sweep", "protocol", "section", "task", "metric", "method", "value", "std", "n"])

    def write(section: str, task: str, metric: str, method: str, *numbers: float | None) -> None:
        cells = ["" if number is None or math.isnan(number) else number for number in numbers]
        writer.writerow([board.benchmark, board.sweep, board.protocol, section, task, metric, method, *cells])

    for task in board.tasks:
        for method in board.methods:
            write("score", task, board.metrics[task], method, *board.score(task, method))
    for method in board.methods:
        for name in STATISTICS:
            write("summary", "", name, method, board.statistic(method, name), None, len(board.common_tasks))
        for status in Status:
            write("status", "", status.value, method, board.count(method, status), None, None)
    return stream.getvalue().rstrip("\n")


def _csv_effects(effects: Effects) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("section", "task", "metric", "levels", "reference", "value", "std", "low", "high", "n", "planned")
    writer.writerow(["benchmark", "sweep", "protocol", *columns])

    def write(section: str, task: str, levels: Levels, reference: Levels, *numbers: float | None) -> None:
        cells = ["" if value is None or math.isnan(value) else value for value in numbers]
        names = [", ".join(f"{factor}={level}" for factor, level in each.items()) for each in (levels, reference)]
        metric = effects.metrics.get(task, "")
        writer.writerow([effects.benchmark, effects.sweep, effects.protocol, section, task, metric, *names, *cells])

    for each in effects.comparisons:
        value, low, high = each.ratio
        write("effect", "", each.levels, each.reference, value, None, low, high, each.pairs, each.planned)
        for task, (value, low, high) in each.tasks.items():
            write("effect", task, each.levels, each.reference, value, None, low, high, None, None)
    for (task, index), (mean, std, n) in effects.scores.items():
        write("score", task, effects.cells[index], {}, mean, std, None, None, n, len(effects.seeds))
    return stream.getvalue().rstrip("\n")


FORMAT = Format("csv", ".csv", _render, _csv_effects)
