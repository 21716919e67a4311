"""Fetching from a real server on loopback.

The server drops, truncates, refuses, corrupts, redirects and changes its mind.
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
from orca_ray.data.raw import PINS, Pin, Pins, RawFile
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
    """Return the files below a directory, without locks."""
    files = [path for path in raw.rglob("*") if path.is_file()]
    return sorted(
        str(path.relative_to(raw)) for path in files if path.suffix != ".lock"
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
    assert pin == Pin(sha256(CONTENT), len(CONTENT), url)
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
    file = replace(Served(CONTENT), **served)
    server.files["a"] = file
    if hash_known:  # a published hash needs no pin
        get(raw, url, sha256=sha256(file.content).upper(), md5=md5(file.content))
        assert names(raw) == ["sub/a.npy"]
    else:
        get(raw, url)
        assert names(raw) == [PINS, "sub/a.npy"]
    assert (raw / "sub/a.npy").read_bytes() == file.content
    assert [request.range for request in server.gets("a")] == ranges
    if ranges == CONTINUED and not hash_known:
        assert server.gets("a")[1].if_range == file.tag()


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
    gone = f"{server.url}/gone"
    corrupt = server.add("b", CONTENT, Fault(flip=7))
    good = server.add("c", CONTENT)
    unused = server.add("d", b"")
    expected = f"sha256 is .* .400000 bytes.*{sha256(CONTENT)}"
    with pytest.raises(UserError, match=f"(?s)sub/a.npy.*{corrupt}.*{expected}"):
        get(raw, corrupt, sha256=sha256(CONTENT))
    assert names(raw) == []
    server.faults["b"].append(Fault(flip=7))
    server.log.clear()
    get(raw, gone, corrupt, good, unused, sha256=sha256(CONTENT))
    assert (raw / "sub/a.npy").read_bytes() == CONTENT
    assert [request.path for request in server.log] == ["gone", "b", "c"]


CHANGED = OTHER + CONTENT[:100_000]


@pytest.mark.parametrize(
    ("content", "facts", "ranges"),
    [
        (CONTENT, {"sha256": sha256(CONTENT)}, [f"bytes={HALF}-"]),
        (CONTENT, {}, [""]),
        (CHANGED, {"md5": md5(CHANGED)}, [f"bytes={HALF}-", ""]),
    ],
    ids=["same", "unknown", "other"],
)
def test_a_mirror_goes_on_where_another_broke_off(
    content: bytes,
    facts: dict[str, str],
    ranges: list[str],
    server: Server,
    raw: Path,
) -> None:
    """Only where the hash says whether the two had the same file."""
    first = server.add("first", CONTENT, Fault(drop_after=HALF), *BUSY)
    second = server.add("second", content)
    get(raw, first, second, **facts)
    assert (raw / "sub/a.npy").read_bytes() == content
    assert [request.range for request in server.gets("second")] == ranges


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


IMPATIENT = Patience(tries=4, first_wait=0.01, silence_seconds=0.1)


def test_a_server_that_stops_answering_half_way_is_tried_often(
    server: Server, raw: Path
) -> None:
    url = server.add("a", CONTENT, Fault(hold_after=HALF), *[Fault(silent=True)] * 2)
    file = RawFile(path="a", urls=(url,), num_bytes=len(CONTENT))
    fetch([file], raw, patience=IMPATIENT)
    assert (raw / "a").read_bytes() == CONTENT


def test_a_server_that_never_answers_is_tried_twice(server: Server, raw: Path) -> None:
    url = server.add("b", CONTENT, *[Fault(silent=True)] * 4)
    file = RawFile(path="b", urls=(url,), num_bytes=len(CONTENT))
    with pytest.raises(
        UserError,
        match=r"no answer came from 127\.0\.0\.1 before the time-out \(2 tries\)",
    ):
        fetch([file], raw, patience=IMPATIENT)
    assert len(server.gets("b")) == 2
    assert not list(raw.glob("b*"))


def test_a_server_that_is_gone_is_tried_twice(raw: Path) -> None:
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
        # stopped first: one would go on when the other is killed
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for process in (first, second):
                process.send_signal(signum)
    num_received = (raw / "a.part").stat().st_size
    assert len(server.gets("a")) == 1
    assert HALF <= num_received < len(CONTENT)
    fetch([RawFile(path="a", urls=(url,))], raw, patience=FAST)
    assert (raw / "a").read_bytes() == CONTENT
    last = server.gets("a")[-1]
    assert last.range == f"bytes={num_received}-"
    assert last.sent == len(CONTENT) - num_received


def _limit_space(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(
        "orca_ray.data.cache.shutil.disk_usage",
        lambda _: SimpleNamespace(free=num_bytes),
    )


def test_a_disk_too_small_is_told_before_anything_is_fetched(
    server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(CONTENT)
    first, second = (
        RawFile(path=name, urls=(server.add(name, CONTENT),), num_bytes=size)
        for name in "ab"
    )
    # three times as large with its content
    archive = RawFile(
        path="c.zip", urls=(f"{server.url}/a",), unpacked="c", num_bytes=size
    )
    _limit_space(monkeypatch, 2 * size - 1)
    for files in ([first, second], [archive]):
        with pytest.raises(UserError, match="no space"):
            fetch(files, raw, patience=FAST)
    assert server.log == []
    fetch([first], raw, patience=FAST)


def test_a_disk_too_small_for_a_file_of_unknown_size(
    server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _limit_space(monkeypatch, len(CONTENT) - 1)
    file = RawFile(path="c", urls=(server.add("c", CONTENT),))
    with pytest.raises(UserError, match="no space"):
        fetch([file], raw, patience=FAST)


def test_a_host_is_asked_as_often_as_patience_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleep = Mock()
    monkeypatch.setattr("requests.head", Mock(side_effect=requests.ConnectionError))
    monkeypatch.setattr("time.sleep", sleep)
    patience = Patience(tries_to_reach=3, first_wait=0.5)
    with pytest.raises(Failed, match=r"files\.example cannot be reached \(3 tries\)"):
        check_answer("https://files.example/a", patience)
    assert sleep.call_args_list == [((0.5,),)] * 2


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


def test_what_is_wrong_with_all_files_is_told_once(raw: Path) -> None:
    files = [RawFile(path=name) for name in "ab"]
    raw.mkdir()
    for name in "ab":
        (raw / name).write_bytes(b"1")
    (raw / PINS).write_text("{")
    with pytest.raises(UserError, match="is no lock file of orca-sweep") as caught:
        fetch(files, raw, patience=FAST)
    assert str(caught.value).count("is no lock file") == 1


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
    # longer than the server waits, so that waiting for it would be noticed
    patience = replace(FAST, silence_seconds=60)
    with pytest.raises(KeyboardInterrupt):
        fetch([RawFile(path="a", urls=(url,), num_bytes=1)], raw, patience=patience)
    assert not server.gave_up.is_set()
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
    lines = list[str]()
    file = RawFile(path="a.tar.gz", urls=(url,), unpacked="inside/x", num_bytes=400_000)
    fetch([file], raw, lines.append, patience=FAST)
    assert lines[0] == "fetching a.tar.gz (400.0 kB) from 127.0.0.1"
    assert re.fullmatch(r"a\.tar\.gz: fetched, \d{3} bytes in \d\.\d s", lines[1])
    assert lines[-1] == "unpacking a.tar.gz"
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
    damaged = bytearray(good)
    damaged[2000] ^= 1
    file = RawFile(path="a.tar.gz", urls=(f"{server.url}/a",), unpacked="inside/x")
    for bad, message in (
        (bytes(damaged), "expected a whole gzip file.*again"),
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
    clock = Mock(return_value=0.0)
    monkeypatch.setattr("orca_ray.data.fetch.time.monotonic", clock)
    lines = list[str]()
    report = fetching._RawDirectory(raw, lines.append, FAST)._byte_progress("big.tar")
    for seconds, megabytes in ((0.0, 10), (4.9, 40), (5.0, 60), (9.9, 80)):
        clock.return_value = seconds
        report(megabytes * 10**6, 10**9)
    assert lines == ["big.tar: 60 of 1000 MB, 10.0 MB/s"]
    clock.return_value = 10.0
    report(110 * 10**6, None)
    assert lines[1:] == ["big.tar: 110 MB, 10.0 MB/s"]


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
    session_get = Mock(side_effect=error)
    monkeypatch.setattr("requests.Session.get", session_get)
    with pytest.raises(UserError, match=message):
        get(raw, "https://files.example/a")
    assert session_get.call_count == tries


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
