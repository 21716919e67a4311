"""The work on a node: staging, the runner of a trial, checkpoints and models."""
