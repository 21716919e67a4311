"""Fetching from a real server on loopback that drops, truncates, refuses, corrupts,
redirects and changes its mind.
"""

import hashlib
import io
import random
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import requests

from orca_ray.data import fetch as fetching
from orca_ray.data.download import Failed, Patience, check_answer, download
from orca_ray.data.fetch import fetch
from orca_ray.data.raw import PINS, Pins, RawFile
from orca_ray.errors import UserError
from tests.data.faulty_server import Fault, Served, Server, serving

CONTENT = random.Random(0).randbytes(400_000)
OTHER = random.Random(1).randbytes(300_000)
HALF = len(CONTENT) // 2
SAME_LENGTH = OTHER + CONTENT[len(OTHER) :]
FAST = Patience(
    tries=4, first_wait=0.01, longest_wait=0.02, connect_seconds=5, silence_seconds=5
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def get(raw: Path, *urls: str, **facts: str) -> None:
    fetch([RawFile(path="sub/a.npy", urls=urls, **facts)], raw, patience=FAST)  # type: ignore[arg-type]


def names(raw: Path) -> list[str]:
    return sorted(
        str(p.relative_to(raw))
        for p in raw.rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    )


def test_a_file_without_a_published_hash_is_fetched_once_and_held_to_its_pin(
    server: Server, raw: Path
) -> None:
    url = server.add("a", CONTENT)
    path = raw / "sub/a.npy"
    for _ in range(2):
        get(raw, url)
        assert path.read_bytes() == CONTENT
        assert names(raw) == [PINS, "sub/a.npy"]
    assert len(server.gets("a")) == 1
    assert server.gets("a")[0].agent.startswith("orca-ray/")
    pin = Pins(raw).read()["sub/a.npy"]
    assert (pin.sha256, pin.num_bytes, pin.url) == (sha256(CONTENT), len(CONTENT), url)
    path.write_bytes(OTHER)
    with pytest.raises(
        UserError,
        match=rf"sub/a.npy is not the file that is expected: sha256 is {sha256(OTHER)}",
    ):
        get(raw, url)
    assert path.read_bytes() == OTHER
    path.unlink()
    server.add("a", OTHER)
    with pytest.raises(
        UserError,
        match=(
            rf"(?s){sha256(OTHER)}.*{sha256(CONTENT)}.*pinned in {PINS}.*remove the"
            r" entry"
        ),
    ):
        get(raw, url)
    with pytest.raises(UserError, match="the published one") as caught:
        get(raw, url, md5=md5(CONTENT))
    assert "remove the entry" not in str(caught.value)
    assert names(raw) == [PINS]


def test_without_anything_new_patience_ends_and_the_part_stays(
    server: Server, raw: Path
) -> None:
    url = server.add("a", CONTENT, Fault(drop_after=HALF), *[Fault(drop_after=0)] * 20)
    message = (
        r"(?s)a: the connection broke off after \d+ of 400000 bytes \(4 tries\).*put"
        r" it at"
    )
    with pytest.raises(UserError, match=message):
        get(raw, url)
    assert names(raw) == ["sub/a.npy.part", "sub/a.npy.part.json"]
    server.faults["a"].clear()
    before = len(server.gets("a"))
    get(raw, url)
    assert (raw / "sub/a.npy").read_bytes() == CONTENT
    (last,) = server.gets("a")[before:]
    assert last.sent <= HALF + 70_000


CONTINUED = ["", f"bytes={HALF}-"]
BUSY = [Fault(status=503)] * 9


@pytest.mark.parametrize(
    ("faults", "served", "hash_known", "ranges"),
    [
        ([], {}, True, [""]),
        ([Fault(drop_after=HALF)], {}, False, CONTINUED),
        (
            [Fault(drop_after=HALF)],
            {"longest_range": 150_000},
            False,
            [*CONTINUED, f"bytes={HALF + 150_000}-"],
        ),
        (
            [Fault(drop_after=70_000)] * 5,
            {},
            False,
            ["", *(f"bytes={70_000 * k}-" for k in range(1, 6))],
        ),
        (
            [Fault(status=500), Fault(status=503), Fault(status=429)],
            {},
            False,
            [""] * 4,
        ),
        ([Fault(drop_after=HALF)], {"ranges": False}, False, CONTINUED),
        ([Fault(drop_after=HALF)], {"etag": ""}, False, ["", ""]),
        ([Fault(drop_after=HALF)], {"etag": ""}, True, CONTINUED),
        ([], {"announced": False}, True, [""]),
        ([], {"content": b""}, True, [""]),
    ],
)
def test_a_file_comes_whole_and_what_is_there_is_not_asked_for_again(
    server: Server,
    raw: Path,
    faults: list[Fault],
    served: dict[str, Any],
    hash_known: bool,
    ranges: list[str],
) -> None:
    url = server.add("a", CONTENT, *faults)
    server.files["a"] = found = replace(Served(CONTENT), **served)
    hashes = {"sha256": sha256(found.content).upper(), "md5": md5(found.content)}
    get(raw, url, **hashes if hash_known else {})
    assert (raw / "sub/a.npy").read_bytes() == found.content
    assert [request.range for request in server.gets("a")] == ranges
    assert names(raw) == ([] if hash_known else [PINS]) + [
        "sub/a.npy"
    ]  # a published hash needs no pin
    if ranges == CONTINUED and not hash_known:
        assert server.gets("a")[1].if_range == found.tag()


@pytest.mark.parametrize(
    ("served", "faults", "message"),
    [
        ({}, BUSY, r"/a: the server answered 503 Service Unavailable \(4 tries\)"),
        (
            {"content_type": "text/html; charset=utf-8"},
            [],
            "a web page came instead of the file",
        ),
        ({"announced": False}, [], "does not say how long the file is"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(
    server: Server, raw: Path, served: dict[str, Any], faults: list[Fault], message: str
) -> None:
    url = server.add("a", CONTENT, *faults)
    server.files["a"] = replace(Served(CONTENT), **served)
    with pytest.raises(UserError, match=message):
        get(raw, url)
    assert names(raw) == []


def test_mirrors_are_tried_in_order_and_a_dead_one_once(
    server: Server, raw: Path
) -> None:
    good = server.add("c", CONTENT), server.add("d", b"")
    urls = [f"{server.url}/gone", server.add("b", CONTENT, Fault(flip=7)), *good]
    with pytest.raises(
        UserError,
        match=(
            f"(?s)sub/a.npy.*{urls[1]}.*sha256 is .* .400000 bytes.*{sha256(CONTENT)}"
        ),
    ):
        get(raw, urls[1], sha256=sha256(CONTENT))
    assert names(raw) == []
    server.faults["b"].append(Fault(flip=7))
    server.log.clear()
    get(raw, *urls, sha256=sha256(CONTENT))
    assert (raw / "sub/a.npy").read_bytes() == CONTENT
    assert [request.path for request in server.log] == ["gone", "b", "c"]


def test_a_mirror_goes_on_where_another_broke_off(server: Server, raw: Path) -> None:
    """Only where the hash tells whether the two had the same file."""
    changed = OTHER + CONTENT[:100_000]
    for name, content, facts, ranges in (
        ("same", CONTENT, {"sha256": sha256(CONTENT)}, [f"bytes={HALF}-"]),
        ("unknown", CONTENT, {}, [""]),
        ("other", changed, {"md5": md5(changed)}, [f"bytes={HALF}-", ""]),
    ):
        urls = (
            server.add(f"{name}1", CONTENT, Fault(drop_after=HALF), *BUSY),
            server.add(f"{name}2", content),
        )
        fetch([RawFile(path=name, urls=urls, **facts)], raw, patience=FAST)  # type: ignore[arg-type]
        assert (raw / name).read_bytes() == content
        assert [request.range for request in server.gets(f"{name}2")] == ranges


MONDAY = "Mon, 01 Jan 2024 00:00:00 GMT"
TUESDAY = "Tue, 02 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(
    ("before", "after", "part", "hash_known"),
    [
        ({}, {"content": SAME_LENGTH}, None, False),
        ({}, {"content": SAME_LENGTH, "heeds_if_range": False}, None, False),
        (
            {"etag": 'W/"weak"'},
            {"content": SAME_LENGTH, "last_modified": TUESDAY},
            None,
            False,
        ),
        ({"etag": '"same"'}, {"content": CONTENT[:1000]}, None, False),
        ({}, {}, bytes(HALF), True),
    ],
    ids=[
        "its tag",
        "its tag, unheeded",
        "its time",
        "its length",
        "the part on the disk",
    ],
)
def test_a_file_that_changes_half_way_starts_again(
    server: Server,
    raw: Path,
    before: dict[str, Any],
    after: dict[str, Any],
    part: bytes | None,
    hash_known: bool,
) -> None:
    facts = {"sha256": sha256(CONTENT)} if hash_known else {}
    url = server.add("a", CONTENT, Fault(drop_after=HALF), *[Fault(drop_after=0)] * 4)
    server.files["a"] = replace(Served(CONTENT, last_modified=MONDAY), **before)
    with pytest.raises(UserError):
        get(raw, url, **facts)
    server.faults["a"].clear()
    server.files["a"] = replace(server.files["a"], **after)
    if part is not None:
        (raw / "sub/a.npy.part").write_bytes(part)
    get(raw, url, **facts)
    assert (raw / "sub/a.npy").read_bytes() == server.files["a"].content


def test_a_server_that_stops_answering_half_way_is_tried_more_often_than_one_that_never_answers(
    server: Server, raw: Path
) -> None:
    patience = Patience(tries=4, first_wait=0.01, silence_seconds=0.1)
    url = server.add("a", CONTENT, Fault(hold_after=HALF), *[Fault(silent=True)] * 2)
    fetch(
        [RawFile(path="a", urls=(url,), num_bytes=len(CONTENT))], raw, patience=patience
    )
    assert (raw / "a").read_bytes() == CONTENT
    never = server.add("b", CONTENT, *[Fault(silent=True)] * 4)
    with pytest.raises(
        UserError,
        match=r"no answer came from 127\.0\.0\.1 before the time-out \(2 tries\)",
    ):
        fetch(
            [RawFile(path="b", urls=(never,), num_bytes=len(CONTENT))],
            raw,
            patience=patience,
        )
    assert len(server.gets("b")) == 2
    assert not list(raw.glob("b*"))
    with serving() as gone:
        url = f"{gone.url}/a"
    with pytest.raises(UserError, match=r"127\.0\.0\.1 cannot be reached \(2 tries\)"):
        get(raw, url)


FETCHING = """
import sys
from pathlib import Path
from orca_ray.data.fetch import fetch
from orca_ray.data.raw import RawFile
fetch([RawFile(path="a", urls=(sys.argv[1],))], Path(sys.argv[2]))
"""


def wait_until_there(path: Path, num_bytes: int) -> None:
    end = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size >= num_bytes):
        assert time.monotonic() < end, f"{path} does not grow"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_fetch_killed_half_way_resumes_and_another_process_waits_for_it(
    server: Server, raw: Path
) -> None:
    url = server.add("a", CONTENT, Fault(hold_after=3 * HALF // 2))
    command = [sys.executable, "-c", FETCHING, url, str(raw)]
    with subprocess.Popen(command) as first, subprocess.Popen(command) as second:
        wait_until_there(raw / "a.part", HALF)
        for signum in (
            signal.SIGSTOP,
            signal.SIGKILL,
        ):  # stopped first: one would go on when the other is killed
            for process in (first, second):
                process.send_signal(signum)
    there = (raw / "a.part").stat().st_size
    assert len(server.gets("a")) == 1
    assert HALF <= there < len(CONTENT)
    file = RawFile(path="a", urls=(url,))
    fetch([file], raw, patience=FAST)
    assert (raw / "a").read_bytes() == CONTENT
    last = server.gets("a")[-1]
    assert (last.range, last.sent) == (f"bytes={there}-", len(CONTENT) - there)


def test_a_disk_too_small_is_told_before_anything_is_fetched(
    server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(CONTENT)
    files = [
        RawFile(path=name, urls=(server.add(name, CONTENT),), num_bytes=size)
        for name in "ab"
    ]
    archive = RawFile(
        path="c.zip", urls=(f"{server.url}/a",), unpacked="c", num_bytes=size
    )  # three times with content
    monkeypatch.setattr(
        "orca_ray.data.cache.shutil.disk_usage",
        lambda _: SimpleNamespace(free=2 * size - 1),
    )
    for wanted in (files, [archive]):
        with pytest.raises(UserError, match="no space"):
            fetch(wanted, raw, patience=FAST)
    assert server.log == []
    fetch(files[:1], raw, patience=FAST)
    monkeypatch.setattr(
        "orca_ray.data.cache.shutil.disk_usage",
        lambda _: SimpleNamespace(free=size - 1),
    )
    with pytest.raises(UserError, match="no space"):
        fetch(
            [RawFile(path="c", urls=(server.add("c", CONTENT),))], raw, patience=FAST
        )  # of unknown size


def test_a_host_is_asked_as_often_as_patience_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("requests.head", Mock(side_effect=requests.ConnectionError))
    monkeypatch.setattr("time.sleep", waits := Mock())
    with pytest.raises(Failed, match=r"files\.example cannot be reached \(3 tries\)"):
        check_answer(
            "https://files.example/a", Patience(tries_to_reach=3, first_wait=0.5)
        )
    assert waits.call_args_list == [((0.5,),)] * 2


def test_a_file_without_an_address_must_be_put_there(server: Server, raw: Path) -> None:
    files = [
        RawFile(path="sub/own.npy"),
        RawFile(path="a", urls=(server.add("a", CONTENT),)),
    ]
    with pytest.raises(
        UserError, match=r"no address is known for 1 of the files"
    ) as caught:
        fetch(files, raw, patience=FAST)
    assert str(raw / "sub/own.npy") in str(caught.value)
    assert server.log == []
    (raw / "sub").mkdir(parents=True)
    (raw / "sub/own.npy").write_bytes(OTHER)
    fetch(files, raw, patience=FAST)
    assert Pins(raw).read()["sub/own.npy"].sha256 == sha256(OTHER)


def test_one_failure_does_not_keep_the_others_and_all_are_told(
    server: Server, raw: Path
) -> None:
    files = [RawFile(path=name, urls=(f"{server.url}/{name}",)) for name in "abc"]
    server.add("b", CONTENT)
    with pytest.raises(
        UserError, match=r"(?s)a cannot be fetched.*404 Not Found.*c cannot be fetched"
    ):
        fetch(files, raw, patience=FAST, workers=1)
    assert (raw / "b").read_bytes() == CONTENT
    (raw / "a").write_bytes(b"1")
    (raw / PINS).write_text("{")
    with pytest.raises(UserError, match="is no lock file of orca-sweep") as caught:
        fetch(files[:2], raw, patience=FAST)
    assert (
        str(caught.value).count("is no lock file") == 1
    )  # what is wrong with all is told once


@pytest.mark.slow
def test_an_interruption_leaves_parts_and_no_waiting(
    server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "GRACE_SECONDS", 0.3)
    url = server.add("a", CONTENT, Fault(hold_after=HALF))

    def interrupt() -> None:
        assert server.held.wait(20)
        wait_until_there(raw / "a.part", HALF - 70_000)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch([RawFile(path="a", urls=(url,), num_bytes=1)], raw, patience=FAST)
    assert time.monotonic() - begin < 4.0
    server.go_on.set()
    time.sleep(0.3)
    assert len(server.gets("a")) == 1  # nobody goes on behind our back
    assert not (raw / "a").exists()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"inside/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_are_unpacked_and_may_go_then(server: Server, raw: Path) -> None:
    (raw / ".unpack-left").mkdir(parents=True)  # by an unpacking that was killed
    (raw / ".unpack-left" / "half").write_bytes(b"1")
    url = server.add("a", archive(x=b"1", y=b"2"))
    told = list[str]()
    file = RawFile(path="a.tar.gz", urls=(url,), unpacked="inside/x", num_bytes=400_000)
    fetch([file], raw, told.append, patience=FAST)
    assert [told[0], told[-1]] == [
        "fetching a.tar.gz (400.0 kB) from 127.0.0.1",
        "unpacking a.tar.gz",
    ]
    assert re.fullmatch(r"a\.tar\.gz: fetched, \d{3} bytes in \d\.\d s", told[1])
    assert names(raw) == ["a.tar.gz", "inside/x", "inside/y", PINS]
    (raw / "inside/x").unlink()
    fetch([file], raw, patience=FAST)
    assert (raw / "inside/x").read_bytes() == b"1"
    (raw / "a.tar.gz").unlink()
    fetch([file], raw, patience=FAST)
    assert len(server.gets("a")) == 1


def test_a_damaged_archive_or_another_one_is_not_pinned_so_the_good_one_is_accepted(
    server: Server, raw: Path
) -> None:
    good = archive(x=random.Random(2).randbytes(5000))
    damaged = good[:2000] + bytes([good[2000] ^ 1]) + good[2001:]
    file = RawFile(path="a.tar.gz", urls=(f"{server.url}/a",), unpacked="inside/x")
    for bad, message in (
        (damaged, "expected a whole gzip file.*again"),
        (archive(y=b"2"), "holds no inside/x.*archive"),
    ):
        server.add("a", bad)
        with pytest.raises(
            UserError, match=rf"{message}\. Remove .*raw/a\.tar\.gz first"
        ):
            fetch([file], raw, patience=FAST)
        assert names(raw) == ["a.tar.gz"]
        (raw / "a.tar.gz").unlink()
    server.add("a", good)
    fetch([file], raw, patience=FAST)
    assert Pins(raw).read()["a.tar.gz"].sha256 == sha256(good)
    with pytest.raises(
        UserError,
        match=(
            r"Remove it and what was unpacked from it \(.*raw/inside/x\) and fetch it"
        ),
    ):
        fetch([replace(file, sha256=sha256(CONTENT))], raw, patience=FAST)


def test_progress_of_a_large_file_is_a_line_every_five_seconds(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    told = list[str]()
    monkeypatch.setattr("orca_ray.data.fetch.time.monotonic", lambda: now[0])
    ticker = fetching._RawDirectory(raw, told.append, FAST)._byte_progress("big.tar")
    for now[0], done, total in (
        (0.0, 10, 1000),
        (4.9, 40, 1000),
        (5.0, 60, 1000),
        (9.9, 80, 1000),
        (10.0, 110, None),
    ):
        ticker(done * 10**6, total and total * 10**6)  # the last one of unknown length
    assert told == ["big.tar: 60 of 1000 MB, 10.0 MB/s", "big.tar: 110 MB, 10.0 MB/s"]


@pytest.mark.parametrize(
    ("error", "message", "tries"),
    [
        (
            requests.exceptions.SSLError("self-signed"),
            r"no secure connection to files\.example: self-signed",
            1,
        ),
        (
            requests.exceptions.ProxyError,
            r"the proxy to files\.example cannot be reached or refuses \(2 tries\)",
            2,
        ),
    ],
)
def test_a_certificate_or_proxy_that_fails_is_named(
    error: Exception,
    message: str,
    tries: int,
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Mock(side_effect=error)
    monkeypatch.setattr("requests.Session.get", asked)
    with pytest.raises(UserError, match=message):
        get(raw, "https://files.example/a")
    assert asked.call_count == tries


def test_waits_are_doubled_up_to_the_longest_or_as_long_as_the_server_asks_for(
    server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 1.0)
    stop = Mock(spec=threading.Event)
    stop.wait.return_value = False
    url = server.add(
        "a", CONTENT, Fault(status=503, headers={"Retry-After": "7"}), *BUSY
    )
    patience = Patience(tries=6, first_wait=1, longest_wait=10)
    with pytest.raises(Failed, match=r"503 Service Unavailable \(6 tries\)"):
        download(
            url,
            raw / "a.part",
            hash_known=True,
            patience=patience,
            stop=stop,
            report=Mock(),
        )
    assert [call.args[0] for call in stop.wait.call_args_list] == [7, 2, 4, 8, 10]
