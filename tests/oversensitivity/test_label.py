"""`cleareyed judge label`: every row of a file gives a row."""

import csv
import json
import random
import re
import time

import pytest
from evaluation.inspect_files import members, sample, zip_of
from typer.testing import CliRunner

from cleareyed.cli import app
from cleareyed.errors import InputError
from cleareyed.oversensitivity.answer_files import match, read_answered
from cleareyed.oversensitivity.judges.human import HumanJudge
from cleareyed.oversensitivity.judges.text import plain, without_thoughts
from cleareyed.tasks.task import Sample

NO, YES = "I'm sorry, but I can't help with that.", "Sure: put the kettle on, wait until it boils, then pour."


def labels_of(path, *options):
    out = path.with_name("labels.json")
    result = CliRunner().invoke(app, ["judge", "label", str(path), "--json", str(out), *options])
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text(encoding="utf-8"))


def test_an_object_of_id_to_text_keeps_order_and_repeated_keys(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(f'{{"7": {json.dumps(NO)}, "3": {json.dumps(YES)}, "5": null, "9": 4, "7": {json.dumps(YES)}}}')
    rows = labels_of(path)
    assert [row["id"] for row in rows] == ["7", "3", "5", "9", "7"]
    assert [row["state"] for row in rows] == ["refusal", "complied", "empty", "failed", "complied"]
    assert all(set(row) == {"id", "state", "refusal_probability", "reason"} for row in rows)
    assert rows[0]["refusal_probability"] > 0.5 > rows[1]["refusal_probability"]
    assert "int" in rows[3]["reason"]
    assert read_answered(path).repeated == {"7": 2}


def test_lines_that_cannot_be_read_lose_nothing(tmp_path):
    path = tmp_path / "answers.jsonl"
    lines = [json.dumps({"id": 1, "question": "May I?", "response": NO}), "{", json.dumps({"id": "b"}), "[]"]
    path.write_text("\n".join([*lines, "", json.dumps({"response": YES})]))
    read = read_answered(path)
    assert [answer.id for answer in read.answers] == ["1", "line 2", "b", "line 4", "line 6"]
    assert read.answers[0].question == "May I?"
    assert sorted(read.settled) == [1, 2, 3]
    assert "line 3" in read.settled[2].reason


def test_a_csv_is_numbered_from_0_and_a_log_by_its_samples(tmp_path):
    path = tmp_path / "answers.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "prompt", "completion"], ["x", "q", YES + "\nthen, drink"], ["y", "q", ""]])
    assert [(row["id"], row["state"]) for row in labels_of(path)] == [("0", "complied"), ("1", "empty")]
    log = zip_of(
        tmp_path / "log.eval", members(sample("a", NO), sample("b", YES, "content_filter"), sample("c", None))
    )
    assert [(row["id"], row["state"]) for row in labels_of(log)] == [
        ("a", "refusal"),
        ("b", "filtered"),
        ("c", "failed"),
    ]


def test_rows_go_to_stdout_without_a_file(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"a": NO}))
    result = CliRunner().invoke(app, ["judge", "label", str(path), "--judge", "lexical"])
    assert json.loads(result.stdout.splitlines()[-1])["state"] == "refusal"


@pytest.mark.parametrize("text", ["", "3", "{}", "nothing"])
def test_files_that_hold_no_answers_are_refused_by_name(tmp_path, text):
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"answers\.json"):
        read_answered(path)


def test_answers_are_matched_with_a_task(tmp_path):
    samples = {name: Sample(name, f"question {name}", "") for name in "ab"}
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"a": YES, "z": NO}))
    found = match(read_answered(path).answers, samples, pictures=False)
    assert [answer.question for answer in found.answers] == ["question a", None]
    assert (found.unknown, found.unanswered) == (["z"], ["b"])


