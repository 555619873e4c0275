"""Rates corrected for a judge's errors, from a random sample of the same answers that people labelled.

Without such a sample there is no corrected rate: a judge's errors on other answers say nothing of these.

| method | takes from the sample | source |
|---|---|---|
| prediction-powered | the judge's mean error | Angelopoulos et al. 2023, arXiv 2301.09633; PPI++, arXiv 2311.01453 |
| Rogan-Gladen | the judge's sensitivity and specificity | Rogan & Gladen 1978, Am. J. Epidemiology 107:71 |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from cleareyed.errors import InputError
from cleareyed.evaluation.stats import Estimate, Interval

FEWEST = 10
"""Labelled answers below which no corrected rate is given."""
DRAWS = 4000


@dataclass(frozen=True)
class Corrected:
    """A rate as a judge has it and as the labelled sample corrects it."""

    n: int
    labelled: int
    judged: float
    """The share that the judge declares, uncorrected."""
    rate: Estimate
    method: str


def prediction_powered(
    judged: Sequence[bool], labels: Sequence[bool], labelled: Sequence[int], confidence: float = 0.95
) -> Corrected:
    """The share of N answers that people would call declined: lambda mean(judge) + mean(label - lambda judge).

    judged (N,): what the judge says of all answers; labelled (n,): places of those that people labelled, drawn at
    random; labels (n,). lambda, from the sample, makes the variance least (PPI++, arXiv 2311.01453; clipped to 0..1),
    so that a poor judge is let alone. The interval is normal, cut to 0..1, and takes the rest of the answers and the
    sample as drawn independently; with everything labelled the rate is the labels'.

    InputError: fewer than `FEWEST` labels, or an answer labelled twice.
    """
    said, truth, places = _checked(judged, labels, labelled)
    rest = np.delete(said, places)  # (N - n,)
    sample = said[places]  # (n,)
    n, unlabelled = len(places), len(rest)
    if not unlabelled:
        rate = float(truth.mean())
        width = norm.ppf((1 + confidence) / 2) * math.sqrt(rate * (1 - rate) / n)
        return _corrected(said, n, rate, width, "prediction-powered")
    variance = float(sample.var(ddof=1))
    covariance = float(np.cov(truth, sample, ddof=1)[0, 1])
    weight = 0.0 if variance == 0 else min(1.0, max(0.0, covariance / (variance * (1 + n / unlabelled))))
    rate = float(weight * rest.mean() + (truth - weight * sample).mean())
    spread = weight**2 * float(rest.var(ddof=1) if unlabelled > 1 else variance) / unlabelled
    spread += float((truth - weight * sample).var(ddof=1)) / n
    return _corrected(said, n, rate, norm.ppf((1 + confidence) / 2) * math.sqrt(spread), "prediction-powered")


def rogan_gladen(
    judged: Sequence[bool],
    labels: Sequence[bool],
    labelled: Sequence[int],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> Corrected:
    """(share judged + specificity - 1) / (sensitivity + specificity - 1), cut to 0..1.

    Arguments as for `prediction_powered`. The interval is a bootstrap of the sample and of the answers together.

    InputError: fewer than `FEWEST` labels, or none of one kind, or a judge no better than chance on them.
    """
    said, truth, places = _checked(judged, labels, labelled)
    sample = said[places]
    if truth.all() or not truth.any():
        raise InputError("all labels are alike, which tells nothing of one kind of error; label more answers")
    found = _rogan_gladen(said.mean(), sample, truth)
    if math.isnan(found):
        raise InputError("on the labelled answers the judge is no better than chance; no rate can be made of it")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        again = rng.integers(0, len(places), len(places))
        share = said[rng.integers(0, len(said), len(said))].mean()
        drawn.append(_rogan_gladen(share, sample[again], truth[again]))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(np.array(drawn), tails)
    estimate = Estimate(found, Interval(float(low), float(high)))
    return Corrected(len(said), len(places), float(said.mean()), estimate, "Rogan-Gladen")


Floats = npt.NDArray[np.float64]


def _rogan_gladen(share: float, judged: Floats, truth: Floats) -> float:
    positive = truth == 1
    if positive.all() or not positive.any():
        return math.nan
    sensitivity, specificity = judged[positive].mean(), 1 - judged[~positive].mean()
    informed = sensitivity + specificity - 1
    return math.nan if informed <= 0 else float(min(1.0, max(0.0, (share + specificity - 1) / informed)))


def _checked(
    judged: Sequence[bool], labels: Sequence[bool], labelled: Sequence[int]
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    if len(labels) != len(labelled) or len(set(labelled)) != len(labelled):
        raise InputError(f"{len(labels)} labels for {len(set(labelled))} answers; give each labelled answer one label")
    if len(labels) < FEWEST:
        raise InputError(f"{len(labels)} labelled answers; no rate is corrected with fewer than {FEWEST}: label more")
    return np.array(judged, dtype=float), np.array(labels, dtype=float), np.array(labelled, dtype=np.int64)


def _corrected(said: Floats, labelled: int, rate: float, width: float, method: str) -> Corrected:
    interval = Interval(max(0.0, rate - width), min(1.0, rate + width))
    estimate = Estimate(min(1.0, max(0.0, rate)), interval)
    return Corrected(len(said), labelled, float(said.mean()), estimate, method)
