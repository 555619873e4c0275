"""What is known of the thinking, as tables of words: for the console and for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cleareyed.report.words import MISSING, number, p_value, percent, percent_range, points, points_range, visible
from cleareyed.thinking.collect import Thinking
from cleareyed.thinking.gains import ARMS, AS_IS, Gain
from cleareyed.thinking.items import Measured
from cleareyed.thinking.length import Lengths
from cleareyed.thinking.reflection import revision

EXAMPLE = 600
"""Characters of an example that are shown, around what reflects."""


@dataclass(frozen=True)
class Sheet:
    """A table in words; the first cell of a row is its heading."""

    title: str
    sentence: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """Everything that is said of the thinking."""

    verdicts: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    examples: tuple[tuple[str, str], ...]
    """Where from, and the text."""
    left_out: str
    """What is in no figure, in a sentence; empty if nothing."""


def page_of(found: Thinking) -> Page:
    verdicts = [f"{name}: {one.sentence}" for name, one in found.necessity.items()]
    for name, seen in found.sight.items():
        if seen.sight is not None:
            verdicts.append(f"{name}: the sight gain is {_gain(seen.sight)} points, against {seen.sight.arm}.")
    sheets = (_lengths(found), _reflection(found), _rises(found), _arms(found), _quality(found), _forms(found))
    shown = [
        (where, _excerpt(item.text, item.choices, item.gold)) for where, of in found.examples.items() for item in of
    ]
    left = ", ".join(f"{count:,} {why}" for why, count in found.left_out.items())
    return Page(
        tuple(map(visible, verdicts)),
        tuple(sheet for sheet in sheets if sheet.rows),
        tuple((visible(where), visible(text)) for where, text in shown),
        f"In no figure: {left}." if left else "",
    )


def _lengths(found: Thinking) -> Sheet:
    units = {one.lengths.all.unit for one in found.measures.values()}

    def row(name: str, of: Lengths) -> tuple[str, ...]:
        cells = (_mean(of.thought), _mean(of.answer), _mean(of.whole), _share(of.cut_off))
        return (name, *cells, number(of.answer.n if of.answer else 0))

    rows = []
    for name, one in found.measures.items():
        parts = (("", one.lengths.all), (", right", one.lengths.right), (", wrong", one.lengths.wrong))
        rows += [row(name + end, of) for end, of in parts if of.answer is not None]
    unit = " and ".join(sorted(units)) or "tokens"
    return Sheet(
        "Length",
        f"Mean {unit} of thought and answer, mean tokens of the whole, and % cut off, with 95 % intervals.",
        ("answers", f"thought ({unit})", f"answer ({unit})", "whole (tokens)", "cut off", "n"),
        tuple(rows),
    )


def _reflection(found: Thinking) -> Sheet:
    names = list(next(iter(found.measures.values())).reflection.rates) if found.measures else []
    rows = []
    for name, one in found.measures.items():
        of = one.reflection
        outcomes = f"{of.helped} / {of.hurt} / {of.nothing}"
        excluded = f"{of.other_language} / {of.without_choices}"
        rows.append((name, *(_share(of.rates[key]) for key in names), outcomes, excluded))
    return Sheet(
        "Reflection",
        "Share in % that reflects, by three definitions that are not comparable; revisions that helped, hurt, or "
        "changed nothing; left out for another language, and of `revision` alone for want of choices.",
        ("answers", *names, "helped / hurt / nothing", "left out"),
        tuple(rows),
    )


def _rises(found: Thinking) -> Sheet:
    rows = []
    for name, by_definition in found.rises.items():
        for definition, rise in by_definition.items():
            (_, hits, n), (_, last_hits, last_n) = rise.rates[0], rise.rates[-1]
            first = "never" if rise.step is None else f"step {rise.step}"
            rows.append(
                (
                    f"{name}: {definition}",
                    f"{hits} of {n}",
                    f"{last_hits} of {last_n}",
                    first,
                    p_value(min(rise.p)) if rise.p else MISSING,
                    "yes" if rise.lasts else "no",
                )
            )
    return Sheet(
        "When reflection rises",
        "The first step with a rate above that of the first: Fisher's exact test, one-sided, Holm over steps. Items "
        "count as independent: too careful for a fixed probe set, too rash for rollouts of the same prompts.",
        ("answers", "at first", "at last", "rises at", "smallest p (Holm)", "still above at the last"),
        tuple(rows),
    )


def _arms(found: Thinking) -> Sheet:
    rows = []
    for name in found.necessity:
        needed, seen = found.necessity[name], found.sight[name]
        accuracy: Mapping[str, Measured] = {**needed.accuracy, **seen.accuracy}
        gains: Mapping[str, Gain] = {**needed.gains, **seen.gains}
        for arm in ARMS:
            if arm in accuracy:
                title = f"{name}: {arm}" if arm == AS_IS or len(found.necessity) > 1 else arm
                gain = _gain(gains[arm]) if arm in gains else ""
                agreement = _share(seen.agreement[arm]) if arm in seen.agreement else ""
                tokens = number(needed.tokens.get(arm), 1)
                rows.append((title, _share(accuracy[arm]), gain, agreement, tokens, number(accuracy[arm].n)))
    return Sheet(
        "What thought and picture are worth",
        "Accuracy in %, read behind the thought in any form; the gain of what was changed, in points, "
        "paired and clustered; share in % that gives the same answer; mean tokens, what was put there included.",
        ("change", "accuracy", "gain", "agreement", "tokens", "n"),
        tuple(rows),
    )


def _quality(found: Thinking) -> Sheet:
    rows = []
    for name, one in found.measures.items():
        same, worn = one.consistency, one.degeneration
        rows.append(
            (
                name,
                _share(same.agree),
                _share(same.right_thought),
                f"{same.unread} / {same.without}",
                _share(worn.repeated),
                _mean(worn.compression, 2),
                _share(worn.degenerate),
            )
        )
    return Sheet(
        "Consistency and degeneration",
        "Share in % whose answer is their thought's own conclusion, and whose thought concludes rightly; not read, "
        "and without a thought or choices; repeated 4-grams in %; compression ratio (zlib); share of long texts that "
        "mostly repeat themselves.",
        ("answers", "consistent", "right thought", "left out", "repeated", "compression", "degenerate"),
        tuple(rows),
    )


def _forms(found: Thinking) -> Sheet:
    names = list(dict.fromkeys(form for one in found.measures.values() for form in one.forms))
    return Sheet(
        "Form of the records",
        "How many have which tags: thoughts that are closed, empty, in several blocks, never closed, opened by the "
        "prompt, or none; besides, those in another language.",
        ("answers", *names),
        tuple((name, *(number(one.forms.get(form, 0)) for form in names)) for name, one in found.measures.items()),
    )


def _mean(found: Measured | None, decimals: int = 1) -> str:
    if found is None:
        return MISSING
    low, high = (number(end, decimals) for end in (found.interval.low, found.interval.high))
    return f"{number(found.value, decimals)} ({low} to {high})"


def _share(found: Measured | None) -> str:
    if found is None:
        return MISSING
    return f"{percent(found.value)} ({percent_range(found.interval.low, found.interval.high)})"


def _gain(found: Gain) -> str:
    interval = found.paired.interval
    return f"{points(found.paired.difference)} ({points_range(interval.low, interval.high)})"


def _excerpt(text: str, choices: tuple[str, ...], gold: str) -> str:
    second = revision(text, choices, gold)
    if len(text) <= EXAMPLE:
        return text
    start = max(0, second.span[0] - EXAMPLE // 2) if second else 0
    return ("…" if start else "") + text[start : start + EXAMPLE] + "…"


def plain_rows(sheet: Sheet) -> Sequence[tuple[str, ...]]:
    """The rows with what may hide or reorder text made visible."""
    return [tuple(map(visible, row)) for row in sheet.rows]
