"""From a sweep file to planned trials: validation, keys, cost, requirements."""
