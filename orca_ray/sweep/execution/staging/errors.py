"""The exception of a node that cannot get the data of a trial."""


class StagingError(RuntimeError):
    """This node cannot get data, body or source of a trial, or gets others than the sweep was planned with.

    It is a failure of the node, not of the trial: another node, or the same one later, may run the trial. It is
    therefore handled like a lost worker and never ends a trial as ``failed_user``.
    """
