"""Numbers in text with a unit or separators of thousands, such as $1,234.00, 1 234,50 €
and 12.3%.
"""

import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

AmountForm = Literal["decimal-point", "decimal-comma"]
_UNIT = (
    r"[%‰]|(?:US|C|A)?\$|[€£¥₹₽₩₺₪₫₴₦₱฿¢]|USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|BRL|MXN|ZAR"
    r"|Fr\.|kr\.?|zł"
)
_AMOUNT = re.compile(
    rf"(?P<sign>[-+−(]?)\s*(?P<before>{_UNIT})?\s*(?P<minus>[-+−]?)\s*(?P<digits>[\d.,'’\s]*\d)"
    rf"(?P<power>[eE][-+]?\d{{1,3}})?\s*(?P<after>{_UNIT})?\s*\)?"
)
_DIGITS = {
    "decimal-point": re.compile(r"([1-9]\d{0,2}(?:[,'’\s]\d{3})+|\d*)(?:\.(\d+))?"),
    "decimal-comma": re.compile(r"([1-9]\d{0,2}(?:[.'’\s]\d{3})+|\d*)(?:,(\d+))?"),
}


def _amount(text: str, form: str) -> float:
    """Return the number in ``text``; NaN if there is none, or something else beside it."""
    found = _AMOUNT.fullmatch(text.strip()) if len(text) < 40 else None
    parts = _DIGITS[form].fullmatch(found["digits"]) if found else None
    if not found or not parts:
        return float("nan")
    whole = re.sub(r"\D", "", parts[1])
    number = float(f"{whole or '0'}.{parts[2] or '0'}{found['power'] or ''}")
    return -number if {found["sign"], found["minus"]} & {"-", "−", "("} else number


def parse_amounts(values: "pd.Series[Any]", form: str) -> npt.NDArray[np.float64]:
    """Return a column of numbers and text as float64, text in ``form``; other values
    are NaN.
    """
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    known = {
        value: _amount(value, form)
        for value in values.unique()
        if isinstance(value, str)
    }
    return np.array(
        [
            known.get(value, number)
            for value, number in zip(values.tolist(), numbers, strict=True)
        ]
    )


def amount_form(known: "pd.Series[Any]") -> tuple[AmountForm | None, str]:
    """Return the form in which most text of ``known`` is a number, and an example if
    both forms fit equally well.

    None if no text is a number, or if the numbers have different units, which the
    second value then lists.
    """
    texts = [value for value in known.unique() if isinstance(value, str)]
    found = [
        match
        for text in texts
        if len(text) < 40 and (match := _AMOUNT.fullmatch(text.strip()))
    ]
    if (
        len(
            units := {
                unit
                for match in found
                for unit in (match["before"], match["after"])
                if unit
            }
        )
        > 1
    ):
        return None, ", ".join(sorted(units))
    point, comma = ([_amount(text, form) for text in texts] for form in _DIGITS)
    fits = int(np.isfinite(point).sum()), int(np.isfinite(comma).sum())
    if not max(fits, default=0):
        return None, ""
    if fits[0] != fits[1]:
        return ("decimal-point" if fits[0] > fits[1] else "decimal-comma"), ""
    doubtful = [
        text
        for text, one, other in zip(texts, point, comma, strict=True)
        if one != other and np.isfinite(one)
    ]
    return "decimal-point", next(iter(doubtful), "")
