"""Creating an object of an object store only if it does not exist: of several
processes, exactly one creates it.

`pyarrow.fs` has no such write; `obstore` has it for S3, Google Cloud Storage and Azure.
"""

import logging
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from orca_ray.paths import public_uri

logger = logging.getLogger(__name__)

_warned: set[str] = set()


def create_object(
    uri: str, path: str, content: bytes, region: str | None = None
) -> bool:
    """Create the object at ``path`` below a `pyarrow.fs` URI unless it exists; return
    whether the server is exact.

    Returns False, and logs it once for each ``uri``, if the server ignores the
    condition or refuses the request: the object may then have replaced another one, or
    is not written. ``region`` is that of an S3 bucket.
    """
    try:
        store = _open(uri, region)
        obstore.put(store, path, content, mode="create")
        obstore.put(
            store, path, content, mode="create"
        )  # fails, unless the server ignores the condition
        reason = "the server ignores If-None-Match"
    except AlreadyExistsError:
        return True
    except (BaseError, ValueError) as error:
        reason = f"{type(error).__name__}"
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
    parts = urlsplit(uri)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
    if parts.scheme != "s3":
        return obstore.store.from_url(
            parts._replace(query="").geturl(), retry_config=retries
        )
    config: dict[str, Any] = {"region": region or options.get("region")}
    if endpoint := options.get("endpoint_override"):
        config["endpoint"] = (
            endpoint
            if "://" in endpoint
            else f"{options.get('scheme', 'https')}://{endpoint}"
        )
    if parts.username:
        config |= {
            "access_key_id": unquote(parts.username),
            "secret_access_key": unquote(parts.password or ""),
        }
    given: Any = {name: value for name, value in config.items() if value}
    address = f"s3://{parts.netloc.rpartition('@')[2]}{parts.path}"
    client: Any = {
        "allow_http": True
    }  # where the endpoint, here or in AWS_ENDPOINT_URL, says so
    return obstore.store.from_url(
        address, config=given, client_options=client, retry_config=retries
    )
