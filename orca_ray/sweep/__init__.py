"""Sweeps: plan, run and record the trials of tasks and methods.

The rooms, lowest first: `plan` turns a sweep file into searches, `messages` are what
driver and workers exchange, `search` suggests trials, `worker` runs a trial on a node,
`run` decides which trial starts and stores records, `executors` connect driver and
workers, `trackers` show runs elsewhere.
"""
