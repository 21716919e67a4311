"""From a sweep file to planned trials: reading and validation, trial keys, cost, and what this machine lacks."""
