"""The results store: Parquet files of records, curves, artefacts, logs and journals,
and the files beside them.

The files beside them are live states and leases of running sweeps, requests to their
drivers, models, and imported scores of other people. No module of this package imports
torch or ray.
"""
