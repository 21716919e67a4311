"""Executors run the trials that the controller chooses."""

import os


def joined_address(given: str | None) -> str | None:
    """Return the Ray cluster to join: ``given`` or else RAY_ADDRESS; None if neither is
    set, or if it is "local".
    """
    address = given or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None
