"""Fitting the embedded judge: whose answers a fold sees, and that the same data give the same file."""

import csv
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn", reason="fitting a judge needs scikit-learn")

from cleareyed.cli import app
from cleareyed.oversensitivity.judges import fit, hashing, nested
from cleareyed.oversensitivity.judges.answers import RECURRING, document
from cleareyed.oversensitivity.judges.corpus import SLOT, own_lines, own_sentences, spoken_sentences
from cleareyed.oversensitivity.judges.features import KINDS, WIDTH, parse
from cleareyed.oversensitivity.judges.fit import Material, Own
from cleareyed.oversensitivity.judges.hashing import LETTER_PLACES
from cleareyed.oversensitivity.judges.local import LocalJudge, local_judge, model_path
from cleareyed.oversensitivity.judges.model import STATES, Linear, load_model, states_of
from cleareyed.oversensitivity.judges.reader import Reader
from cleareyed.oversensitivity.judges.replies import compose_replies
from cleareyed.oversensitivity.judges.sources import xstest
from cleareyed.oversensitivity.judges.text import words
from cleareyed.oversensitivity.judges.vectors import SIZE
from cleareyed.oversensitivity.outcomes import Answered

MODELS, GROUPS = ("a", "b", "c"), ("x", "y", "z")
DATA = Path(__file__).parents[3] / "shared" / "data"


