"""Two runs on the same items: how far they differ in what they got right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import State
from cleareyed.evaluation.power import design_effect, smallest_paired
from cleareyed.evaluation.ranks import holm
from cleareyed.evaluation.stats import Paired, exact_paired, group_numbers, paired
from cleareyed.records.rows import AnswerMark, AnswerRow

Key = tuple[str, str]
"""Task and sample id."""
UNJUDGED: tuple[State, ...] = ("filtered", "refused-by-api", "failed")
"""States without an answer to judge: neither right nor wrong."""


@dataclass(frozen=True)
class Tested:
    """Two answerers on the items both answered."""

    paired: Paired
    p: float
    """Two-sided and exact; whole groups swap where items share groups, else this is McNemar's."""
    p_holm: float
    """Adjusted for all skills of the comparison; `p` for the whole."""


@dataclass(frozen=True)
class Comparison:
    rules: tuple[str, str]
    whole: Tested
    by_skill: Mapping[str, Tested]
    """Empty where all items are of one skill."""
    grouped: bool
    """Whether items share groups."""
    gained: tuple[Key, ...]
    """Wrong in the first, right in the second."""
    lost: tuple[Key, ...]
    detectable: float | None
    """The smallest true difference that would be found 4 times in 5, with so many items and changes; None if none."""
    only_first: tuple[Key, ...]
    only_second: tuple[Key, ...]
    unjudged_first: Mapping[str, int]
    """By state: shared items that the first has no answer to. They are left out of every figure above."""
    unjudged_second: Mapping[str, int]
    """The same of the second."""
    regrouped: int
    """Items whose group differs between the runs; the first's is used."""


def compare_runs(
    first: Sequence[AnswerRow],
    second: Sequence[AnswerRow],
    rule: str = "strict",
    second_rule: str | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Comparison:
    """Compare two sets of answers item by item, an item being a task and a sample id.

    The second is judged under `second_rule`, or under `rule` too. The interval of the difference is a bootstrap by
    group of `draws` draws. Items that only one run has, or that one has no answer to, are counted and left out.

    Raises:
        InputError: a run answers an item twice, or was not judged under its rule; or no item is left to compare.
    """
    rules = (rule, second_rule or rule)
    pairs = align(first, second)
    kept = [(one, two) for one, two in pairs if judged(one) and judged(two)]
    if not kept:
        raise InputError(
            f"answers of {_names(first)} and of {_names(second)}: none of the {len(pairs)} shared samples is answered "
            "in both; compare runs of the same task"
        )
    verdicts = [(verdict_of(one, rules[0]), verdict_of(two, rules[1])) for one, two in kept]
    groups = [one.group for one, _ in kept]
    skills = sorted({one.skill for one, _ in kept})
    parts = [[index for index, (one, _) in enumerate(kept) if one.skill == skill] for skill in skills]
    tests = [_tested(verdicts, groups, part, draws, seed) for part in parts] if len(skills) > 1 else []
    adjusted = holm([test.p for test in tests])
    whole = _tested(verdicts, groups, range(len(kept)), draws, seed)
    keys = {_key(one) for one, _ in pairs}
    return Comparison(
        rules=rules,
        whole=whole,
        by_skill={
            skill: Tested(test.paired, test.p, p) for skill, test, p in zip(skills, tests, adjusted, strict=False)
        },
        grouped=_grouped(groups),
        gained=tuple(_key(one) for (one, _), (a, b) in zip(kept, verdicts, strict=True) if b and not a),
        lost=tuple(_key(one) for (one, _), (a, b) in zip(kept, verdicts, strict=True) if a and not b),
        detectable=_detectable(verdicts, groups),
        only_first=tuple(key for key in map(_key, first) if key not in keys),
        only_second=tuple(key for key in map(_key, second) if key not in keys),
        unjudged_first=Counter(state_of(one) for one, _ in pairs if not judged(one)),
        unjudged_second=Counter(state_of(two) for _, two in pairs if not judged(two)),
        regrouped=sum(one.group != two.group for one, two in kept),
    )


def align(first: Sequence[AnswerRow], second: Sequence[AnswerRow]) -> list[tuple[AnswerRow, AnswerRow]]:
    """The rows of the items that both have, in the order of the first.

    Raises:
        InputError: one of them answers an item twice.
    """
    tables = []
    for rows in (first, second):
        table = {_key(row): row for row in rows}
        if len(table) < len(rows):
            (task, sample), times = Counter(map(_key, rows)).most_common(1)[0]
            raise InputError(
                f"answers of {_names(rows)}: sample '{sample}' of {task} is answered {times} times; "
                "choose one label and one step"
            )
        tables.append(table)
    return [(row, tables[1][key]) for key, row in tables[0].items() if key in tables[1]]


def state_of(row: AnswerMark) -> str:
    """The state of an answer; records without states hold answers only."""
    return row.state


def judged(row: AnswerMark) -> bool:
    """Whether there is an answer that can be right or wrong."""
    return state_of(row) not in UNJUDGED


def _tested(
    verdicts: Sequence[tuple[bool, bool]], groups: Sequence[str], part: Sequence[int], draws: int, seed: int
) -> Tested:
    one, two = [verdicts[index][0] for index in part], [verdicts[index][1] for index in part]
    own = [groups[index] for index in part]
    p = exact_paired(one, two, own)
    return Tested(paired(one, two, own, draws, seed), p, p)


def _detectable(verdicts: Sequence[tuple[bool, bool]], groups: Sequence[str]) -> float | None:
    differences = [float(b) - float(a) for a, b in verdicts]  # (N,)
    discordant = sum(map(abs, differences)) / len(differences)
    n = int(len(differences) / design_effect(differences, groups))
    return smallest_paired(n, discordant) if discordant and n else None


def _grouped(groups: Sequence[str]) -> bool:
    return len(set(group_numbers(groups).tolist())) < len(groups)


def verdict_of(row: AnswerRow, rule: str) -> bool:
    """Whether the answer is right under `rule`.

    Raises:
        InputError: it was not judged under that rule.
    """
    if rule not in row.correct:
        known = ", ".join(sorted(row.correct)) or "none"
        raise InputError(
            f"answers of '{row.label}': sample '{row.sample_id}' was not judged under rule '{rule}'; "
            f"choose one it was judged under: {known}"
        )
    return row.correct[rule]


def _key(row: AnswerRow) -> Key:
    return row.task, row.sample_id


def _names(rows: Sequence[AnswerRow]) -> str:
    return ", ".join(f"'{label}'" for label in dict.fromkeys(row.label for row in rows)) or "an empty run"
