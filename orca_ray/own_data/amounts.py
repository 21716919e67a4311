"""Numbers in text with a unit or separators of thousands.

Examples are $1,234.00, 1 234,50 € and 12.3%.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

AmountForm = Literal["decimal-point", "decimal-comma"]
_UNIT = (
    r"[%‰]|(?:US|C|A)?\$|[€£¥₹₽₩₺₪₫₴₦₱฿¢]"
    r"|USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|BRL|MXN|ZAR"
    r"|Fr\.|kr\.?|zł"
)
_AMOUNT = re.compile(
    rf"(?P<sign>[-+−(]?)\s*(?P<before>{_UNIT})?\s*(?P<minus>[-+−]?)\s*"
    r"(?P<digits>[\d.,'’\s]*\d)(?P<power>[eE][-+]?\d{1,3})?\s*"
    rf"(?P<after>{_UNIT})?\s*\)?"
)
_DIGITS = {
    "decimal-point": re.compile(r"([1-9]\d{0,2}(?:[,'’\s]\d{3})+|\d*)(?:\.(\d+))?"),
    "decimal-comma": re.compile(r"([1-9]\d{0,2}(?:[.'’\s]\d{3})+|\d*)(?:,(\d+))?"),
}


_MOST_CHARACTERS = 40
"""Length from which on a text is no amount."""


def _parse_amount(text: str, form: str) -> float:
    """Return the number in ``text``; NaN if there is none, or other text beside it.

    ``form`` says whether the decimal mark is a point or a comma.
    """
    match = _match_amount(text)
    if match is None:
        return float("nan")
    digits = _DIGITS[form].fullmatch(match["digits"])
    if digits is None:
        return float("nan")
    whole = re.sub(r"\D", "", digits[1]) or "0"
    decimals = digits[2] or "0"
    power = match["power"] or ""
    number = float(f"{whole}.{decimals}{power}")
    is_negative = match["sign"] in ("-", "−", "(") or match["minus"] in ("-", "−")
    return -number if is_negative else number


def _match_amount(text: str) -> "re.Match[str] | None":
    """Return the sign, unit and digits of ``text``; None if it is no amount."""
    if len(text) >= _MOST_CHARACTERS:
        return None
    return _AMOUNT.fullmatch(text.strip())


def parse_amounts(values: "pd.Series[Any]", form: str) -> npt.NDArray[np.float64]:
    """Return a column of numbers and text as float64.

    Text is read in ``form``; values that are neither numbers nor amounts are NaN.
    """
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    amounts = {
        text: _parse_amount(text, form)
        for text in values.unique()
        if isinstance(text, str)
    }
    pairs = zip(values.tolist(), numbers, strict=True)
    return np.array([amounts.get(value, number) for value, number in pairs])


@dataclass(frozen=True)
class AmountReading:
    """How the text of a column is read as numbers."""

    form: AmountForm | None = None
    """None: no text is a number, or the numbers have different units."""
    example: str = ""
    """Text that both forms read, but as different numbers; "": one form fits more text.
    """
    units: str = ""
    """The units, if they differ."""


def find_amount_form(valid: "pd.Series[Any]") -> AmountReading:
    """Return the form in which most text of ``valid`` is a number.

    If both forms fit equally well, it is the decimal point, with an example of text
    that the forms read as different numbers. There is no form if no text is a number,
    or if the numbers have several units.
    """
    texts = [value for value in valid.unique() if isinstance(value, str)]
    units = _find_units(texts)
    if len(units) > 1:
        return AmountReading(units=", ".join(sorted(units)))
    points = [_parse_amount(text, "decimal-point") for text in texts]
    commas = [_parse_amount(text, "decimal-comma") for text in texts]
    num_points = int(np.isfinite(points).sum())
    num_commas = int(np.isfinite(commas).sum())
    if num_points == num_commas == 0:
        return AmountReading()
    if num_points > num_commas:
        return AmountReading("decimal-point")
    if num_commas > num_points:
        return AmountReading("decimal-comma")
    for text, point, comma in zip(texts, points, commas, strict=True):
        if point != comma and np.isfinite(point):
            return AmountReading("decimal-point", example=text)
    return AmountReading("decimal-point")


def _find_units(texts: list[str]) -> set[str]:
    """Return the units before and after the numbers in ``texts``."""
    units = set()
    for text in texts:
        match = _match_amount(text)
        if match:
            units |= {match["before"], match["after"]}
    return units - {None, ""}
