"""Japanese vowels: nine speakers told apart by 12 cepstrum coefficients over time, from 90 labels."""

from orca_ray.data import splits, timeseries
from orca_ray.data.bodies import PACKAGED_BODIES
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import AEON, archive_series
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Task, Workspace

NUM_SAMPLES = (90, 180, 370)  # the archive's own split is 270 and 370; with all 270 labels the error nearly vanishes
LENGTH = 29  # of the longest utterance


def _build(_: Workspace) -> Arrays:
    series, labels = archive_series("JapaneseVowels", "TRAIN")
    test_series, test_labels = archive_series("JapaneseVowels", "TEST")
    parts = splits.stratified_split(labels, NUM_SAMPLES[:2], SPLIT_SEED)
    train, validation = arrays.by_index(timeseries.pad(series, LENGTH), labels, parts)
    return arrays.classification([train, validation, (timeseries.pad(test_series, LENGTH), test_labels)], axes=(0, 2))


TASK = Task(
    name="pocket/japanese_vowels",
    title="Japanese vowels, 90 labels",
    modality="time series",
    input_shape=(12, LENGTH),
    target=Target("classes", size=9),
    loss="cross_entropy",
    metric="error",
    input_scale="standardised",
    body=PACKAGED_BODIES["sequence"],
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Kudo, Toyama and Shimbo, Multidimensional curve classification using passing-through regions, 1999",
    reference="https://doi.org/10.24432/C5NS47",
    packages=(AEON,),
    build=_build,
    fingerprint="20081e5ee9890c4b",
)
