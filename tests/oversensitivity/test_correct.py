"""Rates corrected for a judge's errors: right on the whole, and none without labels."""

import json

import numpy as np
import pytest

from cleareyed.correct_command import states
from cleareyed.errors import InputError
from cleareyed.oversensitivity.correct import prediction_powered, rogan_gladen


def draw(rng, n, rate, sensitivity, specificity):
    truth = rng.random(n) < rate
    judged = np.where(truth, rng.random(n) < sensitivity, rng.random(n) >= specificity)
    return truth, judged


@pytest.mark.parametrize("correct", [prediction_powered, rogan_gladen])
def test_intervals_cover_the_true_rate_where_the_raw_one_does_not(correct):
    rng = np.random.default_rng(3)
    covered, raw, count, rate = 0, 0, 200, 0.3
    for _ in range(count):
        truth, judged = draw(rng, 1000, rate, 0.85, 0.8)
        places = rng.choice(1000, 150, replace=False)
        options = {"draws": 300} if correct is rogan_gladen else {}
        found = correct(judged, truth[places], places.tolist(), **options)
        covered += found.rate.interval.low <= rate <= found.rate.interval.high
        raw += abs(found.judged - rate) < 0.03
    assert covered / count > 0.9
    assert raw / count < 0.1  # the judge itself says 39.5 % on the whole


@pytest.mark.parametrize("correct", [prediction_powered, rogan_gladen])
def test_a_small_sample_without_errors_does_not_rule_them_out(correct):
    rng = np.random.default_rng(4)
    covered, count, rate = 0, 0, 0.95
    for _ in range(200):
        truth, judged = draw(rng, 1000, rate, 0.98, 0.95)
        places = rng.choice(1000, 20, replace=False)
        others = places[~truth[places]]
        if correct is rogan_gladen and (not others.size or judged[others].all()):
            continue  # no rate can be made of such a sample
        interval = correct(judged, truth[places], places.tolist()).rate.interval
        covered, count = covered + (interval.low <= rate <= interval.high), count + 1
    assert covered / count > 0.9
    all_alike = prediction_powered([True] * 300, [True] * 300, list(range(300))).rate.interval
    assert all_alike.low == pytest.approx(0.9874, abs=1e-3)


def test_a_judge_that_knows_nothing_is_let_alone_and_a_perfect_one_narrows():
    rng = np.random.default_rng(1)
    truth, _ = draw(rng, 2000, 0.4, 1, 1)
    places = list(range(100))
    width = {}
    for name, judged in (("perfect", truth), ("nothing", rng.random(2000) < 0.5)):
        interval = prediction_powered(judged, truth[places], places).rate.interval
        width[name] = interval.high - interval.low
    assert width["perfect"] < 0.5 * width["nothing"]
    assert width["nothing"] == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 100), rel=0.1)


def test_all_labelled_is_the_labels_rate_and_too_few_is_an_error():
    labels = [True] * 6 + [False] * 14
    assert prediction_powered([False] * 20, labels, list(range(20))).rate.value == pytest.approx(0.3)
    with pytest.raises(InputError, match="label more"):
        prediction_powered([True] * 50, [True] * 9, list(range(9)))
    with pytest.raises(InputError, match="one label"):
        rogan_gladen([True] * 50, [True, False] * 6, [0] * 12)
    with pytest.raises(InputError, match="alike"):
        rogan_gladen([True] * 50, [True] * 12, list(range(12)))


def test_rogan_gladen_gives_back_what_was_put_in():
    truth = np.arange(1000) < 300
    judged = truth.copy()
    judged[:30], judged[300:370] = False, True  # sensitivity 0.9, specificity 0.9
    found = rogan_gladen(judged, truth, list(range(1000)))
    assert found.judged == pytest.approx(0.34)
    assert found.rate.value == pytest.approx(0.3)


def test_the_command_corrects_what_two_files_of_labels_say(command, tmp_path):
    rng = np.random.default_rng(5)
    truth, judged = draw(rng, 600, 0.3, 0.8, 0.9)

    def write(name, flags, marks=()):
        rows = [
            {"id": f"a{i}", "state": "undecided" if i in marks else "refusal" if flag else "partial", "reason": ""}
            for i, flag in flags
        ]
        path = tmp_path / name
        lines = path.suffix == ".jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
        return path

    everything = list(enumerate(judged))
    sample = [(i, truth[i]) for i in rng.choice(600, 120, replace=False).tolist()]
    all_of_them = write("judged.json", everything, {599})
    people = write("people.jsonl", sample, {sample[0][0]})
    found = command("judge", "correct", all_of_them, people)
    assert found.exit_code == 0, found.output
    lines = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in found.output.splitlines() if "│" in line
    }
    assert lines["as judged"] == f"{100 * judged[:599].mean():.1f} %"
    places = [i for i, _ in sample[1:] if i != 599]
    expected = prediction_powered(judged[:599], truth[places], places).rate.value
    assert lines["prediction-powered (PPI++)"] == f"{100 * expected:.1f} %"
    assert "Rogan-Gladen" in lines and f"{len(places)} labels alone" in lines

    (tmp_path / "numbers.jsonl").write_text(
        "\ufeff" + "".join(f'{{"id": {i}, "state": "refusal"}}\n' for i in range(9))
    )
    assert list(states(tmp_path / "numbers.jsonl"))[:2] == ["0", "1"]
    few = command("judge", "correct", all_of_them, write("few.json", sample[:5]))
    assert few.exit_code != 0 and "label more" in few.output
    strange = command("judge", "correct", write("part.json", everything[:20]), people)
    assert strange.exit_code != 0 and "are not in" in strange.output
    (tmp_path / "bad.json").write_text('[{"id": "a", "state": "no"}]')
    bad = command("judge", "correct", all_of_them, tmp_path / "bad.json")
    assert bad.exit_code != 0 and "row 0.state" in bad.output
