r"""Text as it was written, reduced to what it says.

`clean` undoes notation and keeps case, punctuation and letters apart, for whoever reads option
letters. `normal` goes on to what two equal answers share. Both only ever remove what carries no
meaning of its own: "-5" is not "5", "(1, 2)" is not "[1, 2]", "10⁸" is not "108", and an "a"
goes only where it must be an article, as in "a dog", never in "vitamin A" or "A. dog".
"""

import re
import unicodedata
from functools import lru_cache

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-") | {"⁄": "/"})
_BOXED = re.compile(r"\\boxed\s*\{")
_STYLE = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX = (
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b"), "°"),
    (re.compile(r"\\left\b|\\right\b|\\[!]"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;: ]"), " "),
    (re.compile(r"\\([%$#&_])"), r"\1"),
    (re.compile(r"\\[(\[]|\\[)\]]"), " "),
)
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|`{1,3})(\S|\S.*?\S)\1(?!\w)", re.DOTALL)
_MATH = re.compile(r"\s*(\${1,2})([^$]+)\1([.,]?)\s*")
_WRAPPED = re.compile(r"[(\[{<]\s*([^\W_][\w .-]*)[)\]}>]")
_QUOTED = re.compile(r"[\"'“‘«](.*)[\"'”’»]", re.DOTALL)
_ENDS = " .,;:?"

_LEADS = (
    re.compile(r"(?:so|thus|hence|therefore|finally)(?:\s*,\s*|\s+)", re.IGNORECASE),
    re.compile(
        r"(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)*(?:answer|option|choice)\b"
        r"\s*(?:(?:is|would be|should be|must be)\b|(?=[:=]|\(|[A-Za-z]\b(?!['’])))\s*[:=]?\s*",
        re.IGNORECASE,
    ),
    re.compile(r"i\s+(?:choose|pick|select)\s+", re.IGNORECASE),
    re.compile(r"(?:it|this|that|they|there)(?:\s+(?:is|are|was|were)\b|['’](?:s|re)\b)\s*", re.I),
)
_TAIL = re.compile(
    r"\s+is\s+(?:the\s+)?(?:correct|right|best|(?:(?:correct|right|best)\s+)?"
    r"(?:answer|option|choice|one))\s*[.!]?$",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Unicode folded, LaTeX and Markdown undone; of boxed answers only what the boxes hold."""
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"[⁰¹²³⁴-⁹]+", lambda run: "^" + run[0].translate(_SUPERSCRIPTS), text)
    text = unicodedata.normalize("NFKC", text).translate(_DASHES)
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = ", ".join(dict.fromkeys(_boxes(text))) or text
    text = _until_still(_STYLE, r"\1", text)
    text = _until_still(_FRACTION, r"\1/\2", text)
    for pattern, written in _LATEX:
        text = pattern.sub(written, text)
    text = _until_still(_EMPHASIS, r"\2", text)
    if math := _MATH.fullmatch(text):
        text = math[2] + math[3]
    return " ".join(text.split())


@lru_cache(maxsize=4096)
def claim(text: str) -> str:
    """The cleaned text without the words that only announce an answer, such as "It is"."""
    text = clean(text)
    before = None
    while text != before:
        before = text
        for lead in _LEADS:
            text = lead.sub("", text, count=1) if lead.match(text) else text
        text = _TAIL.sub("", text) or before
        text = text or before
    return text


@lru_cache(maxsize=4096)
def normal(text: str) -> str:
    """What equal answers share: no case, articles, quotes, or punctuation outside numbers."""
    text = claim(text).casefold().rstrip(_ENDS)
    while wrapped := _WRAPPED.fullmatch(text) or _QUOTED.fullmatch(text):
        text = wrapped[1].rstrip(_ENDS)
    text = re.sub(r"^[-•*] (?!\d)", "", text)
    text = re.sub(r"^the (.+) ones?$", r"\1", text)
    text = re.sub(r"^an?\s+(?=\w)|\bthe\s+(?=\w)", "", text)
    text = text.replace("&", " and ")
    text = re.sub(r"(?<!\d)[\"'“”‘’«»]|\.(?!\d)", "", text)
    text = re.sub(r"(?<!\d)[,:]|[,:](?!\d)|[;?]|(?<![\d)])!", " ", text)
    text = re.sub(r"-(?!\s*\d)|(?<=[^\W\d])-", " ", text)
    return " ".join(text.split())


def _boxes(text: str) -> list[str]:
    """The contents of the closed boxes, in order; braces inside them balance."""
    contents: list[str] = []
    end = 0
    while box := _BOXED.search(text, end):
        end, depth = box.end(), 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            contents.append(text[box.end() : end - 1])
    return contents


def _until_still(pattern: re.Pattern[str], written: str, text: str) -> str:
    """Substitutes from the inside out, as nesting needs."""
    before = None
    while text != before:
        before, text = text, pattern.sub(written, text)
    return text
