"""Reading a choice out of text."""

import re
from dataclasses import dataclass
from functools import lru_cache

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OPENED = re.compile(r"<answer>((?:(?!<answer>).)*)\Z", re.DOTALL)

_CUE = re.compile(
    r"\b(?:(?:final |correct |right |best )?(?:answer|option|choice)(?: would be| must be| is|\s*[:=])"
    r"|(?:so|therefore|thus|hence)\b,?)[\s*_:`\"'(\[]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|\Z)|</think>")
_NEGATED = re.compile(
    r"(?:\bnot|n't|\bnor|\bneither|\bthan|\binstead of)(?: (?:a|an|the|is|in|on|at|to))*\s*\Z", re.IGNORECASE
)
_LETTER_IN_BRACKETS = re.compile(r"\(([A-Za-z])\)")
_LETTER_AFTER_CUE = re.compile(r"([A-Za-z])(?=\s*(?:[.,;:!?)\]*_`\"'<]|\Z|\n)|\s+(?:because|since|as)\b)")
_LABELLED = re.compile(r"\(?([A-Za-z])(?:\)|\.|:)\s+(.+)|\(([A-Za-z])\)(\S.*)", re.DOTALL)

_OPENING = "\"'`*_([{ \n\t"
_CLOSING = "\"'`*_)]},.;:!? \n\t"


@dataclass(frozen=True)
class Extraction:
    """What was read, and how."""

    choice: int | None
    """Index of the choice; None if the text states none."""
    span: tuple[int, int] | None
    """Where in the text the choice stands, as [start, end) characters."""
    rule: str
    """`bare` (the text is the choice), `tag`, `statement`, `mention` or `none`."""
    confidence: float
    """1.0 where the text states one choice and nothing else, down to 0 where it states none. Our own scale."""


def answer_tags(text: str) -> list[re.Match[str]]:
    """The answer tags that open and close, in order; group 1 is the content, line breaks included."""
    return list(_ANSWER.finditer(text, 0, text.rfind("</answer>") + len("</answer>")))


def plain(text: str) -> str:
    """Without light punctuation around it, white space as single blanks, case folded."""
    return " ".join(text.lstrip(_OPENING).rstrip(_CLOSING).split()).casefold()


def exact_choice(text: str, choices: tuple[str, ...]) -> int | None:
    """The one choice that the text states with nothing else: `left`, `B`, `(B)`, `b.`, `(B) left`.

    Case, white space and light punctuation around it do not matter. Letters stand for choices in their order,
    unless a choice is itself a single letter: then a letter is that choice's text. A text that names a letter and
    a choice that differ states none.
    """
    words = text.strip()
    if words in choices:
        return choices.index(words)
    by_text = _by_text(plain(text), choices)
    if by_text is not None:
        return by_text
    label = _LABELLED.fullmatch(words.strip("\"'`*_"))
    if label is None:
        return _by_letter(plain(text), choices)
    letter, rest = label[1] or label[3], label[2] or label[4]
    named = _by_text(plain(rest), choices)
    return named if named is not None and named == _by_letter(letter, choices) else None


