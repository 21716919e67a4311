"""The version of orca-ray, also that of the distribution in pyproject.toml (a test compares them)."""

__version__ = "0.1.0"
