"""The command ``orca-sweep``: parsing, progress and exit codes.

No other package of orca-ray prints.
"""
