"""Choosing a setting for the embedded judge, and predicting every answer by a judge that saw neither its model nor its
prompt type, with every choice made inside the answers that judge was fitted on (nested cross-validation).

An outer fold holds out one model's answers to one type of prompt (and its contrast type). Its judge is fitted on the
other models' answers to the other types. Which of `SETTINGS`, which temperature and which weight of a partial refusal:
by the answers of that training part alone, each predicted by a judge that was fitted on the training part's answers to
types other than its own. Such an inner fit (all models but one, all types but two) serves two outer folds and is made
once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from cleareyed.oversensitivity.judges.features import Floats
from cleareyed.oversensitivity.judges.fit import SETTINGS, Choice, Material, Own, Setting, fit_answers
from cleareyed.oversensitivity.judges.hashing import Ints
from cleareyed.oversensitivity.judges.model import IN_THREE, STATES, states_of, temper

TEMPERATURES = tuple(np.round(np.arange(0.3, 1.6, 0.1), 1).tolist())
PARTIALS = (1.0, 1.5, 2.0, 3.0)
_FLOOR = 1e-9
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Predicted:
    """Answers (N) predicted out of fold."""

    table: Floats
    """(N, C), calibrated."""
    states: Ints
    """(N,): columns of `STATES`."""
    choices: Sequence[Choice]
    """One an outer fold."""


def out_of_fold(
    own: Own,
    people: Material,
    chat: Material,
    settings: Sequence[Setting] = SETTINGS,
    progress: Progress = None,
) -> Predicted:
    """Every answer of `people` by the nested choice."""
    inner = [
        _inner(setting, own, people, chat, progress, done, len(settings)) for done, setting in enumerate(settings)
    ]
    truth = IN_THREE[people.states].argmax(1)
    table = np.zeros((len(truth), len(STATES)), dtype=np.float32)
    states, choices = np.zeros(len(truth), dtype=np.int64), []
    names, groups = _names(people)
    for at, model in enumerate(names):
        for without, group in enumerate(groups):
            held = np.flatnonzero((people.models == model) & (people.groups == group))
            if not len(held):
                continue
            rows = np.flatnonzero((people.models != model) & (people.groups != group))
            choice = choose(settings, [one[at, without, rows] for one in inner], truth[rows])
            table[held] = temper(_held_out(choice.setting, own, people, chat, held), choice.temperature)
            states[held] = states_of(table[held], choice.partial)
            choices.append(choice)
    return Predicted(table, states, choices)


def choose_for_all(
    own: Own,
    people: Material,
    chat: Material,
    settings: Sequence[Setting] = SETTINGS,
    progress: Progress = None,
) -> Choice:
    """The choice for a judge fitted on all of `people`, of whom each answer is predicted by judges that were fitted on
    the other models' answers to the other types."""
    said = []
    names, groups = _names(people)
    for done, setting in enumerate(settings):
        table = np.zeros((len(people.states), len(STATES)), dtype=np.float32)
        for model in names:
            for group in groups:
                held = np.flatnonzero((people.models == model) & (people.groups == group))
                if len(held):
                    table[held] = _held_out(setting, own, people, chat, held)
        said.append(table)
        if progress is not None:
            progress(done + 1, len(settings))
    return choose(settings, said, IN_THREE[people.states].argmax(1))


def choose(settings: Sequence[Setting], said: Sequence[Floats], truth: Ints) -> Choice:
    """The first setting that is not worse than the best one by more than a standard error, by what is aimed at: the
    mean of two shares, complied or not and three classes. Likewise its weight of a partial refusal. Its temperature is
    the one with the best likelihood of the classes. `said` (settings, N, C); `truth` (N,): columns of `CLASSES`.

    The rule of one standard error: Breiman, Friedman, Olshen & Stone (1984), 3.4.3; here of the paired difference.
    """
    tables = []
    for predicted in said:
        losses = [_loss(temper(predicted, temperature), truth) for temperature in TEMPERATURES]
        temperature = TEMPERATURES[int(np.argmin(losses))]
        tables.append((temperature, temper(predicted, temperature)))
    at = _simplest([_right(states_of(table, 1.0), truth) for _, table in tables])
    temperature, table = tables[at]
    weight = _simplest([_right(states_of(table, weight), truth) for weight in PARTIALS])
    return Choice(settings[at], temperature, PARTIALS[weight])


def _simplest(scores: Sequence[npt.NDArray[np.float64]]) -> int:
    """The first of the scores (N,) that is not worse than the best by more than a standard error of the difference."""
    best = max(scores, key=lambda one: float(one.mean()))
    apart = [best - one for one in scores]
    return next(at for at, one in enumerate(apart) if one.mean() <= one.std() / len(one) ** 0.5)


def _loss(table: Floats, truth: Ints) -> float:
    likely = (table @ IN_THREE)[np.arange(len(truth)), truth]
    return -float(np.log(np.maximum(likely, _FLOOR)).mean())


def _right(states: Ints, truth: Ints) -> npt.NDArray[np.float64]:
    """(N,): whether it is right on complied or not, and on the three classes; half for one of them."""
    found = IN_THREE[states].argmax(1)
    right: npt.NDArray[np.float64] = (((found == 0) == (truth == 0)).astype(float) + (found == truth)) / 2
    return right


def _held_out(setting: Setting, own: Own, people: Material, chat: Material, held: Ints) -> Floats:
    """(H, C): the answers `held`, of one model and type, by a judge that saw neither."""
    seen = (people.models != people.models[held[0]]) & (people.groups != people.groups[held[0]])
    fitted = fit_answers(setting, own, people, np.flatnonzero(seen), chat)
    return fitted.probabilities((people.asked if setting.asks else people.bare)[held])


def _inner(
    setting: Setting, own: Own, people: Material, chat: Material, progress: Progress, done: int, settings: int
) -> Floats:
    """(M, G, N, C): answer n by a judge fitted on all models but m, without the type g and without n's own."""
    names, groups = _names(people)
    table = np.full((len(names), len(groups), len(people.states), len(STATES)), np.nan, dtype=np.float32)
    features = people.asked if setting.asks else people.bare
    for at, model in enumerate(names):
        for first, second in combinations(range(len(groups)), 2):
            pair, seen = np.isin(people.groups, (groups[first], groups[second])), people.models != model
            rows, held = np.flatnonzero(seen & ~pair), np.flatnonzero(seen & pair)
            other = np.where(people.groups[held] == groups[first], second, first)
            table[at, other, held] = fit_answers(setting, own, people, rows, chat).probabilities(features[held])
        if progress is not None:
            progress(done * len(names) + at + 1, settings * len(names))
    return table


def _names(people: Material) -> tuple[list[str], list[str]]:
    """Models and groups, in the order in which they occur."""
    return list(dict.fromkeys(people.models.tolist())), list(dict.fromkeys(people.groups.tolist()))
