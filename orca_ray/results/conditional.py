"""Creation of an object of an object store only if the object does not exist.

Of several processes that do this, exactly one creates the object. `pyarrow.fs` has no
such write; `obstore` has it for S3, Google Cloud Storage and Azure.
"""

import logging
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from orca_ray.paths import public_uri, split_uri

logger = logging.getLogger(__name__)

_warned: set[str] = set()
"""URIs for which a warning was logged."""


def create_object(
    uri: str, path: str, content: bytes, region: str | None = None
) -> bool:
    """Create an object unless it exists; return whether the server ensured that.

    The object is at ``path`` below the `pyarrow.fs` URI ``uri``. If the server ignores
    the condition or refuses the request, this returns False, and logs it once for each
    ``uri``: the object may then have replaced another one, or was not written.
    ``region`` is that of an S3 bucket.
    """
    try:
        store = _open(uri, region)
        obstore.put(store, path, content, mode="create")
        # The second write fails, unless the server ignores the condition.
        obstore.put(store, path, content, mode="create")
        reason = "the server ignores If-None-Match"
    except AlreadyExistsError:
        return True
    except (BaseError, ValueError) as error:
        reason = type(error).__name__
    if uri not in _warned:
        _warned.add(uri)
        logger.warning(
            "%s: no conditional writes (%s), so two drivers of one sweep that start"
            " within two seconds may both run. Conditional writes need credentials in"
            " the environment, in the URI, or of the machine, not in ~/.aws.",
            public_uri(uri, options=False),
            reason,
        )
    return False


def _open(uri: str, region: str | None) -> Any:
    """Return the object store of `obstore` for a `pyarrow.fs` URI."""
    parts = split_uri(uri)
    retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
    if parts.scheme != "s3":
        address = parts._replace(query="").geturl()
        return obstore.store.from_url(address, retry_config=retries)
    # Plain HTTP only where the endpoint, here or in AWS_ENDPOINT_URL, says so.
    client: Any = {"allow_http": True}
    return obstore.store.from_url(
        f"s3://{parts.netloc.rpartition('@')[2]}{parts.path}",
        config=_s3_config(parts, region),
        client_options=client,
        retry_config=retries,
    )


def _s3_config(parts: SplitResult, region: str | None) -> Any:
    """Return the region, endpoint and credentials that an S3 URI contains."""
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    config = {"region": region or options.get("region")}
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    config["endpoint"] = endpoint
    if parts.username:
        config["access_key_id"] = unquote(parts.username)
        config["secret_access_key"] = unquote(parts.password or "")
    return {name: value for name, value in config.items() if value}
