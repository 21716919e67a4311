"""The HTTP endpoint of a model, ``orca-sweep serve``: one process, without Ray; run
several behind a load balancer.
"""
