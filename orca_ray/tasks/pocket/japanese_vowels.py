"""Japanese vowels: nine speakers told apart by 12 cepstrum coefficients over time, from 90 labels."""

from orca_ray.data import timeseries
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket._sources import AEON, archive_series, pocket_classes, stratified
from orca_ray.tasks.task import Arrays, Workspace

NUM_SAMPLES = (90, 180, 370)  # the archive's own split is 270 and 370; with all 270 labels the error nearly vanishes
LENGTH = 29  # of the longest utterance


def _build(_: Workspace) -> Arrays:
    series, labels = archive_series("JapaneseVowels", "TRAIN")
    test_series, test_labels = archive_series("JapaneseVowels", "TEST")
    train, validation = stratified(timeseries.pad(series, LENGTH), labels, NUM_SAMPLES[:2])
    return arrays.classification([train, validation, (timeseries.pad(test_series, LENGTH), test_labels)], axes=(0, 2))


TASK = pocket_classes(
    "japanese_vowels",
    9,
    title="Japanese vowels, 90 labels",
    modality="time series",
    input_shape=(12, LENGTH),
    num_samples=NUM_SAMPLES,
    licence="CC-BY-4.0",
    citation="Kudo, Toyama and Shimbo, Multidimensional curve classification using passing-through regions, 1999",
    reference="https://doi.org/10.24432/C5NS47",
    packages=(AEON,),
    build=_build,
    fingerprint="20081e5ee9890c4b",
)
