"""Rules of other harnesses, for comparing figures with theirs; not offered as rewards."""

import re
from collections.abc import Mapping

from cleareyed.scoring.rules import OUTCOME_RULES, RULES, Rule, Verdict
from cleareyed.tasks.names import unknown
from cleareyed.tasks.task import Sample

_OPENING = " \t\r\n\f\v("


def lmms_eval(text: str, sample: Sample) -> Verdict:
    """lmms-eval's matcher of CV-Bench and BLINK: the text's first letter, round brackets and blanks before it aside.

    Its quirks stay: the letter may begin any word, so "The answer is (B)" says T and "A chair, so (B)" says A; a text
    that begins with anything else, a tag or a digit, says nothing. What is extracted is the choice of that letter, or
    the letter itself where there is no such choice.
    """
    first = text.lstrip(_OPENING)[:1]
    letter = first.upper() if re.fullmatch("[A-Za-z]", first) else ""
    if not letter:
        return Verdict(False, None)
    index = ord(letter) - ord("A")
    stated = sample.choices[index] if index < len(sample.choices) else letter
    return Verdict(index < len(sample.choices) and stated == sample.answer, stated)


HARNESS_RULES: Mapping[str, Rule] = {"lmms-eval": lmms_eval}


def protocol_rule(name: str) -> Rule:
    """The rule of that name among ours and other harnesses'; InputError naming the nearest if there is none."""
    known = {**RULES, **OUTCOME_RULES, **HARNESS_RULES}
    if name not in known:
        raise unknown("accuracy rule", name, known)
    return known[name]
