"""Errors of file systems: which ones may pass and are retried, and messages without credentials."""

import contextlib
import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pyarrow as pa

from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

ATTEMPTS = 5
"""How often an operation is tried in total."""
FIRST_PAUSE_SECONDS = 0.5
"""Mean pause before the second attempt; each later pause is twice as long."""

_PASSING_CODES = {
    errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ENETUNREACH,
}  # fmt: skip
_PASSING = re.compile(
    r"timed? ?out|request_?timeout|connection (was )?(reset|refused|closed|aborted)|couldn't connect|broken pipe"
    r"|network_connection|slow_?down|service_?unavailable|internal_?(failure|error)|throttl|\bunavailable\b"
    r"|http (status|response)( code)?:? (5\d\d|429)|curlcode: (7|28|35|52|55|56)\b",
    re.IGNORECASE,
)
_LASTING = re.compile(r"access_?denied|no_?such_?bucket|invalid_?access|signature|forbidden|\b40[134]\b", re.IGNORECASE)
"""Answers that stay the same however often a request is repeated."""

_ADVICE = {
    errno.ENOSPC: "Free some disk space, then run the same command again: finished trials are stored.",
    errno.EDQUOT: "Your disk quota is used up: free some of it, then run the same command again.",
    errno.EROFS: "The file system is read-only: choose another directory with --results.",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions, or choose another directory with --results."),
    errno.ENOTDIR: "A part of the path is a file: choose another directory with --results.",
}

_PUBLIC_OPTIONS = frozenset(
    {"region", "scheme", "endpoint_override", "retry_limit_seconds", "allow_bucket_creation", "tls_verify_certificates",
     "user", "replication", "buffer_size", "default_block_size"}
)  # fmt: skip
"""Query parameters of URIs of `pyarrow.fs` that are printed; every other one may be a secret, e.g. ``access_key``."""


def may_pass(error: Exception) -> bool:
    """Return whether an error is a time-out, a broken connection or an answer 5xx, which a repetition may not meet."""
    if isinstance(error, OSError) and error.errno in _PASSING_CODES:
        return True
    return bool(_PASSING.search(str(error))) and not _LASTING.search(str(error))


def retried(action: Callable[[], _Result], where: str) -> _Result:
    """Return what ``action`` returns; repeat it up to `ATTEMPTS` times after errors that `may_pass`.

    Pauses grow exponentially and are random, so that many workers do not repeat their requests at the same time.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            if not may_pass(error):
                raise
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            logger.info("%s: %s; attempt %d follows in %.1f s", where, type(error).__name__, attempt + 1, pause)
            time.sleep(pause)
    return action()


@contextlib.contextmanager
def explained(verb: str, where: str, secrets: Collection[str] = ()) -> Iterator[None]:
    """Context manager: turn file system errors, except FileNotFoundError, into a UserError "cannot VERB WHERE: ...".

    Texts in ``secrets`` are left out of the message. If the original error has one, it is not chained either, because
    the log would print it.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error).split("\n")[0]
        shown = without(reason, secrets)
        explanation = UserError(f"cannot {verb} {where}: {shown}. {_ADVICE.get(code or 0, '')}".rstrip())
        raise explanation from (error if without(str(error), secrets) == str(error) else None)


def without(text: str, secrets: Collection[str]) -> str:
    """Return ``text`` with each of the ``secrets`` replaced by ``***``."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def public_uri(uri: str, *, options: bool = True) -> str:
    """Return a path or URI without user name, password and secret query parameters, to be printed.

    Without ``options``, the whole query is left out.
    """
    if "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    place, _, query = rest.partition("?")
    place = place[len(_user_info(place)) :]
    kept = [
        (name, value) for name, value in parse_qsl(query) if options and name in _PUBLIC_OPTIONS and "@" not in value
    ]
    return f"{scheme}://{place}{'?' if kept else ''}{urlencode(kept, safe='/:')}"


def secrets_in(uri: str) -> frozenset[str]:
    """Return the texts in a URI that must not be printed: user name, password, and values of secret parameters."""
    if "://" not in uri:
        return frozenset()
    place, _, query = uri.split("://", 1)[1].partition("?")
    user = _user_info(place).removesuffix("@")
    found = [user, *user.split(":", 1)]
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name not in _PUBLIC_OPTIONS or "@" in unquote(value):
            found.append(value)
    forms = {form for text in found for form in (text, unquote(text), quote(text, safe=""))}
    return frozenset(form for form in forms if len(form) > 2)  # shorter ones would spoil every message


def _user_info(place: str) -> str:
    """Return the part of ``user:password@host/path`` up to "@"; a password may hold "/", though it should not."""
    netloc = place.partition("/")[0]
    if "@" in netloc:
        return netloc[: netloc.rindex("@") + 1]
    port = netloc.partition(":")[2]
    return place[: place.rindex("@") + 1] if port and not port.isdecimal() and "@" in place else ""
