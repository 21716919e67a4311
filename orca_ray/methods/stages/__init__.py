"""The stages of a trial. Only these modules of `orca_ray.methods` load torch: a sweep is planned without it."""
