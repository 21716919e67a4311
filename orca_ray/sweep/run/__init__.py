"""Running planned trials: the driver, the controller that decides what runs next, and
what it knows and records.
"""
