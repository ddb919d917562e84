"""Answer matching by rule: sure of a yes, sure of a no, or unable to tell.

Whole texts are compared, by what they say (`wording`), never parts of them: "B" is not in "Black".

With options, the reference is a letter.
- Yes: its letter in any dress (B, "B", (b), B., "Option B", "The answer is **B**", "\\boxed{B}",
  "B is correct"); the text of its option and nothing more ("It is the red one."); its letter with
  that text ("B. red", "red (B)"), or with a remark that speaks of the text, of no other option and
  denies nothing ("B, because it is red").
- No: another letter, whatever follows it; several letters ("A or B"); the text of another option;
  the right letter with the text of another option; a number where all options are other numbers.

Options that the question lists in its own text (`listed`) are options, too, where the reference is
one of them: its letter ("B"), its letter and text ("B. Blue"), or its text ("Blue").

Free answers.
- Yes: equal wording; equal quantities, where a unit on one side only must be what the question
  asks for; the yes or no that a longer reply begins with ("Yes, it is."); for a reference such as
  "B. Blue" its letter alone, its text alone, and both in any dress.
- No: another quantity in the same unit; the opposite yes or no; for a reference that is one
  letter, or a letter and its text, another letter or several. "A. K" is not several, but may be A.

Where the text as a whole leaves it open, what it announces decides ("It is by the gate, so the
answer is C."), if all that it announces is right, or all of it wrong.

No answer at all is a no. Everything else is None, for "cannot tell": denials ("not red"), hedges,
paraphrases, and texts of 1,000 characters or more, which the rules do not read.
"""

import re

from lfpc_jax.rewards.format import LONGEST_ANSWER
from lfpc_jax.rewards.listed import letter_and_text, listed_options
from lfpc_jax.rewards.quantities import equal, parse
from lfpc_jax.rewards.wording import claim, clean, normal
from lfpc_jax.trajectory import Record

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALONE = re.compile(r"[(\[{<]?\s*([A-Za-z])\s*[)\]}>]?\s*[.,:;!)]*")
_LISTED = re.compile(r"[A-Za-z]+|[^,/;|&+()\[\].\s]")
_BEFORE = re.compile(
    r"(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Za-z])\s*\)|([A-Za-z])\s*[.:,;]|([A-Za-z])\s+-(?=\s))"
    r"[.:,;)]*\s*(.+)",
    re.DOTALL,
)
_MARKS = "\"'“”‘’«»"
_QUOTED = re.compile(rf"\s*[{_MARKS}]([^{_MARKS}]+)[{_MARKS}]\s*\.?\s*")
_QUOTED_LETTER = re.compile(rf"(?<!\w)[{_MARKS}]\s*([A-Za-z])\s*([.:)]?)[{_MARKS}](?!\w)")
_ANNOUNCED = re.compile(
    r"\b(?i:answer|option|choice)\b\s*(?:(?i:is|would be|should be|must be)\b|:|(?=\(?[A-Z]\b))"
    r"\s*:?\s*(?=(.+?)(?:[.;!?](?:\s|$)|$))"
)
_LABELLED = re.compile(r"[(\[]?\s*([A-Za-z])\s*[.:)\]]+\s*[A-Za-z]\s*\.?")
_TIGHT = re.compile(r"[A-Za-z][.:,;]\w")
_BESIDE = re.compile(r"([A-Z])\s+(\S.*)", re.DOTALL)
_AFTER = re.compile(r"(.+?)\s+[(\[]\s*([A-Z])\s*[)\]]\s*\.?", re.DOTALL)
_DENIALS = re.compile(
    r"\b(?:not|no|never|neither|nor|none|without|except|unless|unlike|or|but|instead|rather|cannot|"
    r"(?:is|are|was|were|does|do|did|ca|wo)nt)\b"
)


def match(answer: str | None, record: Record) -> bool | None:
    """Whether the answer is right; None where the rules cannot tell."""
    if answer is None or not answer.strip():
        return False
    if len(answer) >= LONGEST_ANSWER:
        return None
    rules = _match_option if record.options else _match_free
    texts = [_unquoted(answer), *_announced(answer)]
    whole, *parts = (rules(claim(text), record) for text in texts)
    return parts[0] if whole is None and len(set(parts)) == 1 else whole


def options_by_letter(record: Record) -> dict[str, str]:
    return dict(zip(_LETTERS, record.options))


def right_letter(record: Record) -> str:
    """The reference of a record with options."""
    letters = "".join(options_by_letter(record))
    letter = _ALONE.fullmatch(claim(record.answer))
    if not letter or letter[1].upper() not in letters:
        raise ValueError(
            f"record {record.id!r}: answer {record.answer!r:.80} is not one of the letters "
            f"{letters} of its {len(record.options)} options; correct or drop the record"
        )
    return letter[1].upper()


def _unquoted(answer: str) -> str:
    """Without quotation marks around the whole, or around a single letter."""
    whole = _QUOTED.fullmatch(answer)
    return _QUOTED_LETTER.sub(r"\1\2", whole[1] if whole else answer)


def _announced(answer: str) -> list[str]:
    """What a longer text says to be the answer, up to the end of each such sentence."""
    lines = (_unquoted(clean(line)) for line in answer.splitlines())
    return [text for line in lines for text in _ANNOUNCED.findall(line)]


def _match_option(answer: str, record: Record) -> bool | None:
    texts = {letter: claim(text) for letter, text in options_by_letter(record).items()}
    return _among(answer, right_letter(record), texts, record.question)


