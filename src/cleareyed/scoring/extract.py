"""Reading a choice out of text.

The rules were written while reading the answers of three models to BLINK (Fu et al., ECCV 2024) and measured on
those of three others: `benchmarks/extraction.py`.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OPENED = re.compile(r"<answer>((?:(?!<answer>).)*)\Z", re.DOTALL)
_LABELLED = re.compile(r"\(?([A-Za-z])(?:\)|\.|:)\s+(.+)|\(([A-Za-z])\)(\S.*)", re.DOTALL)
_OPENING = "\"'`*_([{ \n\t"
_CLOSING = "\"'`*_)]},.;:!? \n\t"

_NOUN = r"(?:options?|choices?|answer)"
_THING = r"(?:points?|box|picture|image|figure|object|region|letter|candidate)"
_MARKS = r"[\s*_\"'`\u201c\u201d(]*"
_CUE = re.compile(
    # "the correct answer is", "my choice:"
    r"(?:\b(?P<answer>(?:(?:final|correct|right|best|my)[ ])?(?:answer|(?<!each[ ])(?<!following[ ])(?:option|choice))"
    r"(?:[*_]*[ ](?:would[ ]be|must[ ]be|should[ ]be|is)|[*_]*\s*[:=])"
    r"(?:[ ](?:likely|probably|therefore|clearly|thus))?)"
    # "the most likely match", "is the best fit"
    r"|\b(?P<verdict>(?:correct|right|best|(?:most[ ])?(?:likely|appropriate|suitable|accurate|fitting|plausible)"
    rf"|corresponding|matching)[ ](?:(?:corresponding|matching)[ ])?(?:{_NOUN}|match|piece|one|fit|{_THING}))\b"
    # "therefore", "based on this", "I would say"
    r"|\b(?:so|therefore|thus|hence|overall|conclusion|finally|in[ ]summary"
    r"|(?:based[ ]on|given)(?=[ ](?:the|this|that|these|those|our|my|its?)\b))\b,?"
    r"|\bI(?:['\u2019]d|['\u2019]ll|[ ]would|[ ]will)?[ ](?:say|choose|select|pick|guess|go[ ]with|think|believe)\b)"
    r"[\s*_:`\"'\u201c(\[]*",
    re.IGNORECASE,
)
_LETTER_AFTER_CUE = re.compile(
    r"([A-Za-z])(?!\)?\s*,\s*(?:or |and )?\(?[A-Z]\b)"
    r"(?=\s*(?:[.,;:!?)\]*_`\"'\u201d<]|\Z|\n)|\s+(?:because|since|as)\b)"
)
_LINKED = re.compile(r"\b(?:is|are|was|be|seems?|appears?|looks?|as)\b", re.IGNORECASE)
_NOT = re.compile(r"\bnot\b|n['\u2019]t\b", re.IGNORECASE)
_BREAK = re.compile(r"\n+|[.!?](?=[\s*_\"')\]<]|\Z)|</think>")
_LINE = re.compile(r"\S[^\n]*")

_NEGATED = re.compile(
    r"(?:\bnot|n['\u2019]t|\bnor|\bneither|\bthan|\binstead of|\bunlike|\bcompared (?:to|with)"
    r"|\b(?:rul|eliminat|exclud)\w+)"
    r"(?: (?:a|an|the|is|in|on|at|to|out|be|either|option|choice))*[\s*_\"'`(]*\Z",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\s*_\"'`)\u201d]*(?:\([^()\n]{0,40}\))?[\s*_]*(?:"
    r"(?:is|are|was|does|do|did|can|could|would|should|has|have|seems?|appears?)"
    r"(?:n['\u2019]t\b(?! only)|(?: \w+)?? not\b(?! only)"
    r"| (?:also )?(?:incorrect|wrong|eliminated|excluded|ruled out)\b| neither\b)"
    r"|cannot\b|can be (?:ruled|eliminated|excluded))",
    re.IGNORECASE,
)
_OPEN_CHOICE = re.compile(r"\b(?:none of|neither|between|either|whether)\b", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"\bnone of the (?:\w+ )?(?:options|choices|answers|above)\b|\bunable to\b|\bimpossible to\b"
    r"|\b(?:cannot|can['\u2019]t|can not|could not|couldn['\u2019]t) (?:\w+ )?"
    r"(?:determine|tell|say|answer|identify|be determined)\b",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(
    rf"[\s*_\"'`,;)\u201d]*(?:\b(?:or|and|nor|vs\.?)\b|[/&])?{_MARKS}(?:the )?(?:{_NOUN}|{_THING})?{_MARKS}"
    r"(?:[A-Z][).:] )?",
    re.IGNORECASE,
)
_LINE_START = re.compile(rf"\n([\s>*_#\-•\d.)(\[\"'`]*)(?:(?:{_NOUN}|{_THING})[\s*_\"'`(]*)?\Z", re.IGNORECASE)
_HEADS = re.compile(r"[\s*_\"'`)]*(?:[:\-\u2013\u2014\n]|\Z)")
_BEGIN = re.compile(r"[.!?](?=\s+\S)|<\w{1,10}>|\n")
_CLOSING_TAGS = re.compile(r"(?:\s|</\w{1,10}>){1,40}\Z")
_LABEL = re.compile(r"[(*_]*[A-Z][).:]")
_NEAR = 40
"""Characters around a mention in which its negation, its bullet and its alternative are looked for."""
_SENTENCE = 200
"""Characters before a mention in which "neither" and the like are looked for, within the sentence."""


@dataclass(frozen=True)
class Extraction:
    """What was read, and how."""

    choice: int | None
    """Index of the choice; None if the text states none."""
    span: tuple[int, int] | None
    """Where in the text the choice stands, as [start, end) characters."""
    rule: str
    """`bare`, `tag`, `statement`, `alone`, `mention` or `none`; see `extract_choice`."""
    confidence: float
    """1.0 where the text states one choice and nothing else, down to 0 where it states none. Our own scale."""


@dataclass(frozen=True)
class _Mention:
    choice: int
    start: int
    end: int
    heading: bool = False
    """It begins a line, as another choice does elsewhere: the text goes through the choices one by one."""


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


def extract_choice(text: str, choices: Sequence[str]) -> Extraction:
    """The choice that a text of any form states, looked for in this order:

    1. the whole text, or all that follows `</think>` (`bare`);
    2. the last answer tag, closed or not (`tag`);
    3. the last statement (`statement`): "the answer is ...", "answer: ..."; if there is none of these, "... is the
       best match", "therefore ...", "based on this ...", "I would say ...", with a choice in the same sentence;
    4. a last sentence, last line or first line that is a choice and nothing else (`alone`);
    5. the choice mentioned, of two the first, of numbers the last, as who counts ends there (`mention`); unless the
       text says that it cannot tell.

    What follows `</think>` is read first, and the thought only where that states nothing.

    A choice is mentioned by its text as whole words, by its letter in round brackets, or by its letter behind
    "option", "choice" or "answer"; behind "point", "box" and the like only where the choices themselves are named by
    their letters ("Box A", "Box B"). Where choices overlap the longest counts ("dark red cube" is no "red cube"). A
    letter is never taken from running words ("A dog" is not choice A). Not counted is a mention that is negated ("not
    left", "B cannot be"), an alternative ("left or right") and, but for explicit statements, the heading of a line
    where other choices head lines too.
    """
    choices = tuple(choices)
    whole = exact_choice(text, choices)
    if whole is not None:
        return Extraction(whole, _trimmed(text, 0, len(text)), "bare", 1.0)
    tagged = _in_tag(text, choices)
    if tagged is not None:
        return tagged
    thought = text.rfind("</think>")
    if thought >= 0:
        after = thought + len("</think>")
        behind = extract_choice(text[after:], choices)
        if behind.span is not None:
            return replace(behind, span=(behind.span[0] + after, behind.span[1] + after))
    mentions = _mentions(text, choices)
    return (
        _statement(text, mentions, choices) or _alone(text, mentions, choices) or _mentioned(text, mentions, choices)
    )


def _in_tag(text: str, choices: tuple[str, ...]) -> Extraction | None:
    closed = answer_tags(text)
    tag = closed[-1] if closed else _OPENED.search(text)
    if tag is None:
        return None
    start = tag.start(1)
    stated = exact_choice(tag[1], choices)
    if stated is not None:
        return Extraction(stated, _trimmed(text, start, tag.end(1)), "tag", 1.0)
    inside = [m for m in _mentions(tag[1], choices) if not m.heading]
    if not inside:
        return None
    last = replace(inside[-1], start=inside[-1].start + start, end=inside[-1].end + start)
    return _read(last, "tag", 0.9 if _agree(inside) else 0.4)


def _statement(text: str, mentions: Sequence[_Mention], choices: tuple[str, ...]) -> Extraction | None:
    ends = _sentence_ends(text)
    cues = list(_CUE.finditer(text))
    # What follows the next cue belongs to that one.
    reaches = [*(cue.start() for cue in cues[1:]), len(text)]
    bounded = list(zip(cues, reaches, strict=False))[::-1]
    running = [m for m in mentions if not m.heading]
    for cue, reach in sorted(bounded, key=lambda pair: pair[0]["answer"] is None):
        place = bisect_left(ends, cue.end())
        letter = _LETTER_AFTER_CUE.match(text, cue.end())
        if letter and (letter[1].isupper() or "answer" in cue[0].lower()):
            lettered = _by_letter(letter[1], choices)
            if lettered is not None:
                return Extraction(lettered, letter.span(1), "statement", 0.9)
        if text.startswith("?", ends[place]):
            continue
        explicit = cue["answer"] or cue["verdict"]
        here = _between(mentions if explicit else running, cue.end(), min(ends[place], reach))
        if cue["verdict"]:
            before = _between(mentions, max(ends[place - 1] if place else 0, cue.start() - _SENTENCE), cue.start())
            link = text[before[-1].end : cue.start()] if before else ""
            if _LINKED.search(link) and not _NOT.search(link):
                return _read(before[-1], "statement", 0.8 if _agree([*before, *here]) else 0.5)
        if here:
            return _read(here[0], "statement", 0.8 if _agree(here) else 0.5)
    return None


def _alone(text: str, mentions: Sequence[_Mention], choices: tuple[str, ...]) -> Extraction | None:
    """The last sentence, the last line or the first line, if it is a choice and nothing else.

    Simple tags around the last sentence do not matter. Where lines are headed by choices, a last one counts only
    behind a colon; a first line followed by another choice begins a list.
    """
    lines = list(_LINE.finditer(text))
    listed = any(m.heading for m in mentions) or sum(_LABEL.match(line[0]) is not None for line in lines) > 2
    if lines and (not listed or (len(lines) > 1 and lines[-2][0].rstrip(" *_").endswith(":"))):
        end = _CLOSING_TAGS.search(text, lines[-1].start())
        stop = end.start() if end else len(text)
        begin = max((found.end() for found in _BEGIN.finditer(text, lines[-1].start(), stop)), default=0)
        for start in (begin, lines[-1].start()):
            index = exact_choice(text[start:stop], choices)
            if index is not None:
                return Extraction(index, _trimmed(text, start, stop), "alone", 0.9)
    if len(lines) > 1 and exact_choice(lines[1][0], choices) is None:
        index = exact_choice(lines[0][0], choices)
        if index is not None:
            return Extraction(index, _trimmed(text, *lines[0].span()), "alone", 0.9)
    return None


def _mentioned(text: str, mentions: Sequence[_Mention], choices: tuple[str, ...]) -> Extraction:
    denied = max((match.end() for match in _NO_ANSWER.finditer(text)), default=0)
    kept = [m for m in mentions if not m.heading and m.start >= denied]
    if kept and _agree(kept):
        return _read(kept[-1], "mention", 0.6)
    if kept and not denied and all(plain(choice).isdigit() for choice in choices):
        return _read(kept[-1], "mention", 0.3)
    if kept and not denied and len({m.choice for m in kept}) == 2:
        return _read(kept[0], "mention", 0.3)
    return Extraction(None, None, "none", 0.0)


def _read(mention: _Mention, rule: str, confidence: float) -> Extraction:
    return Extraction(mention.choice, (mention.start, mention.end), rule, confidence)


def _agree(mentions: Sequence[_Mention]) -> bool:
    return len({m.choice for m in mentions}) == 1


def _between(mentions: Sequence[_Mention], start: int, end: int) -> Sequence[_Mention]:
    first = bisect_left(mentions, start, key=lambda m: m.start)
    return mentions[first : bisect_left(mentions, end, lo=first, key=lambda m: m.start)]


def _sentence_ends(text: str) -> list[int]:
    """Where sentences end, in order, the end of the text last. A line that ends in a colon goes on in the next."""
    ends = [
        found.start()
        for found in _BREAK.finditer(text)
        if found[0][0] != "\n" or not text[max(0, found.start() - 8) : found.start()].rstrip(" \t*_").endswith(":")
    ]
    return [*ends, len(text)]


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
def _patterns(choices: tuple[str, ...]) -> tuple[re.Pattern[str], Mapping[str, int], re.Pattern[str]]:
    """The choices' texts as whole words, longest first; what each text stands for; letters that stand for choices.

    A leading "the" may be missing. "No" in front of another word ("no dog is visible") is no answer. Choices that are
    single letters are found by the last pattern alone.
    """
    texts = [(index, plain(choice)) for index, choice in enumerate(choices) if not _is_letter(choice)]
    shorter = [(index, words.removeprefix("the ")) for index, words in texts]
    index_of: dict[str, int] = {}
    for known in (texts, shorter):
        listed = [words for _, words in known]
        for index, words in known:
            if words and listed.count(words) == 1:
                index_of.setdefault(words, index)
    written = {*index_of, *(choice.strip() for choice in choices if not _is_letter(choice) and choice.strip())}
    joined = "|".join(
        r"\s+".join(re.escape(part) for part in words.split()) for words in sorted(written, key=len, reverse=True)
    )
    no_noun = r"(?!(?<=\bno)\s+(?!because\b|since\b|as\b)\w)"
    by_text = rf"(?<!\w)(?<!\d[.,])(?<!-)(?:{joined or '(?!)'})(?!\w)(?![.,]\d){no_noun}"
    named = len(choices) <= 26 and all(
        _is_letter(choice) or re.search(rf"\b{chr(ord('A') + index)}\b", choice)
        for index, choice in enumerate(choices)
    )
    nouns = f"{_NOUN}|{_THING}" if named else _NOUN
    by_letter = rf"\(([A-Za-z])\)|\b(?i:{nouns})[\s*_\"'`\u201c]+([A-Z])(?![\w'\u2019\-])"
    return re.compile(by_text, re.IGNORECASE), index_of, re.compile(by_letter)


def _all_mentions(text: str, choices: tuple[str, ...]) -> list[_Mention]:
    """Every choice mentioned, in order, none within another; "(A) left" is one where both say the same."""
    by_text, index_of, by_letter = _patterns(choices)
    found: list[_Mention] = []
    for match in by_text.finditer(text):
        words = match[0]
        index = choices.index(words) if words in choices else index_of.get(plain(words))
        if index is not None:
            found.append(_Mention(index, *match.span()))
    for match in by_letter.finditer(text):
        index = _by_letter(match[1] or match[2], choices)
        if index is not None:
            found.append(_Mention(index, *match.span(0 if match[1] else 2)))
    apart: list[_Mention] = []
    for mention in sorted(found, key=lambda m: (m.start, -m.end)):
        last = apart[-1] if apart else None
        if last is None or mention.start >= last.end:
            if (
                last
                and exact_choice(text[last.start : mention.end][:_SENTENCE], choices) == last.choice == mention.choice
            ):
                apart[-1] = replace(last, end=mention.end)
            else:
                apart.append(mention)
    return apart


def _mentions(text: str, choices: tuple[str, ...]) -> list[_Mention]:
    """What the text mentions and does not take back, in order (see `extract_choice`)."""
    found = _all_mentions(text, choices)
    ends = _sentence_ends(text) if found else []
    dropped: set[int] = set()
    for place, (one, other) in enumerate(pairwise(found)):
        near = other.start - one.end < _NEAR
        if near and one.choice != other.choice and _ALTERNATIVE.fullmatch(text, one.end, other.start):
            dropped |= {place, place + 1}
    headings: set[int] = set()
    for place, mention in enumerate(found):
        before = text[max(0, mention.start - _NEAR) : mention.start]
        if _NEGATED.search(before) or _DENIED.match(text, mention.end, mention.end + 2 * _NEAR):
            dropped.add(place)
        sentence = bisect_left(ends, mention.start)
        start = max(ends[sentence - 1] if sentence else 0, mention.start - _SENTENCE)
        if _OPEN_CHOICE.search(text, start, mention.start):
            dropped.add(place)
        bullet = _LINE_START.search(before if mention.start > _NEAR else "\n" + before)
        heads = _HEADS.match(text, mention.end, mention.end + _NEAR)
        if bullet and (bullet[1].strip() or text[mention.start] == "(" or heads):
            headings.add(place)
    listed = len({found[place].choice for place in headings}) > 1
    return [
        replace(mention, heading=listed and place in headings)
        for place, mention in enumerate(found)
        if place not in dropped
    ]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
