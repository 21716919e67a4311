"""The HTTP endpoint of a model, ``orca-sweep serve``: one process, without Ray.

Run several processes behind a load balancer.
"""
