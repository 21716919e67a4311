"""Recordings in a folder for each class: ``python examples/audio.py my-data``.

It needs ``my-data/tones`` and ``my-data/new/tones``, which ``make_data.py`` writes.
"""

import sys
from pathlib import Path

import pandas as pd

import orca_ray


def main(folder: Path) -> None:
    model = orca_ray.adapt(
        folder / "tones",
        seconds=1.0,
        methods=["linear_probe"],
        executor="inline",
        minutes=1,
    )
    print(
        f"{model}: {model.task.metric} {model.report()['score']:.3g} expected on new"
        " samples"
    )

    # files of any sampling rate
    recordings = sorted((folder / "new" / "tones").glob("*.wav"))[::3]
    probabilities = pd.DataFrame(
        [model.predict_proba(recording)[0] for recording in recordings],
        columns=model.label_names,
        index=[recording.stem for recording in recordings],
    )
    print(probabilities.round(3))
    model.save(folder / "tones-model")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-data"))