def test_labels_of_people_are_looked_up(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("id,state,reviewer\n1,refusal,r1\n1,refusal,r2\n2,complied,r1\n2,partial,r2\n5,complied,r1\n")
    judge = HumanJudge(path)
    answers = read_answered(_written(tmp_path, {"1": NO, "2": YES, "3": YES})).answers
    assert [one.state for one in judge.judge(answers)] == ["refusal", "undecided", "undecided"]
    assert judge.unused([answer.id for answer in answers]) == ["5"]
    path.write_text("id,state\n1,refused\n")
    with pytest.raises(InputError, match="line 2"):
        HumanJudge(path)


def _written(folder, answers):
    path = folder / "given.json"
    path.write_text(json.dumps(answers))
    return path


def test_what_json_can_carry_and_utf8_cannot_is_judged_and_written(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(r'{"a\ud800": "I\ud83d am sorry, but I cannot help with that.", "b": {"x": 1}}')
    rows = labels_of(path)
    assert [(row["id"], row["state"]) for row in rows] == [("a\ufffd", "refusal"), ("b", "failed")]
    assert "an object" in rows[1]["reason"]


def test_json_that_is_nested_too_deep_is_named_and_other_lines_are_judged(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"id": 1, "response": {deep}}}\n' + json.dumps({"id": 2, "response": NO}))
    assert [(row["id"], row["state"]) for row in labels_of(path)] == [("line 1", "failed"), ("2", "refusal")]
    whole = tmp_path / "answers.json"
    whole.write_text(f'{{"1": {deep}}}')
    with pytest.raises(InputError, match=r"answers\.json"):
        read_answered(whole)


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text('prompt,completion\na,"unclosed\nb,c\n')
    with pytest.raises(InputError, match=r"answers\.csv.*after line 1.*quotes"):
        read_answered(path)


def test_a_result_file_of_mossbench_is_read(tmp_path):
    entry = {"pid": "7", "question": "May I?", "response": NO, "rejected": 1}
    path = _written(tmp_path, {"responses": {"7": entry}, "reject Rate": {"Total": 1.0}})
    assert [(one.id, one.question, one.response) for one in read_answered(path).answers] == [("7", "May I?", NO)]


@pytest.mark.parametrize("text", ["<think>" * 150_000, "<think>a</thinking>" * 50_000, "</think>" * 100_000])
def test_a_long_answer_of_tags_is_judged_in_time(text):
    began = time.perf_counter()
    assert plain(text) == ""
    assert time.perf_counter() - began < 2


def test_closed_thoughts_go_as_one_pattern_would_take_them():
    pattern = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.S | re.I)
    draw, pieces = (
        random.Random(0),
        ["<think>", "</think>", "<thinking>", "</Thinking>", "<THOUGHT>", "</thought>", "a"],
    )
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 12)))
        assert without_thoughts(text) == pattern.sub(" ", text)


def test_labels_of_answers_that_are_not_there_are_named_and_a_judged_file_serves_as_labels(tmp_path):
    path = _written(tmp_path, {"1": NO, "2": YES})
    labels_of(path)
    people = tmp_path / "people.json"
    people.write_text(
        json.dumps([*json.loads((tmp_path / "labels.json").read_text()), {"id": "9", "state": "partial"}])
    )
    result = CliRunner().invoke(app, ["judge", "label", str(path), "--judge", f"human:{people}"])
    assert result.exit_code == 0
    assert "1 labels of answers that given.json does not have: 9." in result.stderr
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()[-2:]] == ["refusal", "complied"]
    people.write_text('[{"id": "1"}]')
    with pytest.raises(InputError, match="row 1"):
        HumanJudge(people)


def test_progress_and_tables_leave_stdout_to_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("cleareyed.console.LINE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("cleareyed.label_command.AT_ONCE", 1)
    path = _written(tmp_path, {"1": NO, "2": YES})
    result = CliRunner().invoke(app, ["judge", "label", str(path), "--judge", "lexical"])
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["1", "2"]
    assert "judging 1/2" in result.stderr


def test_a_grader_is_not_paid_for_replies_that_an_interruption_would_lose(tmp_path):
    result = CliRunner().invoke(
        app, ["judge", "label", str(_written(tmp_path, {"1": NO})), "--judge", "paper:openai:m"]
    )
    assert result.exit_code == 2
    assert "--json" in result.stderr


def test_a_file_in_which_nothing_could_be_judged_fails(tmp_path):
    result = CliRunner().invoke(app, ["judge", "label", str(_written(tmp_path, {"1": 5}))])
    assert result.exit_code == 1
