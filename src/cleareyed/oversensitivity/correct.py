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
from cleareyed.evaluation.stats import Estimate, Interval, wilson

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
    sample as drawn independently; with everything labelled it is Wilson's, of the labels. Where the sample shows no
    error of the judge, or holds one kind of label only, no variance says how rare the other is: Wilson's bound on what
    was not seen in n is added in quadrature.

    InputError: fewer than `FEWEST` labels, or an answer labelled twice.
    """
    said, truth, places = _checked(judged, labels, labelled)
    rest = np.delete(said, places)  # (N - n,)
    sample = said[places]  # (n,)
    n, unlabelled = len(places), len(rest)
    if not unlabelled:
        interval = wilson(int(truth.sum()), n, confidence)
        estimate = Estimate(float(truth.mean()), interval)
        return Corrected(len(said), n, float(said.mean()), estimate, "prediction-powered")
    variance = float(sample.var(ddof=1))
    covariance = float(np.cov(truth, sample, ddof=1)[0, 1])
    weight = 0.0 if variance == 0 else min(1.0, max(0.0, covariance / (variance * (1 + n / unlabelled))))
    rate = float(weight * rest.mean() + (truth - weight * sample).mean())
    spread = weight**2 * float(rest.var(ddof=1) if unlabelled > 1 else variance) / unlabelled
    spread += float((truth - weight * sample).var(ddof=1)) / n
    width = norm.ppf((1 + confidence) / 2) * math.sqrt(spread)
    if np.ptp(truth) == 0 or (truth == sample).all():
        width = math.hypot(width, wilson(0, n, confidence).high)
    estimate = Estimate(min(1.0, max(0.0, rate)), Interval(max(0.0, rate - width), min(1.0, rate + width)))
    return Corrected(len(said), n, float(said.mean()), estimate, "prediction-powered")


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

    Arguments as for `prediction_powered`. For the interval the three shares are drawn from their posteriors under
    Jeffreys' prior, Beta(k + 1/2, n - k + 1/2), so that a sample without errors does not rule them out.

    InputError: fewer than `FEWEST` labels, or none of one kind, or a judge no better than chance on them.
    """
    said, truth, places = _checked(judged, labels, labelled)
    sample = said[places]
    if truth.all() or not truth.any():
        raise InputError("all labels are alike, which tells nothing of one kind of error; label more answers")
    positive = truth == 1
    counts = np.array([said.sum(), sample[positive].sum(), (1 - sample[~positive]).sum()])
    totals = np.array([len(said), positive.sum(), (~positive).sum()])
    found = float(_rogan_gladen(*(counts / totals)))
    if math.isnan(found):
        raise InputError("on the labelled answers the judge is no better than chance; no rate can be made of it")
    rng = np.random.default_rng(seed)
    drawn = rng.beta(counts + 0.5, totals - counts + 0.5, (draws, 3)).T  # (3, draws)
    low, high = np.nanquantile(_rogan_gladen(*drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    estimate = Estimate(found, Interval(float(low), float(high)))
    return Corrected(len(said), len(places), float(said.mean()), estimate, "Rogan-Gladen")


Floats = npt.NDArray[np.float64]


def _rogan_gladen(share: Floats, sensitivity: Floats, specificity: Floats) -> Floats:
    """Elementwise; nan where the judge is no better than chance."""
    informed = sensitivity + specificity - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(informed > 0, np.clip((share + specificity - 1) / informed, 0.0, 1.0), np.nan)


def _checked(
    judged: Sequence[bool], labels: Sequence[bool], labelled: Sequence[int]
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    if len(labels) != len(labelled) or len(set(labelled)) != len(labelled):
        raise InputError(f"{len(labels)} labels for {len(set(labelled))} answers; give each labelled answer one label")
    if len(labels) < FEWEST:
        raise InputError(f"{len(labels)} labelled answers; no rate is corrected with fewer than {FEWEST}: label more")
    return np.array(judged, dtype=float), np.array(labels, dtype=float), np.array(labelled, dtype=np.int64)
