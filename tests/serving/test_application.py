"""The application without a socket: limits, token, metrics, failures."""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from orca_ray.predictor import Predictor
from orca_ray.serving import application
from orca_ray.serving.application import (
    PREDICT,
    Application,
    Limits,
)
from orca_ray.serving.reading import ARROW, JSON
from tests.serving.requests import ROWS, SAMPLES, client_of, post

TOKEN = "0123456789abcdef"


def test_limits_of_sizes_and_content_types(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], body_bytes=1000, samples=2)
    for content in (b"x" * 1001, iter([b"x" * 600] * 2)):
        answer = client.post(PREDICT, content=content, headers={"Content-Type": JSON})
        assert answer.status_code == 413
        assert answer.json() == {
            "error": "the body has more than 1000 bytes; send fewer samples a request"
        }
    assert (
        "at most 2 items" in client.post(PREDICT, json={"rows": ROWS}).json()["error"]
    )
    body = json.dumps({"rows": ROWS[:2]}).encode()
    assert post(client, body, "Application/JSON; charset=utf-8").status_code == 200
    assert (
        post(client, body, "text/csv").status_code
        == client.post(PREDICT, content=body).status_code
        == 415
    )
    coded = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    assert client.post(PREDICT, content=body, headers=coded).status_code == 415


def test_limits_of_requests_at_once(
    models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "IN_PROGRESS", 2)
    monkeypatch.setattr(application, "HELD_BODIES", 1.5)
    monkeypatch.setattr(application, "CLIENT_SHARE", 1)
    app = Application(models["mixed"], Limits(body_bytes=1000, seconds=1), None)

    async def slow(size: int, pause: float, *, later: float = 0.0) -> Any:
        async def body() -> Any:
            yield b"[" * size
            await asyncio.sleep(pause)

        await asyncio.sleep(later)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://[::1]:1"
        ) as client:
            response = await client.post(
                PREDICT, content=body(), headers={"Content-Type": JSON}
            )
        return (
            response.status_code,
            response.headers.get("retry-after"),
            response.json()["error"],
        )

    async def together(*requests: Any) -> list[Any]:
        statuses: list[int] = await asyncio.gather(*requests)
        return statuses

    load = (
        "there are more than 500 requests a second from one client, or than 2 requests"
        " or 1.5 large bodies at once, of which one client has 100% at most"
    )
    busy = (429, "1", f"{load}; send fewer")
    # nothing of the first three is held any more when the next two come
    for sizes in ((10, 10, 10), (900, 900)):
        *accepted, last = asyncio.run(together(*(slow(size, 0.2) for size in sizes)))
        assert [status for status, *_ in accepted] == [422] * len(accepted)
        assert last == busy
    monkeypatch.setattr(application, "SLOW_SECONDS", 0.1)
    most = (
        "the request took longer than 1 s, or than the 0.1 s that a body has while"
        " others wait"
    )
    too_late = (408, None, f"{most}; send fewer samples, or send them faster")
    assert asyncio.run(slow(10, 3)) == too_late
    # the oldest incomplete body makes room
    for limit, sizes in ((2, (10, 10, 10)), (3, (900, 500, 700))):
        monkeypatch.setattr(application, "IN_PROGRESS", limit)
        oldest, second, last = sizes
        answers = asyncio.run(
            together(slow(oldest, 0.5), slow(second, 0.5), slow(last, 0, later=0.3))
        )
        assert [status for status, *_ in answers] == [408, 422, 422], sizes


def test_without_a_token_only_names_of_this_machine_are_answered(
    models: dict[str, Predictor],
) -> None:
    client = client_of(models["mixed"])
    guarded = client_of(models["mixed"], token=TOKEN)
    for host in (
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:8000",
        "127.8.0.1",
        "[::1]:8000",
    ):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
    for host in (
        "rebound.example:8000",
        "localhost.example",
        "10.0.0.1",
        "[::1",
        "0x7f.1",
        "a_b.example",
        "",
    ):
        answer = client.post(PREDICT, json={"rows": ROWS}, headers={"Host": host})
        assert answer.status_code == 421, host
        assert answer.json()["error"][:15] == "without a token", host
        assert guarded.get("/healthz", headers={"Host": host}).status_code == 200


