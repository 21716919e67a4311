"""What breaks when the private interface of uvicorn changes: `uvicorn_private`.

The tests run uvicorn's own protocol on transports that are mocks. They fail if the
class moves, or if an attribute that `limited_protocol` reads has another name or
meaning.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from orca_ray.serving.uvicorn_private import limited_protocol, waits_for_client

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Application that answers when the body is complete."""
    await Request(scope, receive).body()
    await PlainTextResponse("done")(scope, receive, send)


def connector(head_seconds: float, most_connections: int) -> Callable[..., Any]:
    """Return a function that opens a connection in the running loop.

    Its argument is the client's address; None: it is not known.
    """
    protocol = limited_protocol(head_seconds, most_connections)
    config = uvicorn.Config(answer, http=protocol, ws="none", lifespan="off")
    config.load()

    def connect(address: str | None = None) -> Any:
        peer = None if address is None else (address, 1)
        known = {"peername": peer}
        transport = Mock(get_extra_info=Mock(side_effect=known.get))
        connection = protocol(config, ServerState(), {})
        connection.connection_made(transport)
        return connection

    return connect


async def until_answered(connection: Any) -> None:
    for _ in range(100):
        if connection.cycle.response_complete:
            return
        await asyncio.sleep(0)
    pytest.fail("the request was not answered")


def test_a_connection_waits_for_its_client_except_while_its_answer_is_computed() -> (
    None
):
    async def check() -> None:
        connection = connector(60.0, 1)()
        assert connection.cycle is None
        assert waits_for_client(connection)
        connection.data_received(HEAD)
        assert waits_for_client(connection)
        connection.data_received(b"{}")
        assert not waits_for_client(connection)
        connection.flow.pause_writing()
        assert waits_for_client(connection)
        connection.flow.resume_writing()
        assert not waits_for_client(connection)
        await until_answered(connection)
        assert waits_for_client(connection)

    asyncio.run(check())


def test_a_connection_without_a_head_in_time_is_closed() -> None:
    async def check() -> None:
        connect = connector(0.0, 9)
        silent = connect()
        speaking = connect()
        speaking.data_received(HEAD)
        await asyncio.sleep(0.01)
        assert silent.transport.close.called
        assert not speaking.transport.close.called

    asyncio.run(check())


def test_the_oldest_waiting_connection_makes_room() -> None:
    async def check() -> None:
        connect = connector(60.0, 2)
        computing = connect()
        computing.data_received(HEAD + b"{}")
        waiting = connect()
        newest = connect()
        assert not computing.transport.abort.called
        assert waiting.transport.abort.called
        assert not newest.transport.abort.called
        newest.connection_lost(None)
        connect()
        assert not computing.transport.abort.called
        await until_answered(computing)

    asyncio.run(check())


@pytest.mark.parametrize(
    "addresses", [["10.0.0.2"] * 3, ["2001:db8::1", "2001:db8::2", "2001:db8::3"]]
)
def test_the_client_with_most_waiting_connections_makes_room(
    addresses: list[str],
) -> None:
    async def check() -> None:
        connect = connector(60.0, 3)
        lone = connect("10.0.0.1")
        greedy = [connect(address) for address in addresses]
        assert not lone.transport.abort.called
        aborted = [connection.transport.abort.called for connection in greedy]
        assert aborted == [True, False, False]

    asyncio.run(check())
