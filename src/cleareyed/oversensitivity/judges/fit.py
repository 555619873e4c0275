"""Fitting the embedded judge (`cleareyed judge train`). Needs scikit-learn.

What a sentence does is read by a logistic regression fitted on our own sentences alone. What an answer is, is read
by a second one, fitted on labelled answers and on answers composed of our own sentences, some of them to questions.
Its temperature and its weight of partial refusals are chosen by `nested.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cleareyed.errors import InputError
from cleareyed.oversensitivity.judges.answers import RECURRING, document
from cleareyed.oversensitivity.judges.corpus import compose, own_sentences, spoken_sentences
from cleareyed.oversensitivity.judges.features import KINDS, WIDTH, Floats, Parsed, parse, parse_sentences, rows
from cleareyed.oversensitivity.judges.hashing import LETTER_PLACES, Ints, codes, letters
from cleareyed.oversensitivity.judges.model import STATES, JudgeModel, Linear
from cleareyed.oversensitivity.judges.reader import FIRST_WORDS, Reader, softmax
from cleareyed.oversensitivity.judges.replies import compose_replies
from cleareyed.oversensitivity.judges.sources import Labelled
from cleareyed.oversensitivity.judges.vectors import SIZE, vector

COMPOSED, REPLIES = 9000, 9000
"""So many that which ones were drawn makes little difference."""
FOLDS = 5
SENTENCE_C, VECTOR_WEIGHT = 10.0, 0.15
"""Chosen by hand, as all weights here were (docs/results.md)."""
ANSWER_C = 0.003
PEOPLE = 0.3
"""The weight of a labelled answer with its question, and of the same without."""
ALONE, REPLY = 1 / 3, 1 / 12
"""The weight of an answer that is composed without a question, and to one."""
SPREAD = 0.05
"""Added to a feature's standard deviation, so that rare ones aren't blown up."""


@dataclass(frozen=True)
class Choice:
    temperature: float
    partial: float
    """What the probability of a partial refusal is multiplied by before the state is chosen."""


@dataclass(frozen=True)
class Own:
    """What is fitted on our own sentences, and the answers composed of them."""

    reader: Reader
    features: Floats
    """(composed answers, F), their sentences read by a model that did not see the sentences' templates; not a number
    where their own words tell nothing."""
    states: Ints
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """Labelled answers (N) and what is read in them."""

    asked: Floats
    """(N, F), with the question."""
    bare: Floats
    """(N, F), without."""
    states: Ints
    models: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]


def fit_own(seed: int = 0) -> Own:
    made = own_sentences(seed)
    lines = made + spoken_sentences()
    read = parse_sentences([one.text for one in lines])
    matrix = _sparse(read)
    kinds = np.array([KINDS.index(one.kind) for one in lines])
    weights = np.array([one.weight for one in lines])
    templates = {template: index for index, template in enumerate(dict.fromkeys(one.template for one in lines))}
    folds = np.random.default_rng(seed).permutation(len(templates)) % FOLDS
    fold = np.array([folds[templates[one.template]] for one in lines])
    crossed = np.zeros((len(lines), len(KINDS)), dtype=np.float32)
    for index in range(FOLDS):
        coefficients, bias = _logistic(SENTENCE_C, matrix[fold != index], kinds[fold != index], weights[fold != index])
        crossed[fold == index] = softmax((matrix[fold == index] @ coefficients + bias).astype(np.float32))
    coefficients, bias = _logistic(SENTENCE_C, matrix, kinds, weights)
    halved = coefficients.astype(np.float16).astype(np.float32)
    vectors = halved[WIDTH + LETTER_PLACES :] * np.float32(VECTOR_WEIGHT)
    reader = Reader(
        halved[:WIDTH],
        halved[WIDTH : WIDTH + LETTER_PLACES],
        vectors.astype(np.float16).astype(np.float32),
        bias.astype(np.float32),
    )
    answers = compose(made, COMPOSED, seed) + compose_replies(made, REPLIES, seed)
    features = np.stack(
        [document(_part(read, one.sentences), crossed[list(one.sentences)], one.question) for one in answers]
    )
    features[COMPOSED:, RECURRING] = np.nan  # a composed answer does not speak of what was asked
    states = np.array([STATES.index(one.state) for one in answers])
    return Own(reader, features, states, np.repeat([ALONE, REPLY], [COMPOSED, REPLIES]))


def _part(read: Parsed, chosen: Sequence[int]) -> Parsed:
    def of(held: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(held[index] for index in chosen)

    at = list(chosen)
    return Parsed(of(read.sentences), of(read.words), of(read.cues), read.lengths[at], read.items[at])


def material(own: Own, labelled: Sequence[Labelled]) -> Material:
    """What the readers of answers are fitted on."""
    read = [parse(one.answered.response) for one in labelled]
    kinds = list(map(softmax, own.reader.logits(read)))
    questions = [one.answered.question for one in labelled]
    return Material(
        np.stack(list(map(document, read, kinds, questions))),
        np.stack(list(map(document, read, kinds))),
        np.array([STATES.index(one.state) for one in labelled]),
        np.array([one.model for one in labelled]),
        np.array([one.group for one in labelled]),
    )


def fit_answers(own: Own, people: Material, rows: Ints) -> Linear:
    """The reading of answers, fitted on the rows of `people` and on composed answers."""
    ours = np.where(np.isnan(own.features), people.asked[rows].mean(0), own.features)
    features = np.concatenate([people.bare[rows], people.asked[rows], ours])
    states = np.concatenate([people.states[rows], people.states[rows], own.states])
    weights = np.concatenate([np.full(2 * len(rows), PEOPLE), own.weights])
    middle, spread = features.mean(0), features.std(0) + SPREAD
    coefficients, bias = _logistic(ANSWER_C, (features - middle) / spread, states, weights, len(STATES))
    coefficients = coefficients / spread[:, None]
    return Linear(coefficients.astype(np.float32), (bias - middle @ coefficients).astype(np.float32))


def fit_judge(choice: Choice, own: Own, people: Material) -> JudgeModel:
    """The judge of one choice, fitted on all answers. Deterministic."""
    answers = fit_answers(own, people, np.arange(len(people.states)))
    return JudgeModel(own.reader, answers, choice.temperature, choice.partial)


def _logistic(
    strength: float, rows: Any, classes: Ints, weights: npt.NDArray[np.float64], width: int = len(KINDS)
) -> tuple[Floats, Floats]:
    """Coefficients (F, width) and bias (width,); a class that does not occur is never said."""
    fitted = _regression()(C=strength, max_iter=300, tol=1e-3).fit(rows, classes, sample_weight=weights)
    coefficients, bias = np.zeros((rows.shape[1], width)), np.full(width, -30.0)
    coefficients[:, fitted.classes_], bias[fitted.classes_] = fitted.coef_.T, fitted.intercept_
    return coefficients, bias


def _sparse(read: Parsed) -> Any:
    """(S, WIDTH + LETTER_PLACES + 2 SIZE): a sentence's row, its words' letters and their vectors."""
    from scipy.sparse import csr_matrix, hstack

    spelt: list[Ints] = []
    weights: list[npt.NDArray[Any]] = []
    vectors = np.zeros((len(read.words), 2 * SIZE))
    for index, said in enumerate(read.words):
        places = [letters(word) for word in said]
        spelt.append(np.concatenate(places) if places else np.zeros(0, dtype=np.int64))
        weights.append(
            np.concatenate([np.full(len(one), (len(one) * len(said)) ** -0.5) for one in places] or [np.zeros(0)])
        )
        known = [found for found in map(vector, said) if found is not None]
        if known:
            vectors[index] = np.concatenate([np.mean(known, 0), np.mean(known[:FIRST_WORDS], 0)])
    held = np.array([codes(word) for said in read.words for word in said])
    row_places, row_weights, starts = rows(held, np.array(list(map(len, read.words))), read.cues)
    row = csr_matrix((row_weights, row_places, starts), (len(read.words), WIDTH))
    return hstack([row, _csr(spelt, weights, LETTER_PLACES), csr_matrix(vectors * VECTOR_WEIGHT)]).tocsr()


def _csr(places: Sequence[Ints], weights: Sequence[npt.NDArray[Any]], width: int) -> Any:
    from scipy.sparse import csr_matrix

    starts = np.cumsum([0, *map(len, places)])
    return csr_matrix((np.concatenate(weights), np.concatenate(places), starts), (len(places), width))


def _regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError("fitting a judge needs scikit-learn: pip install 'cleareyed[judge-train]'") from error
    return LogisticRegression
