"""Small files in the exact layout of DomainNet's sketches.

Sketches are scikit-learn's handwritten digits, drawn large: class k is the digit k mod
10, turned by k div 10 quarters.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from orca_ray.testing.tasks import Corruption, Writer, cut, deleted, garbage
from tests.raw_files import appended

NUM_IMAGES_PER_CLASS = {"train": 3, "test": 1}
EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64"
    b" 64\n%%EndComments\nshowpage\n%%EOF\n"
)
IMAGE = "sketch/class_7/sketch_007_test_000007.jpg"
"""The image that corruptions overwrite."""
NOT_AN_IMAGE = (
    r"test_000007\.jpg: expected a whole JPEG or PNG image, found something else"
)
LIST = "sketch_test_mini.txt"
"""The list that corruptions extend."""


def write_sketch(raw: Path) -> None:
    """Write ``sketch`` and its lists: 120 training and 40 test images.

    Images are JPEG of 80 × 64 pixels, every tenth one grey.
    """
    random = np.random.RandomState(0)
    for split, count in NUM_IMAGES_PER_CLASS.items():
        lines = []
        for number in range(40 * count):
            label = number // count
            name = f"sketch/class_{label}/sketch_{label:03d}_{split}_{number:06d}.jpg"
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            image = draw_sketch(label, random)
            if number % 10 != 0:
                image = image.convert("RGB")
            image.save(raw / name, quality=90)
            lines.append(f"{name} {label}\r\n")
        # The published lists end their lines as Windows does.
        (raw / f"sketch_{split}_mini.txt").write_bytes("".join(lines).encode())


def draw_sketch(label: int, random: np.random.RandomState) -> Image.Image:
    """Return a grey image of a random handwritten digit of the class ``label``."""
    from sklearn.datasets import load_digits

    pictures, digits = load_digits(return_X_y=True)
    index = random.choice(np.flatnonzero(digits == label % 10))
    picture = np.rot90(pictures[index].reshape(8, 8), label // 10)
    enlarged = np.kron(picture, np.full((10, 8), 15))
    return Image.fromarray(255 - enlarged.astype(np.uint8))


def overwritten(save: Callable[[Path], object]) -> Writer:
    """Return a `Writer` that calls ``save`` with the path of `IMAGE`."""

    def corrupt(raw: Path) -> None:
        save(raw / IMAGE)

    return corrupt


def keep_one_of_each_class(raw: Path) -> None:
    """Shorten the training list to one image of each class, and repeat the first."""
    path = raw / "sketch_train_mini.txt"
    lines = path.read_text().splitlines()
    last_of_class = {line.split()[1]: line for line in lines}
    path.write_text("\n".join([*last_of_class.values(), lines[0]]))


WRITERS: dict[str, Writer] = {"domainnet/sketch": write_sketch}
CORRUPTIONS: dict[str, list[Corruption]] = {
    "domainnet/sketch": [
        (
            "missing",
            deleted(LIST),
            r"1 of 3 raw files are not in .*sketch_test_mini\.txt",
        ),
        (
            "absent image",
            deleted(IMAGE),
            r"test_mini\.txt, line 8: expected sketch/class_7/.* found no such file",
        ),
        (
            "truncated",
            cut(IMAGE),
            r"test_000007\.jpg: expected a whole JPEG or PNG image",
        ),
        (
            "garbage",
            garbage(IMAGE),
            r"test_000007\.jpg: expected a whole JPEG or PNG image",
        ),
        (
            "label 40",
            appended(LIST, f"{IMAGE} 40"),
            r"test_mini\.txt, line 41: .*0 to 39, found",
        ),
        (
            "no label",
            appended(LIST, IMAGE),
            r"test_mini\.txt, line 41: expected the path of an image",
        ),
        (
            "outside",
            appended(LIST, "../key.jpg 3"),
            r"test_mini\.txt, line 41: expected the path of an image",
        ),
        (
            "eps named jpg",
            overwritten(lambda path: path.write_bytes(EPS)),
            NOT_AN_IMAGE,
        ),  # Pillow would start Ghostscript
        (
            "gif",
            overwritten(partial(Image.new("RGB", (8, 8)).save, format="GIF")),
            NOT_AN_IMAGE,
        ),
        (
            "many pixels",
            overwritten(partial(Image.new("1", (10_000, 6_000)).save, format="PNG")),
            "50,000,000 .* 10000×6000",
        ),
        (
            "label of 5000 digits",
            appended(LIST, f"{IMAGE} {'9' * 5000}"),
            "line 41: expected the path of an image",
        ),
        (
            "few of a class",
            keep_one_of_each_class,
            r"sketch_train_mini\.txt.* cannot hold out 40 of 41 samples",
        ),
        ("garbage list", garbage("sketch_train_mini.txt"), r"sketch_train_mini\.txt"),
    ],
}
