"""Sweeps: `plan` turns a sweep file into searches, `search` suggests trials, `run` decides which one starts and stores
its record, `worker` runs one trial on a node, `executors` connect both, and `trackers` show runs in other tools.
"""
