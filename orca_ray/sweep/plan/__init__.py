"""From a sweep file to planned trials: validation, trial keys, cost, and what is
missing on this machine.
"""
