"""Console script ``orca-sweep``.

The module imports the standard library only: `entry` imports the rest, so that Ctrl-C
during those imports is caught.
"""

import io
import os
import sys

CLUSTER_LOST = 75
"""Exit code if the cluster of a running sweep is lost.

It equals `orca_ray.cli.output.CLUSTER_LOST`, whose import would take time.
"""


def entry() -> None:
    """Run the command line of this process, and exit with the command's exit code."""
    if sys.platform == "win32":
        print(
            "error: orca-ray runs on Linux and macOS; on Windows, use WSL (wsl"
            " --install)",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        _prepare()
        from orca_ray.cli.app import run

        code = run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except OSError:  # stderr cannot be written: there is nowhere to print a message
        code = 2
    # not imported at the top, where Ctrl-C could interrupt the import
    import signal

    # a second signal ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter would report it again when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code == CLUSTER_LOST:  # threads of Ray may wait for ever for what is lost
        os._exit(code)
    sys.exit(code)


def _prepare() -> None:
    """Give every command the same environment, and SIGTERM the effect of Ctrl-C."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Closed streams; opening in this order fills the free descriptors 0, 1 and 2.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 # open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that lacks a character gets its code
            stream.reconfigure(errors="backslashreplace")
    # Tables of a width with five digits would not fit the memory. Rich takes characters
    # such as "²" for digits.
    for name in ("COLUMNS", "LINES"):
        value = os.environ.get(name, "")
        if len(value) > 4 or not value.isascii():
            del os.environ[name]
    # Arrow's default allocator keeps freed memory: a board of a million records takes
    # 420 MB with it, and 330 MB with the system's allocator.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


if __name__ == "__main__":
    entry()
