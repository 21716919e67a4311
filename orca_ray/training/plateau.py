"""When a noisy curve no longer falls."""

from collections.abc import Iterable


class Plateau:
    """Compares the mean of the last ``patience`` values with the mean of as many before.

    Means, because every value may come from a random draw of its own: a single low draw neither hides a plateau nor
    resets the count, as it would where the best value so far is compared. A curve is flat once its mean has fallen by
    no more than ``tolerance`` of the earlier mean's size, so no verdict is given before 2 ``patience`` values.
    """

    def __init__(self, patience: int, tolerance: float) -> None:
        """Watch a curve; ``patience`` 0 finds no curve flat."""
        self._patience = patience
        self._tolerance = tolerance
        self.values: list[float] = []
        """The last values, at most 2 ``patience``: the whole state."""

    def add(self, value: float) -> bool:
        """Take the next value and return whether the curve is flat now."""
        if self._patience == 0:
            return False
        self.values = [*self.values, value][-2 * self._patience :]
        if len(self.values) < 2 * self._patience:
            return False
        earlier, latest = _mean(self.values[: self._patience]), _mean(self.values[self._patience :])
        return earlier - latest <= self._tolerance * abs(earlier)

    def restart(self, values: Iterable[float] = ()) -> None:
        """Forget the curve, or go on from the ``values`` of another watch."""
        self.values = list(values)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
