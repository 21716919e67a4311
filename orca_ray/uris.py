"""URIs of results stores without the credentials that they may hold."""

from collections.abc import Collection
from urllib.parse import parse_qsl, quote, unquote, urlencode

_PUBLIC_OPTIONS = frozenset(
    {"region", "scheme", "endpoint_override", "retry_limit_seconds", "allow_bucket_creation", "tls_verify_certificates",
     "user", "replication", "buffer_size", "default_block_size"}
)  # fmt: skip
"""Query parameters of URIs of `pyarrow.fs` that are printed; every other one may be a secret, e.g. ``access_key``."""


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