def test_rate(models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    client = client_of(models["mixed"], rate=4)
    clock = SimpleNamespace(
        monotonic=lambda: now, perf_counter=time.perf_counter, sleep=time.sleep
    )
    monkeypatch.setattr(application, "time", clock)

    def passed(count: int) -> list[bool]:
        return [post(client, b"").status_code != 429 for _ in range(count)]

    assert passed(5) == [True, True, True, True, False]
    now += 0.5
    assert passed(3) == [True, True, False]
    now += 100
    assert sum(passed(10)) == 4


def test_one_client_takes_nothing_from_another(
    models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "IN_PROGRESS", 4)
    monkeypatch.setattr(application, "CLIENT_SHARE", 0.5)
    app = Application(models["mixed"], Limits(rate=4), None)

    async def ask(address: str, pause: float) -> int:
        async def body() -> Any:
            await asyncio.sleep(pause)
            yield b"{}"

        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as client:
            headers = {"Content-Type": JSON}
            return (
                await client.post(PREDICT, content=body(), headers=headers)
            ).status_code

    async def together(*requests: Any) -> list[int]:
        statuses: list[int] = await asyncio.gather(*requests)
        return statuses

    # one place of four, and the rate, are left although the first client asks for all
    greedy = [ask("10.0.0.1", 0.2) for _ in range(10)]
    statuses = asyncio.run(together(*greedy, ask("10.0.0.2", 0.2)))
    assert statuses == [422] * 2 + [429] * 8 + [422]
    # addresses of one IPv6 network are one client
    same = [ask(f"2001:db8::{number}", 0.2) for number in range(3)]
    other = ask("2001:db8:0:1::1", 0.2)
    assert asyncio.run(together(*same, other)) == [422, 422, 429, 422]
    greedy = [ask("10.0.0.3", 0) for _ in range(300)]
    asked = asyncio.run(together(*greedy, ask("10.0.0.4", 0)))
    assert asked.count(429) > 200
    assert asked[-1] == 422


def test_clients_without_requests_are_forgotten(
    models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "MOST_CLIENTS", 2)
    app = Application(models["mixed"], Limits(rate=1e6), None)

    def client_at(address: str, now: float) -> application.Client:
        scope = {"type": "http", "client": (address, 1)}
        client = app._client_of(Request(scope), now)
        client.arrival_time = now
        return client

    first = client_at("10.0.0.1", 0.0)
    assert client_at("10.0.0.1", 1.0) is first
    client_at("10.0.0.2", 1.5)
    assert client_at("10.0.0.1", 1.6) is first
    client_at("10.0.0.3", 10.0)
    assert client_at("10.0.0.1", 10.0) is not first


def test_token(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], token=TOKEN)
    guarded = (
        ("POST", PREDICT),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
    )
    for value in (b"", TOKEN.encode(), f"Bearer {TOKEN}x".encode(), b"Bearer \xe9"):
        for method, path in guarded:
            response = client.request(method, path, headers={b"Authorization": value})
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post(PREDICT, json={"rows": ROWS}, headers=right).status_code == 200
    description = client.get("/openapi.json", headers=right).json()
    assert description["components"]["securitySchemes"] == {
        "token": {"type": "http", "scheme": "bearer"}
    }
    assert description["paths"][PREDICT]["post"]["security"] == [{"token": []}]


def test_metrics_and_paths(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"])
    statuses = [
        client.post(PREDICT, json={"rows": rows}).status_code for rows in (ROWS, [])
    ]
    wrong = client.get(PREDICT)
    statuses += [wrong.status_code, client.get("/nowhere").status_code]
    assert statuses == [200, 422, 405, 404]
    assert wrong.headers["allow"] == "POST"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert set(client.get("/metrics").text.splitlines()) >= {
        'orca_ray_requests_total{path="/v1/predict",status="200"} 1.0',
        'orca_ray_requests_total{path="other",status="404"} 1.0',
        'orca_ray_request_errors_total{status="422"} 1.0',
        'orca_ray_request_seconds_count{path="/v1/predict"} 3.0',
        "orca_ray_request_samples_sum 3.0",
        "orca_ray_batch_samples_sum 3.0",
        "orca_ray_requests_in_progress 0.0",
    }


def test_a_model_that_fails_is_an_answer(
    models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(models["arrays"])
    monkeypatch.setattr(Predictor, "outputs_of", lambda self, x: 1 / 0)
    answer = client.post(PREDICT, json={"samples": SAMPLES["arrays"].tolist()})
    assert (answer.status_code, "division" in answer.text) == (500, False)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"error": "the model is not ready; ask again"}
    monkeypatch.undo()
    assert client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mixed", *SAMPLES])
def test_a_fuzzer_finds_no_server_error(
    models: dict[str, Predictor], name: str
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    schemathesis.openapi.media_type(ARROW, st.binary(max_size=500))
    app = Application(models[name], Limits(rate=1e6), None)
    host = {"Host": "localhost"}
    [result] = schemathesis.openapi.from_asgi(
        "/openapi.json", app, headers=host
    ).get_all_operations()
    either = st.one_of(
        *(
            result.ok().as_strategy(generation_mode=mode)
            for mode in schemathesis.GenerationMode
        )
    )

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=either)
    def check(case: Any) -> None:
        answer = case.call(headers=host)
        assert answer.status_code < 500, answer.text
        if answer.status_code == 200:
            case.validate_response(answer)

    check()
