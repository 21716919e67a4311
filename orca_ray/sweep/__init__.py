"""Sweeps: `plan` turns a sweep file into searches, `search` suggests trials, `run`
decides which trial starts and stores records, `worker` runs a trial on a node,
`executors` connect driver and workers, `trackers` show runs elsewhere.
"""
