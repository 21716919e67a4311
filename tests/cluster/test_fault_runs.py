"""Some runs of the fault harness.

``python -m benchmarks.fault_harness`` makes many more, of all kinds.
"""

import shutil
from collections.abc import Iterator

import pytest

from benchmarks.fault_harness import disturbed_run, new_site
from benchmarks.faults.site import Site

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("driver", 1),
        ("worker", 2),
        ("raylet", 3),
        ("node", 4),
        ("sigterm", 5),
        ("store-break", 6),
        ("gcs", 7),
        ("stop-write", 8),
        ("late", 9),
        ("compaction", 10),
        ("hang", 11),
    ],
)
def test_the_same_command_completes_the_sweep_after_a_fault(
    site: Site, kind: str, seed: int
) -> None:
    if kind in ("store-break", "late"):
        pytest.importorskip(
            "moto.server",
            reason="the S3 server is a development dependency: moto[s3], flask",
        )
    result = disturbed_run(site, seed, kind, seed)
    shutil.rmtree(site.folder / str(seed), ignore_errors=True)
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.missed, result
    assert not result.problems, result
    if kind in ("raylet", "gcs"):
        assert result.end_seconds < 30, result
