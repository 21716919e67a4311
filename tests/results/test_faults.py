"""Errors that pass are retried, others are not, and no message shows a credential."""

import errno
import logging
import traceback
from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.paths import public_uri, secrets_in
from orca_ray.results import faults
from orca_ray.results.faults import explained, may_pass, retried
from orca_ray.results.folder import open_folder
from orca_ray.results.store import ResultsStore

PASSING = [
    OSError("When uploading part: AWS Error NETWORK_CONNECTION during PutObject: curlCode: 28, Timeout was reached"),
    OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."),
    OSError("AWS Error UNKNOWN (HTTP status 503) during ListObjectsV2 operation: No response body."),
    OSError("AWS Error INTERNAL_FAILURE during PutObject operation: We encountered an internal error"),
    OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    OSError(errno.ETIMEDOUT, "Connection timed out"),
]
LASTING = [
    OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied."),
    OSError("AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist (HTTP 404)"),
    OSError("AWS Error INVALID_ACCESS_KEY_ID during HeadObject: connection closed"),
    OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."),
    OSError(errno.ENOSPC, "No space left on device"),
    FileNotFoundError("gone"),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_SECONDS", 0.0001)


def test_which_errors_may_pass() -> None:
    assert [may_pass(error) for error in (*PASSING, *LASTING)] == [True] * len(PASSING) + [False] * len(LASTING)


class Flaky:
    """Fails a number of times with one error, then returns 7."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls, self._failures, self._error = 0, failures, error

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return 7


def test_an_error_that_passes_is_not_seen() -> None:
    flaky = Flaky(faults.ATTEMPTS - 1, PASSING[0])
    assert retried(flaky, "s3://bucket") == 7
    assert flaky.calls == faults.ATTEMPTS


def test_a_failure_of_one_folder_makes_others_of_its_place_impatient(tmp_path: Path) -> None:
    first, second = (ResultsStore(tmp_path / "results", create=True).folder for _ in range(2))
    with pytest.raises(UserError):
        first._try("write", "one", Flaky(faults.ATTEMPTS, PASSING[0]))
    flaky = Flaky(1, PASSING[0])
    with pytest.raises(UserError):
        second._try("write", "one", flaky)
    assert flaky.calls == 1


SECRET = "pa55/w+rd"
URIS = [
    f"s3://AKIA:{SECRET}@bucket/run?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
    "s3://AKIA:pa55%2Fw%2Brd@bucket/run?region=eu-west-1",
    f"s3://bucket/run?access_key=AKIA&secret_key={SECRET}&session_token={SECRET}&region=eu-west-1",
    "s3://bucket/run?secret_key=pa55%2Fw%2Brd",
    f"hdfs://someone:{SECRET}@bucket:8020/run",
    f"gs://AKIA:{SECRET}@bucket/run?endpoint_override=http://AKIA:{SECRET}@127.0.0.1:1",
]


def test_options_of_a_printed_uri_stay() -> None:
    assert public_uri(URIS[0]) == "s3://bucket/run?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http"
    assert public_uri("/some/where") == "/some/where"
    assert public_uri("s3://bucket/a@b") == "s3://bucket/a@b"


@pytest.mark.parametrize("uri", URIS)
def test_the_text_of_an_error_holds_no_credential_nor_does_its_traceback(uri: str) -> None:
    with pytest.raises(UserError) as caught, explained("open", public_uri(uri), secrets_in(uri)):
        raise OSError(f"Cannot parse URI: '{uri}'")
    text = "".join(traceback.format_exception(caught.value))
    assert "cannot open" in text
    assert "pa55" not in text
    for shown in (public_uri(uri), public_uri(uri, options=False)):
        assert not any(secret in shown for secret in ("pa55", "AKIA"))
        assert "bucket" in shown
        assert "/run" in shown


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{SECRET}@bucket/run?no_such_option=1",
        f"s3://bucket/run?access_key=AKIA&no_such_option={SECRET}",
        f"s4://AKIA:{SECRET}@bucket/run",
        f"file://someone:{SECRET}@host/run",
    ],
)
def test_a_uri_that_cannot_be_opened_is_named_without_credentials(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(UserError) as caught:
        open_folder(uri)
    assert "pa55" not in "".join(traceback.format_exception(caught.value)).replace(f"open_folder({uri!r})", "")
    assert "pa55" not in caplog.text
