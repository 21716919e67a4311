"""The results store: Parquet files of results of trials, and the files beside them.

The Parquet files hold records, learning curves, artefacts, logs and journals. The files
beside them are live states and leases of running sweeps, requests to their drivers,
models, and imported scores of other people. No module of this package imports torch or
ray.
"""
