"""The work on a node: staging of data and bodies, the runner of a trial, its
checkpoints and models.
"""
