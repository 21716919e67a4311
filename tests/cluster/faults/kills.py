"""SIGKILL for the processes of a sweep that has its own Ray cluster."""

import signal

from tests.cluster.faults.fault import Fault


class KillDriver(Fault):
    """Kills the command itself."""

    codes = (-signal.SIGKILL,)

    def inject(self) -> bool:
        self.run.command.send_signal(signal.SIGKILL)
        return True


class KillWorker(Fault):
    """Kills the worker of a trial."""

    def inject(self) -> bool:
        workers = self.run.workers()
        if workers:
            self.chance.choice(workers).kill()
        return bool(workers)


class KillRaylet(Fault):
    """Kills the raylet of the driver."""

    codes = (75,)
    messages = ("does not answer any more", "the same command continues")
    process = "raylet"

    def inject(self) -> bool:
        found = self.run.named(self.process)
        for each in found:
            each.kill()
        return bool(found)


class KillGcs(KillRaylet):
    """Kills the head's service, the GCS."""

    process = "gcs_server"
