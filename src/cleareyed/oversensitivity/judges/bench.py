"""How far judges agree with labels: every judge on every labelled set at hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleareyed.evaluation.stats import Interval, share_interval
from cleareyed.oversensitivity.judges.fit import fit_own, material
from cleareyed.oversensitivity.judges.lexical import PREFIXES, LexicalJudge
from cleareyed.oversensitivity.judges.local import DECLINES, local_judge
from cleareyed.oversensitivity.judges.model import STATES
from cleareyed.oversensitivity.judges.nested import macro_f1, out_of_fold
from cleareyed.oversensitivity.judges.sources import (
    Labelled,
    chatgpt_refusals,
    mossbench_readings,
    pyrit,
    three,
    xstest,
)
from cleareyed.oversensitivity.outcomes import DECLINED, Answered, Judge, Judgement, Outcome

BINS = 10


@dataclass(frozen=True)
class Agreement:
    """A judge on a set; shares are None where the set has no such labels."""

    judge: str
    labels: str
    note: str
    """What the judge had seen of the set."""
    n: int
    compliance: float | None
    """Full compliance or not."""
    compliance_interval: Interval | None
    three: float | None
    three_interval: Interval | None
    declined: float
    declined_interval: Interval
    kappa: float
    """Cohen's, on three classes, or on declined or not where there are two."""
    kappa_interval: Interval
    macro_f1: float | None
    partial_recall: float | None
    partials: int
    refusal_or_capability: float | None
    """Of the answers labelled refusal or capability and judged to be one of them: which of the two."""
    refusal_or_capability_n: int
    calibration_error: float | None
    """Expected, of the probability that the answer declines, in ten bins."""
    recall: Mapping[str, tuple[int, int]]
    """By label: right and all."""


def agreement(
    judge: str,
    labels: str,
    note: str,
    truth: Sequence[Outcome],
    said: Sequence[Judgement],
    groups: Sequence[str],
    binary: bool = False,
    graded: bool = False,
) -> Agreement:
    """The figures of one judge on one set; `binary` sets know declined or not only, `graded` judges give
    probabilities. `groups` (N,): answers to one prompt."""
    found = [one.state for one in said]
    declined = [state in DECLINED for state in truth]
    same = [(state in DECLINED) == yes for state, yes in zip(found, declined, strict=True)]
    true3, said3 = [three(state) for state in truth], [three(state) for state in found]
    if binary:
        pairs = [(str(a), str(b in DECLINED)) for a, b in zip(declined, found, strict=True)]
    else:
        pairs = [(str(a), str(b)) for a, b in zip(true3, said3, strict=True)]
    full = [(a == "complied") == (b == "complied") for a, b in zip(true3, said3, strict=True)]
    exact = [a == b for a, b in zip(true3, said3, strict=True)]
    partial = [b == "partial" for a, b in zip(true3, said3, strict=True) if a == "partial"]
    both = [
        a == b
        for a, b in zip(truth, found, strict=True)
        if a in ("refusal", "capability") and b in ("refusal", "capability")
    ]
    scored = [
        (one.refusal_probability, yes)
        for one, yes in zip(said, declined, strict=True)
        if one.refusal_probability is not None
    ]
    return Agreement(
        judge=judge,
        labels=labels,
        note=note,
        n=len(truth),
        compliance=None if binary else float(np.mean(full)),
        compliance_interval=None if binary else share_interval(full, groups),
        three=None if binary else float(np.mean(exact)),
        three_interval=None if binary else share_interval(exact, groups),
        declined=float(np.mean(same)),
        declined_interval=share_interval(same, groups),
        kappa=kappa(pairs),
        kappa_interval=_kappa_interval(pairs, groups),
        macro_f1=None if binary else macro_f1(true3, said3),
        partial_recall=float(np.mean(partial)) if partial and not binary else None,
        partials=len(partial),
        refusal_or_capability=float(np.mean(both)) if both and "capability" in truth else None,
        refusal_or_capability_n=len(both),
        calibration_error=calibration_error(*zip(*scored, strict=True)) if graded and scored else None,
        recall={
            state: (sum(a == b == state for a, b in zip(truth, found, strict=True)), truth.count(state))
            for state in dict.fromkeys(truth)
        }
        if not binary
        else {},
    )


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's (1960): agreement beyond what the marginals give, 1 where there is one class only and it agrees."""
    agreed = sum(a == b for a, b in pairs) / len(pairs)
    names = {name for pair in pairs for name in pair}
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    chance = sum(first.count(name) * second.count(name) for name in names) / len(pairs) ** 2
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)