def extract_choice(text: str, choices: tuple[str, ...]) -> Extraction:
    """The choice that a text of any form states, looked for in this order:

    1. the whole text (`bare`);
    2. the last answer tag, closed or not (`tag`);
    3. the last statement such as "answer: ...", "the answer is ...", "so ...", in which a choice or a letter
       standing alone follows in the same sentence (`statement`);
    4. the last choice mentioned as whole words, or letter in round brackets (`mention`).

    Where choices overlap the longest counts ("dark red cube" is no "red cube"); a mention behind "not", "than" or
    the like does not count; a letter is never taken from running words ("A dog" is not choice A).
    """
    whole = exact_choice(text, choices)
    if whole is not None:
        return Extraction(whole, _trimmed(text, 0, len(text)), "bare", 1.0)
    closed = answer_tags(text)
    tag = closed[-1] if closed else _OPENED.search(text)
    if tag is not None:
        stated = exact_choice(tag[1], choices)
        if stated is not None:
            return Extraction(stated, _trimmed(text, tag.start(1), tag.end(1)), "tag", 1.0)
        inside = _mentions(text, tag.start(1), tag.end(1), choices)
        if inside:
            index, span = inside[-1]
            return Extraction(index, span, "tag", 0.9 if len({found for found, _ in inside}) == 1 else 0.4)
    next_cue = len(text)
    for cue in reversed(list(_CUE.finditer(text))):
        # What follows the next cue has been looked at already.
        ending = _SENTENCE_END.search(text, cue.end(), next_cue)
        end = ending.start() if ending else next_cue
        next_cue = cue.start()
        letter = _LETTER_AFTER_CUE.match(text, cue.end(), len(text))
        if letter and (letter[1].isupper() or "answer" in cue[0].lower()):
            lettered = _by_letter(letter[1], choices)
            if lettered is not None:
                return Extraction(lettered, letter.span(1), "statement", 0.9)
        stated_here = _mentions(text, cue.end(), end, choices)
        if stated_here:
            index, span = stated_here[0]
            return Extraction(index, span, "statement", 0.8 if len({found for found, _ in stated_here}) == 1 else 0.5)
    anywhere = _mentions(text, 0, len(text), choices)
    if anywhere:
        index, span = anywhere[-1]
        return Extraction(index, span, "mention", 0.6 if len({found for found, _ in anywhere}) == 1 else 0.3)
    return Extraction(None, None, "none", 0.0)


def _by_text(words: str, choices: tuple[str, ...]) -> int | None:
    """`words` is plain; None where two choices differ only in case or punctuation."""
    found = [index for index, choice in enumerate(choices) if plain(choice) == words]
    return found[0] if len(found) == 1 and words else None


def _by_letter(letter: str, choices: tuple[str, ...]) -> int | None:
    if len(letter) != 1 or not ("a" <= letter.lower() <= "z"):
        return None
    if any(_is_letter(choice) for choice in choices):
        return _by_text(letter.lower(), choices)
    index = ord(letter.lower()) - ord("a")
    return index if index < len(choices) else None


def _is_letter(choice: str) -> bool:
    bare = plain(choice)
    return len(bare) == 1 and bare.isalpha()


@lru_cache(maxsize=256)
def _mention_pattern(choices: tuple[str, ...]) -> re.Pattern[str]:
    """Every choice as whole words, longest first; single letters are left to `_LETTER_IN_BRACKETS`.

    "No" in front of another word ("no dog is visible") is no answer.
    """
    words = sorted((c for c in choices if not _is_letter(c)), key=len, reverse=True)
    listed = "|".join(r"\s+".join(re.escape(part) for part in choice.split()) for choice in words) or r"(?!)"
    no_noun = r"(?!(?<=\bno)\s+(?!because\b|since\b|as\b)\w)"
    return re.compile(rf"(?<!\w)(?<!\d[.,])(?<!-)(?:{listed})(?!\w)(?![.,]\d){no_noun}", re.IGNORECASE)


def _mentions(text: str, start: int, end: int, choices: tuple[str, ...]) -> list[tuple[int, tuple[int, int]]]:
    """Index and span of every choice mentioned in text[start:end], in order, negated ones left out."""
    found: list[tuple[int, tuple[int, int]]] = []
    for match in _mention_pattern(choices).finditer(text, start, end):
        index = exact_choice(match[0], choices)
        if index is not None:
            found.append((index, match.span()))
    for match in _LETTER_IN_BRACKETS.finditer(text, start, end):
        index = _by_letter(match[1], choices)
        if index is not None:
            found.append((index, match.span()))
    kept = [(index, span) for index, span in found if not _NEGATED.search(text, max(0, span[0] - 40), span[0])]
    return sorted(kept, key=lambda mention: mention[1])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
