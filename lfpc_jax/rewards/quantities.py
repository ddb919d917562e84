"""Numbers with what they count, as people write them: "1,200 km", "three", "$5", "2 1/2", "30%".

Values are exact fractions, so "0.5", ".50" and "1/2" are one number. A number with leading zeros
("007") is a code, not a quantity.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from lfpc_jax.rewards.wording import normal

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMERAL = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<money>[$€£¥]?)\s*(?:(?P<whole>{_DIGITS})\s+)?"
    rf"(?P<top>{_DIGITS})\s*/\s*(?P<bottom>{_DIGITS})(?!\S*\d)"
    rf"|(?P<sign2>[+-]?)\s*(?P<money2>[$€£¥]?)\s*"
    rf"(?P<number>{_DIGITS}(?:\.\d+)?(?:e[+-]?\d{{1,3}})?|\.\d+)(?![\d.,:/^])"
)
_ONES = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = dict(zip(_ONES.split(), range(1, 20)))
_TENS = dict(zip(_DECADES.split(), range(20, 100, 10)))
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_NUMBER_WORDS = _SMALL.keys() | _TENS.keys() | _SCALES.keys() | {"zero", "hundred"}
_UNITS = {
    spelling: unit
    for unit, spellings in {
        "%": "percent pct",
        "$": "dollar usd",
        "€": "euro eur",
        "£": "gbp",
        "¥": "yen jpy",
        "°": "degree deg",
        "mm": "millimeter millimetre",
        "cm": "centimeter centimetre",
        "m": "meter metre",
        "km": "kilometer kilometre",
        "inch": "inche",
        "ft": "foot feet",
        "mi": "mile",
        "mg": "milligram",
        "g": "gram",
        "kg": "kilogram kilo",
        "lb": "lbs",
        "ml": "milliliter millilitre",
        "l": "liter litre",
        "sec": "second",
        "min": "minute",
        "h": "hour hr",
    }.items()
    for spelling in spellings.split()
}
_UNIT = re.compile(r"[%°$€£¥]|°?[^\W\d_]+(?:\^\d|/[^\W\d_]+)?(?: [^\W\d_]+){0,2}")
_NO_UNIT = _NUMBER_WORDS | {"or", "and", "nor", "not", "no", "to", "but", "than"}


@dataclass(frozen=True)
class Quantity:
    value: Fraction
    unit: str
    """Its words in the singular, one spelling a unit; empty for a bare number."""


def parse(text: str) -> Quantity | None:
    """The quantity that the whole text is, or None."""
    text = normal(text)
    if numeral := _NUMERAL.match(text):
        money = numeral["money"] or numeral["money2"] or ""
        value, words = _numeral(numeral), text[numeral.end() :].split()
        if value is not None and words and words[0] in _SCALES:
            value, words = value * _SCALES[words[0]], words[1:]
    else:
        money = ""
        value, words = _spelled(text.replace("-", " ").split())
    if value is None:
        return None
    if not words:
        return Quantity(value, money)
    if money or not _UNIT.fullmatch(" ".join(words)) or _NO_UNIT & set(words):
        return None
    return Quantity(value, " ".join(map(_unit, words)))


def equal(a: Quantity, b: Quantity, question: str) -> bool | None:
    """Whether two quantities are the same amount, or None where their units leave it open.

    A unit that only one of them has is understood if the question speaks of it. A percentage also
    equals its share of one, unless the question asks for percent. Values with decimals that differ
    by less than 1% may be roundings of each other: that stays open, too.
    """
    units = {a.unit, b.unit}
    understood = len(units) == 1 or ("" in units and _asks_for(a.unit or b.unit, question))
    if units == {"", "%"}:
        share, percent = (a.value, b.value) if b.unit else (b.value, a.value)
        if share and share * 100 == percent:
            return None if understood else True
    if not understood:
        return None
    if a.value == b.value:
        return True
    whole = a.value.denominator == b.value.denominator == 1
    near = abs(a.value - b.value) * 100 < max(abs(a.value), abs(b.value))
    return None if near and not whole else False


def _asks_for(unit: str, question: str) -> bool:
    words = re.findall(r"[%°$€£¥]|[^\W\d_]+", question.casefold())
    return set(unit.split()) <= set(map(_unit, words))


def _unit(word: str) -> str:
    singular = word.removesuffix("s") if len(word) > 2 else word
    return _UNITS.get(word) or _UNITS.get(singular) or singular


def _numeral(numeral: re.Match[str]) -> Fraction | None:
    """The value of a match of `_NUMERAL`; None for codes and for divisions by zero."""
    parts = [numeral[name] for name in ("whole", "top", "bottom", "number") if numeral[name]]
    if any(re.match(r"0\d", part) for part in parts):
        return None
    if numeral["number"]:
        value = Fraction(numeral["number"].replace(",", ""))
    else:
        whole, top, bottom = (
            Fraction((numeral[name] or "0").replace(",", "")) for name in ("whole", "top", "bottom")
        )
        if not bottom:
            return None
        value = whole + top / bottom
    return -value if "-" in (numeral["sign"], numeral["sign2"]) else value


def _spelled(words: list[str]) -> tuple[Fraction | None, list[str]]:
    """The number that the words begin with, and the words after it."""
    if words[:1] == ["zero"]:
        return Fraction(0), words[1:]
    total = group = used = 0
    for index, word in enumerate(words):
        tens = group % 100
        if word in _SMALL and (not tens or (tens >= 20 and not tens % 10 and _SMALL[word] < 10)):
            group += _SMALL[word]
        elif word in _TENS and not tens:
            group += _TENS[word]
        elif word == "hundred" and group < 100:
            group = 100 * (group or 1)
        elif word in _SCALES and total % (1000 * _SCALES[word]) == 0:
            total, group = total + (group or 1) * _SCALES[word], 0
        elif word == "and" and words[index - 1] in _SCALES.keys() | {"hundred"} and index:
            continue
        else:
            break
        used = index + 1
    return (Fraction(total + group), words[used:]) if used else (None, words)
