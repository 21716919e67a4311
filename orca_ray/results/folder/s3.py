"""The folder of a results store in a bucket of S3, or of a server with the same interface."""

from typing import Any

import pyarrow.fs as pafs

from orca_ray.results.folder.base import Folder

_ONE_REQUEST_BYTES = 8 * 2**20
"""Files up to this size are written in one request; Arrow does so up to 10 MiB."""


class S3Folder(Folder):
    """A folder in a bucket.

    A small file is written in one request, which is atomic, instead of the seven of `Folder`: an object store takes
    10 to 100 ms for each, and a busy one more. A bucket needs no directories.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        state: Any = self._files.__reduce__()
        (options,) = state[1]
        # One attempt per request, because `_try` repeats them: Arrow tries 31 times, 100 s if a server does not answer.
        options |= {"retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=1), "allow_delayed_open": True}
        self._files = pafs.S3FileSystem(**options)

    def _create(self) -> None:
        pass

    def _write(self, path: str, content: Any) -> None:
        if content.size > _ONE_REQUEST_BYTES:
            super()._write(path, content)
            return
        with self._files.open_output_stream(self._at(path)) as stream:
            stream.write(content)
