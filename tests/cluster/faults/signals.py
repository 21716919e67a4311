"""Signals with which users, schedulers and service managers end a sweep."""

import signal

from tests.cluster.faults.fault import Fault


class Interrupt(Fault):
    """Sends SIGINT to the command alone, as ``kill -INT`` does."""

    codes = (130, 143)
    number = signal.SIGINT

    def inject(self) -> bool:
        self.run.command.send_signal(self.number)
        return True


class Terminate(Interrupt):
    """Sends SIGTERM, as SLURM, Kubernetes and systemd do."""

    number = signal.SIGTERM