def _kappa_interval(
    pairs: Sequence[tuple[str, str]], groups: Sequence[str], draws: int = 1000, seed: int = 0
) -> Interval:
    names = sorted({name for pair in pairs for name in pair})
    clusters: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        clusters.setdefault(group or f"#{index}", []).append(index)
    tables = np.zeros((len(clusters), len(names), len(names)))
    for at, members in enumerate(clusters.values()):
        for index in members:
            tables[at, names.index(pairs[index][0]), names.index(pairs[index][1])] += 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=draws)
    drawn = np.einsum("dc,cij->dij", times, tables)
    drawn /= drawn.sum((1, 2), keepdims=True)
    agreed = np.einsum("dii->d", drawn)
    chance = (drawn.sum(1) * drawn.sum(2)).sum(1)
    values = np.where(chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1), 1.0)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def calibration_error(probabilities: Sequence[float], happened: Sequence[bool]) -> float:
    """Expected calibration error: by bins of equal width, |mean probability - share| weighed by their size.

    Naeini, Cooper & Hauskrecht (2015), AAAI.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(happened, dtype=np.float64)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(sum(abs(p[bins == b].sum() - y[bins == b].sum()) for b in range(BINS)) / len(p))


def bench(
    root: Path,
    pyrit_files: Sequence[Path] = (),
    others: Sequence[Judge] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Agreement]:
    """Every judge on every set under `root`. InputError as `sources.py` raises it."""
    plain_judges: list[Judge] = [*(LexicalJudge(name) for name in PREFIXES), *others]
    rows: list[Agreement] = []
    asked = xstest(root)
    own = fit_own()
    found = out_of_fold(own, material(own, asked), progress)
    states = [one.state for one in asked]
    prompts = [one.answered.id.split("/")[1] for one in asked]
    said = [
        Judgement(one.answered.id, STATES[state], float(row[DECLINES].sum()), "")
        for one, row, state in zip(asked, found.table, found.states.tolist(), strict=True)
    ]
    rows.append(agreement("local", "xstest", "out of fold", states, said, prompts, graded=True))
    for model in dict.fromkeys(one.model for one in asked):
        at = [index for index, one in enumerate(asked) if one.model == model]
        part = ([states[index] for index in at], [said[index] for index in at], [prompts[index] for index in at])
        rows.append(agreement("local", f"xstest {model}", "out of fold", *part, graded=True))
    rows += [_run(judge, "xstest", "nothing", asked, prompts) for judge in plain_judges]

    labelled = chatgpt_refusals(root)
    texts = [one.answered.response for one in labelled]
    rows.append(_run(local_judge(), "chatgpt-refusals", "nothing", labelled, texts, graded=True, binary=True))
    rows += [_run(judge, "chatgpt-refusals", "nothing", labelled, texts, binary=True) for judge in plain_judges]

    for path in pyrit_files:
        held = pyrit(path)
        rows += [_pyrit(judge, path, held) for judge in (local_judge(), *plain_judges)]

    if (root / "mossbench" / "readings.json").is_file():
        readings = mossbench_readings(root)
        ids = [one.answered.id for one in readings]
        rows.append(_run(local_judge(), "mossbench readings", "nothing", readings, ids, graded=True))
        for model in dict.fromkeys(one.model for one in readings):
            own_part = [one for one in readings if one.model == model]
            names = [one.answered.id for one in own_part]
            rows.append(_run(local_judge(), f"mossbench {model}", "nothing", own_part, names, graded=True))
        rows += [_run(judge, "mossbench readings", "nothing", readings, ids) for judge in plain_judges]
    return rows


def _run(
    judge: Judge,
    labels: str,
    note: str,
    held: Sequence[Labelled],
    groups: Sequence[str],
    graded: bool = False,
    binary: bool = False,
) -> Agreement:
    said = judge.judge([one.answered for one in held])
    return agreement(judge.name, labels, note, [one.state for one in held], said, groups, binary, graded)


def _pyrit(judge: Judge, path: Path, held: Sequence[tuple[Answered, bool]]) -> Agreement:
    answers = [answered for answered, _ in held]
    truth: list[Outcome] = ["refusal" if refusal else "complied" for _, refusal in held]
    said = judge.judge(answers)
    graded = judge.name == "local"
    return agreement(
        judge.name, f"pyrit {path.stem}", "nothing", truth, said, [""] * len(held), binary=True, graded=graded
    )
