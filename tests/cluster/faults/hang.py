"""A worker that stops without ending."""

import signal

from tests.cluster.faults.fault import Fault


class Hang(Fault):
    """Stops the worker of a trial for ever."""

    options = ("--hang-minutes", "0.5")

    def inject(self) -> bool:
        workers = self.run.workers()
        if workers:
            self.chance.choice(workers).send_signal(signal.SIGSTOP)
        return bool(workers)