def _among(answer: str, right: str, texts: dict[str, str], question: str) -> bool | None:
    """Whether the answer is the right one of these options."""
    alone = _ALONE.fullmatch(answer)
    if alone and alone[1].upper() in texts:
        return alone[1].upper() == right
    same = {letter: _same(answer, text, question) for letter, text in texts.items()}
    if True in same.values():
        return same[right] is True
    letter, remark = _letter_and_remark(answer, texts, question) or ("", "")
    if letter and _same(remark, texts[letter], question):
        return letter == right
    if alone or _names_several(answer, "".join(texts)):
        return False
    if letter:
        return _supports(remark, letter, texts, question) if letter == right else False
    return None if None in same.values() else False


def _match_free(answer: str, record: Record) -> bool | None:
    wanted, question = claim(record.answer), record.question
    if answer == wanted:
        return True
    listed = listed_options(question)
    alone, labelled = _ALONE.fullmatch(wanted), letter_and_text(wanted)
    right = alone[1].upper() if alone else labelled[0] if labelled else ""
    text = labelled[1] if labelled else wanted
    others = [other for letter, other in listed.items() if letter != right]
    if right and any(_same(other, text, question) for other in others):
        return None  # the reference is one option by its letter and another by its text
    if right in listed:
        return _among(answer, right, listed | ({right: text} if labelled else {}), question)
    same = _same(answer, wanted, question)
    if same is not None:
        return same
    if alone:
        return _lone(answer, right)
    if labelled:
        return _only(answer, *labelled, question)
    named = [letter for letter, text in listed.items() if _same(text, wanted, question)]
    return _among(answer, named[0], listed, question) if len(named) == 1 else None


def _lone(answer: str, right: str) -> bool | None:
    """Whether an answer is a letter of which nothing more is known."""
    if alone := _ALONE.fullmatch(answer):
        return alone[1].upper() == right
    if (beside := _LABELLED.fullmatch(answer)) and beside[1].upper() == right:
        return None  # "A. K" is A and its text, or two letters
    return False if _names_several(answer, _LETTERS) else None


def _only(answer: str, right: str, text: str, question: str) -> bool | None:
    """The same of a letter and its text, where the other options are not known."""
    if alone := _ALONE.fullmatch(answer):
        return alone[1].upper() == right or _same(answer, text, question) is True
    if (beside := _LABELLED.fullmatch(answer)) and beside[1].upper() == right:
        return None
    if _names_several(answer, _LETTERS):
        return False
    return _among(answer, right, {right: text}, question)


def _same(answer: str, reference: str, question: str) -> bool | None:
    """Whether two texts say the same; None where that takes understanding."""
    if (normal(answer) or answer) == (normal(reference) or reference):
        return True
    if (given := parse(answer)) and (wanted := parse(reference)):
        return equal(given, wanted, question)
    if normal(reference) in ("yes", "no") and (reply := _yes_or_no(answer)):
        return reply == normal(reference)
    return None


def _yes_or_no(answer: str) -> str | None:
    """What a reply begins with, unless it also says the opposite."""
    begins = re.match(r"(yes|no)\s*(?:[.,;:!]|-\s|$)", answer, re.IGNORECASE)
    if not begins:
        return None
    reply = begins[1].casefold()
    return None if {"yes": "no", "no": "yes"}[reply] in normal(answer).split() else reply


def _names_several(answer: str, letters: str) -> bool:
    """Whether the text is a list of different option letters and nothing else."""
    words = _LISTED.findall(answer)
    if len(words) == 1 and words[0].isupper():
        named = set(words[0])
    elif re.search(r"\w\.\w", answer):
        return False
    else:
        named = {word.upper() for word in words} - {"AND", "OR", "BOTH", "EITHER"}
    return len(named) > 1 and named <= set(letters)


def _letter_and_remark(answer: str, texts: dict[str, str], question: str) -> tuple[str, str] | None:
    """The letter that a text begins or ends with, set apart from the rest, and the rest.

    Set apart is "A. red" or "(A) red". "A.red" and "A red" are so only if the rest is the text of
    that option: "D.C." and "A dog" name no option.
    """
    if parts := _BEFORE.fullmatch(answer):
        letter, remark = next(filter(None, parts.groups()[:4])).upper(), parts[5]
        loose = not _TIGHT.match(answer)
    elif parts := _BESIDE.fullmatch(answer):
        letter, remark, loose = parts[1], parts[2], False
    elif parts := _AFTER.fullmatch(answer):
        letter, remark, loose = parts[2], parts[1], True
    else:
        return None
    if texts and letter not in texts:
        return None
    if loose or (letter in texts and _same(remark, texts[letter], question)):
        return letter, remark
    return None


def _supports(remark: str, letter: str, texts: dict[str, str], question: str) -> bool | None:
    """Whether what stands beside a letter, and is more than its option's text, agrees with it."""
    others = {other: text for other, text in texts.items() if other != letter}
    if any(_same(remark, text, question) for text in others.values()):
        return False
    words, option = f" {normal(remark)} ", f" {normal(texts[letter])} "
    rest = words.replace(option, " ")
    if rest == words or _DENIALS.search(rest):
        return None
    for other in (f" {normal(text)} " for text in others.values()):
        if other in rest or (other in words and other not in option):
            return None
    named = re.findall(r"(?<![\w'’])[A-Z](?![\w'’])", remark)
    return None if set(named) & set(others) else True
