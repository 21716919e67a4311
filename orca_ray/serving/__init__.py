"""The HTTP endpoint of a model, ``orca-sweep serve``: one process, without Ray; several stand behind a balancer."""