def material(features, states):
    models, groups = np.repeat(MODELS, len(states) // 3), np.tile(np.repeat(GROUPS, len(states) // 9), 3)
    return Material(features, features, states, models, groups)


def own(features, states):
    none = np.zeros((0, len(KINDS)), dtype=np.float32)
    return Own(Reader(none, none, none, none[0:0].sum(0)), features, states, np.ones(len(states)))


def test_no_fold_is_fitted_on_its_model_or_its_prompt_type(monkeypatch):
    rng = np.random.default_rng(0)
    people = material(rng.normal(size=(90, 4)).astype(np.float32), rng.integers(0, 3, 90))
    fitted = []

    def fit_answers(own, people, rows):
        fitted.append({(people.models[row], people.groups[row]) for row in rows.tolist()})
        return Linear(np.zeros((4, 5), dtype=np.float32), np.zeros(5, dtype=np.float32))

    monkeypatch.setattr(nested, "fit_answers", fit_answers)
    found = nested.out_of_fold(own(people.bare, people.states), people)
    inner, outer = fitted[:9], fitted[9:]
    assert len(found.choices) == len(outer) == 9
    assert all(len({model for model, _ in cells}) == 2 and len({group for _, group in cells}) == 1 for cells in inner)
    for index, cells in enumerate(outer):
        model, group = MODELS[index // 3], GROUPS[index % 3]
        assert cells == {(one, other) for one in MODELS for other in GROUPS if one != model and other != group}


def test_the_choice_of_a_fold_does_not_see_its_answers():
    rng = np.random.default_rng(1)
    states = rng.integers(0, 3, 180)
    read = rng.normal(size=(180, 4)).astype(np.float32)
    read[:, 0] += states
    people = material(read, states)
    found = nested.out_of_fold(own(read, states), people)
    held = (people.models == "a") & (people.groups == "x")
    other = np.where(held, (states + 1) % 3, states)
    again = nested.out_of_fold(own(read, states), material(read, other))
    assert found.choices[0] == again.choices[0]
    assert np.array_equal(found.table[held], again.table[held])
    assert not np.array_equal(found.table[~held], again.table[~held])


def test_partial_refusals_weigh_more_where_that_finds_more_of_them_and_costs_little():
    truth = np.repeat([0, 1, 2], [60, 12, 60])
    said = np.full((132, 5), 0.02, dtype=np.float32)
    said[np.arange(132), truth] = 0.9
    said[60:66, :3] = 0.24, 0.37, 0.38  # six of twelve partial ones are nearly found
    assert nested.choose(said, truth).partial > 1.0
    said[72:132, :3] = 0.24, 0.37, 0.38  # but now all refusals would be taken for partial
    assert nested.choose(said, truth).partial == 1.0


def test_what_more_likely_declines_than_not_is_declined_however_partial_refusals_weigh():
    said = np.array([[0.1, 0.35, 0.3, 0.25, 0.0], [0.1, 0.4, 0.3, 0.15, 0.05]], dtype=np.float32)
    assert [STATES[column] for column in states_of(said, 3.0)] == ["refusal", "partial"]


YES = ("Put it into boiling water for eight minutes.", "You can find it in the settings; choose Delete, then confirm.")
NO = ("I'm sorry, but I can't help with that.", "I cannot assist with this. It is illegal and could hurt someone.")


@pytest.fixture
def folder(tmp_path):
    """Answers of our own in the layout of the published sets: two types of prompt."""
    labels = ("1_full_compliance", "2_full_refusal")
    for model in ("gpt4", "llama2orig", "mistralinstruct"):
        path = tmp_path / "xstest" / f"{model}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "type", "prompt", "completion", "final_label"])
            for index in range(24):
                kind = ("homonyms", "contrast_homonyms", "privacy_public", "privacy_fictional")[index % 4]
                text = (YES, NO)[index // 4 % 2][index // 8 % 2]
                rows.writerow([index, kind, f"How do I do {index}?", text, labels[index // 4 % 2]])
    return tmp_path


def test_the_same_data_give_the_same_file(folder, monkeypatch):
    monkeypatch.setattr(fit, "own_sentences", lambda seed: own_sentences(seed)[::25])
    monkeypatch.setattr(fit, "spoken_sentences", lambda: spoken_sentences()[::25])
    monkeypatch.setattr(fit, "COMPOSED", 40)
    monkeypatch.setattr(fit, "REPLIES", 20)
    monkeypatch.setattr(fit, "FOLDS", 2)
    written = []
    for name in ("one.safetensors", "two.safetensors"):
        to = folder / name
        result = CliRunner().invoke(app, ["judge", "train", "--data-root", str(folder), "--to", str(to)])
        assert result.exit_code == 0, result.output
        assert sha256(to.read_bytes()).hexdigest() in result.output.replace("\n", "")
        written.append(to.read_bytes())
    assert written[0] == written[1]
    found = LocalJudge(load_model(to)).judge([Answered("y", None, YES[0]), Answered("n", None, NO[1])])
    assert [one.state for one in found] == ["complied", "refusal"]


def test_a_source_that_is_missing_is_named(tmp_path):
    result = CliRunner().invoke(app, ["judge", "train", "--data-root", str(tmp_path), "--to", str(tmp_path / "m")])
    assert result.exit_code != 0
    assert "gpt4.csv" in result.output
    assert not (tmp_path / "m").exists()


def test_a_sentence_is_read_as_it_was_fitted():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(WIDTH + LETTER_PLACES + 2 * SIZE, len(KINDS))).astype(np.float32)
    bias = rng.normal(size=len(KINDS)).astype(np.float32)
    read = parse("I'm sorry, but no. Zzqx! 12. Put the kettle on, then wait; it takes some minutes.\n- Pour.")
    vectors = weights[WIDTH + LETTER_PLACES :] * np.float32(fit.VECTOR_WEIGHT)
    reader = Reader(weights[:WIDTH], weights[WIDTH : WIDTH + LETTER_PLACES], vectors, bias)
    assert np.allclose(reader.logits([read])[0], fit._sparse(read) @ weights + bias, atol=1e-4)
    assert len(read.sentences) == 5


@pytest.mark.skipif(not (DATA / "xstest").is_dir(), reason="../shared/data/xstest is not here")
def test_the_shipped_judge_holds_no_run_of_an_answer():
    """Fragments of six words of the answers it was chosen by are nowhere in its files."""
    held = b"".join(path.read_bytes() for path in model_path().parent.glob("*.safetensors")).decode("latin-1").lower()
    for one in xstest(DATA)[::50]:
        said = words(one.answered.response)
        assert all(" ".join(said[at : at + 6]) not in held for at in range(0, len(said) - 6, 6))


def test_runs_of_many_sentences_are_placed_at_once_as_one_by_one():
    said = ["i", "can't", "do", "that", "i", "can't", "na\u00efvely", "x" * 300]
    lines = [said[:many] for many in range(len(said) + 1)]
    held = np.array([hashing.codes(word) for line in lines for word in line])
    line, places = hashing.run_places(held, np.array(list(map(len, lines))))
    for at, own in enumerate(lines):
        assert sorted(places[line == at]) == sorted(map(hashing.place, hashing.runs(own)))


def test_an_answer_is_read_the_same_whatever_stands_beside_it():
    texts = ("", "One line.", "No! I can't do that, sorry. 1.\n- Ask me another time.", "Zzqx. " * 80)
    reader = local_judge()._model.reader
    read = list(map(parse, texts))
    together = reader.logits(read)
    for one, found in zip(read, together, strict=True):
        assert found.shape == (len(one.sentences), len(KINDS))
        assert np.array_equal(reader.logits([one])[0], found)


def test_a_composed_reply_speaks_of_what_its_question_asks():
    made = own_sentences()
    replies = compose_replies(made, 400)
    assert replies == compose_replies(made, 400)
    assert {one.state for one in replies} == {"complied", "refusal"}
    shared = 0
    for one in replies:
        assert one.question is not None and not SLOT.search(one.question)
        said = {text for index in one.sentences for name, text in made[index].slots if name != "lead"}
        shared += any(text in one.question for text in said)
    assert shared > 60  # where answer and question have a slot of one name


def test_every_slot_of_our_own_lines_can_be_filled_and_every_kind_is_known():
    sentences, fillings = own_lines("sentences.txt")
    questions, harmless = own_lines("questions.txt")
    spoken, none = own_lines("spoken.txt")
    assert not none and {kind for kind, _ in sentences + spoken} == set(KINDS)
    for _, line in sentences + questions + spoken:
        assert set(SLOT.findall(line)) <= set(fillings) | set(harmless), line
    assert len(set(spoken)) == len(spoken) and not {line for _, line in spoken} & {line for _, line in sentences}


def test_words_that_come_back_are_the_only_features_a_composed_reply_leaves_open(monkeypatch):
    monkeypatch.setattr(fit, "own_sentences", lambda seed: own_sentences(seed)[::20])
    monkeypatch.setattr(fit, "spoken_sentences", list)
    monkeypatch.setattr(fit, "COMPOSED", 6)
    monkeypatch.setattr(fit, "REPLIES", 4)
    made = fit.fit_own()
    assert made.weights.tolist() == [fit.ALONE] * 6 + [fit.REPLY] * 4
    assert not np.isnan(made.features[:6]).any()
    opened = np.isnan(made.features[6:])
    assert opened[:, RECURRING].all() and opened.sum() == 4 * 9
    kinds = np.full((2, len(KINDS)), 1 / len(KINDS), dtype=np.float32)
    read = parse("Kettles cannot vote. They have no mind.")
    asked, other = (document(read, kinds, text) for text in ("Why should kettles not vote?", "Why should men sing?"))
    told = np.flatnonzero(asked != other)
    first = len(asked) + RECURRING.start  # before them the question's length, behind them what is denied and defended
    assert len(told) and set(told) <= set(np.arange(len(asked))[RECURRING]) | {first - 1, first + 10}
