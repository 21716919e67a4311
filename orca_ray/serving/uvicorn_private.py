"""The private interface of uvicorn 0.54 that ``serve`` uses: its HTTP/1.1 protocol.

There is no public one for this. uvicorn has neither a time-out for the head of a
request nor a limit of connections that ends idle ones: ``limit_concurrency`` refuses
every request while there are so many connections. `limited_protocol` reads the
attributes ``loop``, ``transport``, ``flow`` and ``cycle`` of `H11Protocol`,
``response_complete`` and ``more_body`` of ``cycle``, ``write_paused`` of ``flow``, and
``client``, the address and port of the other side.

`tests/serving/test_uvicorn_private.py` says what breaks when one of them changes.
"""

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

from orca_ray.serving.application import client_key


def limited_protocol(head_seconds: float, most_connections: int) -> type[H11Protocol]:
    """Return a protocol that ends slow connections, and idle ones if there are many.

    A connection ends if its first request has no complete head within ``head_seconds``;
    h11 limits the size of a head to 64 KiB. For each connection beyond
    ``most_connections``, the oldest one ends that waits for its client; of several
    clients (`client_key`), it is one of the client that has most of these.
    """
    clients: dict[H11Protocol, str] = {}
    """Client of each connection, oldest connection first."""

    class LimitedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(head_seconds, self.end_without_head)
            clients[self] = client_of(self)
            if len(clients) > most_connections:
                # The new connection itself waits for its client, so there is one.
                waiting = list(filter(waits_for_client, clients))
                counts = Counter(clients[connection] for connection in waiting)
                oldest = max(waiting, key=lambda each: counts[clients[each]])
                del clients[oldest]
                oldest.transport.abort()

        def end_without_head(self) -> None:
            if not self.cycle:
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            clients.pop(self, None)
            super().connection_lost(exc)

    return LimitedProtocol


def waits_for_client(connection: H11Protocol) -> bool:
    """Return whether a connection waits for a request, its body, or a slow reader."""
    cycle = connection.cycle  # the last request and its answer; None: none yet
    return (
        not cycle
        or cycle.response_complete
        or cycle.more_body
        or connection.flow.write_paused
    )


def client_of(connection: H11Protocol) -> str:
    """Return the name of a connection's client; "" if its address is not known."""
    return client_key(connection.client[0]) if connection.client else ""
