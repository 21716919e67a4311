"""The command ``orca-sweep``: parsing, progress and exit codes; the only place that prints."""
