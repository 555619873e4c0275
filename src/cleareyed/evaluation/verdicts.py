"""Answers as the few bytes a sample that figures are made of."""

from array import array
from collections import Counter
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cleareyed.errors import InputError
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.stats import Bools, Ints
from cleareyed.records.rows import AnswerMark
from cleareyed.tasks.names import number_of

WRONG, RIGHT, NOT_JUDGED = 0, 1, 2
JUDGED, WELL_FORMED, CUT_OFF = 1, 2, 4
ALONE = -1


class Verdicts:
    """Answers of one label, in the order they are added: 29 bytes a sample and one more for each rule.

    Names of samples, groups and gold answers are kept as their `number_of`. Add all, then ask.
    """

    def __init__(self, label: str, step: int) -> None:
        self.label, self.step = label, step
        self.unjudged: Counter[str] = Counter()
        """By state: answers that can be neither right nor wrong."""
        self.skills: list[str] = []
        """Whose places in this list `skill` holds; the empty name is one."""
        self.tokens = self.counted = 0
        """Tokens of the judged answers, and of how many of these they are known."""
        self._places: dict[str, int] = {}
        self._names, self._groups, self._golds = array("q"), array("q"), array("q")
        self._skills, self._flags = array("i"), bytearray()
        self._verdicts: dict[str, bytearray] = {}

    def add(self, mark: AnswerMark) -> None:
        is_judged = judged(mark)
        if not is_judged:
            self.unjudged[mark.state] += 1
        elif mark.tokens is not None:
            self.tokens += mark.tokens
            self.counted += 1
        if mark.skill not in self._places:
            self._places[mark.skill] = len(self.skills)
            self.skills.append(mark.skill)
        self._skills.append(self._places[mark.skill])
        self._names.append(number_of(mark.sample_id))
        self._groups.append(number_of(mark.group) if mark.group else ALONE)
        self._golds.append(number_of(mark.answer))
        for rule in mark.correct.keys() - self._verdicts.keys():
            self._verdicts[rule] = bytearray([NOT_JUDGED]) * len(self._flags)
        for rule, verdicts in self._verdicts.items():
            verdicts.append(int(mark.correct[rule]) if rule in mark.correct else NOT_JUDGED)
        self._flags.append(is_judged * JUDGED | mark.well_formed * WELL_FORMED | cut_off(mark) * CUT_OFF)

    def __len__(self) -> int:
        return len(self._flags)

    def __contains__(self, number: int) -> bool:
        """Whether the sample whose name has this `number_of` is among those judged or not."""
        at = int(np.searchsorted(self._sorted, number))
        return at < len(self._sorted) and int(self._sorted[at]) == number

    @cached_property
    def names(self) -> Ints:
        """(N,) `number_of` each sample's name."""
        return np.array(self._names, np.int64)

    @cached_property
    def groups(self) -> Ints:
        """(N,), as `stats.Groups`."""
        return np.array(self._groups, np.int64)

    @cached_property
    def skill(self) -> Ints:
        """(N,)"""
        return np.array(self._skills, np.int32)

    @cached_property
    def is_judged(self) -> Bools:
        """(N,)"""
        return self._flagged(JUDGED)

    @property
    def well_formed(self) -> Bools:
        """(N,)"""
        return self._flagged(WELL_FORMED)

    @property
    def cut_off(self) -> Bools:
        """(N,)"""
        return self._flagged(CUT_OFF)

    def right(self, rule: str) -> Bools:
        """(N,), false where there was nothing to judge. InputError if a judged answer was not judged under `rule`."""
        if not self.has(rule):
            rules = ", ".join(sorted(self._verdicts))
            raise InputError(
                f"answers of '{self.label}': not judged under rule '{rule}'; "
                f"choose one of {rules} or evaluate again with that rule"
            )
        return np.equal(self._held(rule), RIGHT)

    def has(self, rule: str) -> bool:
        """Whether all answers that can be judged were judged under `rule`."""
        return rule in self._verdicts and not bool((self._held(rule)[self.is_judged] == NOT_JUDGED).any())

    def twice(self) -> int | None:
        """`number_of` a sample that is answered twice; None if there is none."""
        again = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        return int(self._sorted[again[0]]) if len(again) else None

    def majority(self) -> tuple[int, float]:
        """`number_of` a sample with the most frequent gold answer (ties: the first), and the share that has it."""
        _, first, counts = np.unique(np.array(self._golds, np.int64), return_index=True, return_counts=True)
        most = counts.max()
        return int(self.names[first[counts == most].min()]), float(most / len(self))

    @cached_property
    def _sorted(self) -> Ints:
        return np.sort(self.names)

    def _flagged(self, flag: int) -> Bools:
        return (np.frombuffer(bytes(self._flags), np.uint8) & np.uint8(flag)).astype(bool)

    def _held(self, rule: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(bytes(self._verdicts[rule]), np.uint8)


def cut_off(mark: AnswerMark) -> bool:
    """Whether the answer ran into its longest length."""
    return mark.state == "cut-off" or mark.finish == "length"
