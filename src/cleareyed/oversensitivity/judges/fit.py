"""Fitting the embedded judge (`cleareyed judge train`) and predicting answers out of fold. Needs scikit-learn.

Sentences are read by a logistic regression fitted on our own sentences alone; what an answer's sentences do is read by
a forest fitted on the labelled answers and on answers composed of our own sentences. The
settings below stand for every fold; they were chosen by hand with out-of-fold figures in sight
(docs/results.md). The one quantity that is chosen, the temperature, is chosen inside the training
answers, by predicting each of their models from the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cleareyed.errors import InputError
from cleareyed.oversensitivity.judges.corpus import Composed, compose, own_sentences
from cleareyed.oversensitivity.judges.features import KINDS, WIDTH, Floats, Parsed, document, parse, parse_sentences
from cleareyed.oversensitivity.judges.model import STATES, Forest, JudgeModel, softmax, temper
from cleareyed.oversensitivity.judges.sources import Labelled

COMPOSED = 1500
FOLDS = 5
TREES = 100
LEAF = 3
SHARE_OF_FEATURES = 0.3
REGULARISATION = 30.0
"""C of the logistic regression over sentences."""
TEMPERATURES = tuple(np.round(np.arange(0.3, 1.55, 0.05), 2).tolist())
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Own:
    """What is fitted on our own sentences, and the answers composed of them."""

    weights: Floats
    bias: Floats
    features: Floats
    """(composed answers, F), their sentences read by a model that did not see the sentences' templates."""
    states: Ints


def fit_own(seed: int = 0, composed: int = COMPOSED) -> Own:
    made = own_sentences(seed)
    read = parse_sentences([sentence.text for sentence in made])
    rows = _sparse(read)
    kinds = np.array([KINDS.index("content" if one.kind == "premise" else one.kind) for one in made])
    weights = np.array([one.weight for one in made])
    templates = {template: index for index, template in enumerate(dict.fromkeys(one.template for one in made))}
    folds = np.random.default_rng(seed).permutation(len(templates)) % FOLDS
    fold = np.array([folds[templates[one.template]] for one in made])
    crossed = np.zeros((len(made), len(KINDS)), dtype=np.float32)
    for index in range(FOLDS):
        matrix, bias = _linear(rows[fold != index], kinds[fold != index], weights[fold != index])
        crossed[fold == index] = softmax((rows[fold == index] @ matrix + bias).astype(np.float32))
    matrix, bias = _linear(rows, kinds, weights)
    answers = compose(made, composed, seed)
    return Own(
        matrix.astype(np.float16).astype(np.float32),
        bias.astype(np.float32),
        np.stack([_composed(answer, read, crossed) for answer in answers]),
        np.array([STATES.index(answer.state) for answer in answers]),
    )


def _composed(answer: Composed, read: Parsed, crossed: Floats) -> Floats:
    chosen = list(answer.sentences)
    return document(read.lengths[chosen], crossed[chosen])


def answer_features(own: Own, labelled: Sequence[Labelled]) -> Floats:
    """(N, F)"""
    reader = JudgeModel(own.weights, own.bias, _NO_FOREST, 1.0)
    return np.stack([reader.features(parse(one.answered.response)) for one in labelled])


def fit_judge(own: Own, labelled: Sequence[Labelled], features: Floats, seed: int = 0) -> JudgeModel:
    """A judge fitted on these answers (N) with their features (N, F). Deterministic."""
    states = np.array([STATES.index(one.state) for one in labelled])
    temperature = _temperature(own, labelled, features, states, seed)
    return JudgeModel(own.weights, own.bias, _forest(own, features, states, seed), temperature)


def out_of_fold(
    own: Own,
    labelled: Sequence[Labelled],
    features: Floats,
    always: Sequence[Labelled],
    always_features: Floats,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> Floats:
    """(N, C): each answer predicted by a judge that saw neither its model nor its group; `always` is fitted on too."""
    models = np.array([one.model for one in labelled])
    groups = np.array([one.group for one in labelled])
    found = np.zeros((len(labelled), len(STATES)), dtype=np.float32)
    cells = [(model, group) for model in dict.fromkeys(models) for group in dict.fromkeys(groups)]
    for done, (model, group) in enumerate(cells):
        test = np.flatnonzero((models == model) & (groups == group))
        train = np.flatnonzero((models != model) & (groups != group))
        used = [*(labelled[index] for index in train.tolist()), *always]
        judge = fit_judge(own, used, np.concatenate([features[train], always_features]), seed)
        found[test] = judge.probabilities(features[test])
        if progress is not None:
            progress(done + 1, len(cells))
    return found


def _temperature(own: Own, labelled: Sequence[Labelled], features: Floats, states: Ints, seed: int) -> float:
    """The one with the best likelihood when each model's answers are predicted from the other models'."""
    models = np.array([one.model for one in labelled])
    names = list(dict.fromkeys(one.model for one in labelled if one.group))
    if len(names) < 2:
        return 1.0
    predicted, truth = [], []
    for name in names:
        forest = _forest(own, features[models != name], states[models != name], seed)
        predicted.append(forest.probabilities(features[models == name]))
        truth.append(states[models == name])
    table, right = np.concatenate(predicted), np.concatenate(truth)
    losses = [-np.log(temper(table, value)[np.arange(len(right)), right]).mean() for value in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _forest(own: Own, features: Floats, states: Ints, seed: int) -> Forest:
    ensemble, _ = _sklearn()
    fitted = ensemble(TREES, min_samples_leaf=LEAF, max_features=SHARE_OF_FEATURES, random_state=seed)
    fitted.fit(np.concatenate([features, own.features]), np.concatenate([states, own.states]))
    roots, parts, at = [], [], 0
    for tree in (one.tree_ for one in fitted.estimators_):
        inner = tree.children_left >= 0
        values = np.zeros((tree.node_count, len(STATES)), dtype=np.float16)
        counts = tree.value[:, 0, :]
        values[:, fitted.classes_] = counts / counts.sum(1, keepdims=True)
        values[inner] = 0
        left = np.where(inner, tree.children_left + at, -1).astype(np.int32)
        right = np.where(inner, tree.children_right + at, -1).astype(np.int32)
        feature = np.where(inner, tree.feature, 0).astype(np.uint8)
        parts.append((left, right, feature, tree.threshold.astype(np.float32), values.astype(np.float32)))
        roots.append(at)
        at += tree.node_count
    return Forest(np.array(roots, dtype=np.int32), *map(np.concatenate, zip(*parts, strict=True)))


def _linear(rows: Any, kinds: Ints, weights: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    _, regression = _sklearn()
    fitted = regression(C=REGULARISATION, max_iter=300).fit(rows, kinds, sample_weight=weights)
    matrix, bias = np.zeros((WIDTH, len(KINDS))), np.full(len(KINDS), -30.0)
    matrix[:, fitted.classes_], bias[fitted.classes_] = fitted.coef_.T, fitted.intercept_
    return matrix, bias


def _sparse(read: Parsed) -> Any:
    from scipy.sparse import csr_matrix

    starts = np.cumsum([0, *(len(places) for places in read.places)])
    return csr_matrix((np.concatenate(read.weights), np.concatenate(read.places), starts), (len(read.places), WIDTH))


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError("fitting a judge needs scikit-learn: pip install 'cleareyed[judge-train]'") from error
    return ExtraTreesClassifier, LogisticRegression


_NO = np.zeros(0, dtype=np.int32)
_NO_FOREST = Forest(_NO, _NO, _NO, _NO.astype(np.uint8), _NO.astype(np.float32), np.zeros((0, 5), dtype=np.float32))
