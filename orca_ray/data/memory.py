"""Memory of this machine, against which declared sizes are checked before anything is allocated."""

import os

from orca_ray.errors import UserError


def memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(num_bytes: float, what: str, advice: str) -> None:
    """Raise UserError if ``what``, which takes ``num_bytes``, does not fit the memory."""
    if num_bytes > (memory := memory_bytes()):
        raise UserError(
            f"{what}: {num_bytes / 2**30:,.1f} GiB, and this machine has {memory / 2**30:,.1f} GiB of memory; {advice}"
        )
