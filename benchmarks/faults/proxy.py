"""A TCP proxy in a thread that can stop, slow down and break its connections."""

import contextlib
import select
import socket
import struct
import threading
import time

_CHUNK = 65536


class Proxy:
    """Forwards connections to a port of this machine; change the attributes at any
    time.
    """

    def __init__(self, target: int) -> None:
        """Listen on a free port, and forward to the port ``target``."""
        self.frozen = False
        """Whether nothing is forwarded; connections stay open, and new ones are
        accepted by the system.
        """
        self.broken = False
        """Whether every connection is reset."""
        self.delay = 0.0
        """Seconds that each chunk waits."""
        self._target = target
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no longer, and end all connections."""
        self._closed = self.broken = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
            contextlib.suppress(OSError),
        ):
            while self._forward(client, server):
                pass

    def _forward(self, client: socket.socket, server: socket.socket) -> bool:
        """Forward what has arrived; return whether the connection goes on."""
        if self.broken:
            # Closing the connection then resets it.
            reset_on_close = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
            return False
        if self.frozen:
            time.sleep(0.1)
            return True
        for source in select.select([client, server], [], [], 0.1)[0]:
            chunk = source.recv(_CHUNK)
            time.sleep(self.delay)
            if not chunk:
                return False
            (server if source is client else client).sendall(chunk)
        return True
