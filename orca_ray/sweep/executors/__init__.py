"""Executors run the trials that the controller chooses."""

import os


def joined_address(given: str | None) -> str | None:
    """Return the address of the Ray cluster to join, by default RAY_ADDRESS; None, also for "local": start one."""
    address = given or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None
