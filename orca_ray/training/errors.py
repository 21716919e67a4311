"""Errors of training that are not the user's mistake."""


class NotFiniteError(RuntimeError):
    """A loss, distance, prediction or score became NaN or infinite; the trial ends as ``failed_nan``."""
