"""An answer's text, made fit to be judged: thoughts and markup taken away, quotes made plain, sentences cut."""

import re
import unicodedata

from cleareyed.evaluation.answers import clean_text

LONGEST = 20_000
"""Characters of an answer that are looked at: so many from its beginning, and half as many from its end."""

PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201b": "'",
        "\u02bc": "'",
        "\u00b4": "'",
        "`": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": " - ",
        "\u2026": "...",
        "\u00a0": " ",
        "\u200b": "",
        "\ufeff": "",
    }
)
THOUGHT_BEGINS = re.compile(r"<(think|thinking|thought|reasoning)>", re.I)
THOUGHT_ENDS = {name: re.compile(f"</{name}>", re.I) for name in ("think", "thinking", "thought", "reasoning")}
OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*\Z", re.S | re.I)
END_THOUGHT = re.compile(r"\A.*</(think|thinking|thought|reasoning)>", re.S | re.I)
TAG = re.compile(r"<\|[^|>]{1,40}\|>|</?[a-zA-Z][^<>]{0,200}>|\[/?INST\]|</?s>")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\n\d\.)(?<!\n\d\d\.)['\")\]]*\s+|\s*\n\s*")
"""The number of a list's item, at the beginning of its line, is no sentence."""
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
ITEM = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*\u2022])\s+", re.M)

_STOP = (
    "a about again all also am an and any are as at be because been being best better both but by can could did "
    "do does doing down each every few for from get gets give had has have he her here him his how i if in into "
    "is it its just kind let like make makes many may me might more most much must my need new no not now of off "
    "on one only or other our out over people person please really say she should so some something such tell "
    "than that the their them then there these they thing things this those to too up us use used using very want "
    "was way ways we were what when where which while who whom whose why will with would write you your"
)
STOP = frozenset(_STOP.split())
"""Words that are in many texts and say little."""


def plain(text: str) -> str:
    """What the answer says: without thoughts (closed ones, or all before a lone `</think>`), tags and fancy quotes.

    A thought that never closes leaves nothing behind it: the model did not come to an answer.
    """
    text = unicodedata.normalize("NFC", clean_text(text)).translate(PLAIN)
    text = without_thoughts(text)
    text = END_THOUGHT.sub(" ", text)
    text = OPEN_THOUGHT.sub(" ", text)
    text = TAG.sub(" ", text).strip()
    if len(text) > LONGEST + LONGEST // 2:
        text = text[:LONGEST] + "\n" + text[-LONGEST // 2 :]
    return text


def without_thoughts(text: str) -> str:
    """Closed thoughts as blanks, in time that grows with the text: an end is looked for once where there is none."""
    parts, kept, place = list[str](), 0, 0
    endless = set[str]()
    while (begins := THOUGHT_BEGINS.search(text, place)) is not None:
        name, place = begins[1].lower(), begins.end()
        if name in endless:
            continue
        ends = THOUGHT_ENDS[name].search(text, place)
        if ends is None:
            endless.add(name)
            continue
        parts += [text[kept : begins.start()], " "]
        kept = place = ends.end()
    return "".join([*parts, text[kept:]])


def sentences(text: str) -> list[str]:
    """The sentences and lines of a plain text, in order; none that holds no word."""
    return [part for part in SENTENCE_END.split("\n" + text) if WORD.search(part)]


def words(text: str) -> list[str]:
    """Lower-case words; an apostrophe inside a word belongs to it."""
    return WORD.findall(text.lower())
