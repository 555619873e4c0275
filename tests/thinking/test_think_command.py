import asyncio
import json

import pytest
import yaml
from tiny import picture
from training.small import grpo_recipe

from cleareyed.errors import InputError
from cleareyed.evaluation.ask import Limits
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.providers.replay import ReplayAnswerer
from cleareyed.evaluation.rows import judges_of, make_row
from cleareyed.records.parts import compact, read_probes, write_answers, write_probes, write_rollouts
from cleareyed.records.rows import RolloutRow
from cleareyed.records.run import RunFolder, append_metrics, create_run, read_metrics
from cleareyed.report.pages import run_report
from cleareyed.report.thinking import page_of
from cleareyed.tasks.prompts import offer
from cleareyed.tasks.task import Sample
from cleareyed.think_command import read_items
from cleareyed.thinking.collect import Thinking, add_answers, add_items
from cleareyed.thinking.gains import AS_IS, BLANK_IMAGE, EMPTY_THOUGHT, NO_REASONING
from cleareyed.thinking.grade import category, grade, grader_requests
from cleareyed.thinking.items import Item
from cleareyed.thinking.of_run import thinking_of_run

SIDES = ("left", "right")
ATTACK = "<script>alert(1)</script>"


def answers(label, texts, step, task="toy"):
    rows = []
    for number, text in enumerate(texts):
        sample = Sample(f"s{number}", offer(f"Which? {ATTACK}", SIDES), "left", SIDES)
        judges = judges_of(["strict", "any-form"])
        rows.append(
            make_row(sample, text, "answered", judges, task=task, label=label, step=step, tokens=7, finish="stop")
        )
    return rows


def a_run(folder):
    """Probed at steps 0 and 6 on 30 questions, whose thoughts begin to reflect and change nothing."""
    run = create_run(folder, grpo_recipe())
    plain = f"<think>so left {ATTACK}</think><answer>left</answer>"
    second = "<think>so right, wait, so left</think><answer>left</answer>"
    for step, texts in ((0, [plain] * 30), (6, [plain, *[second] * 29])):
        arms = {AS_IS: texts, EMPTY_THOUGHT: ["left"] * 30, NO_REASONING: ["right"] * 30, BLANK_IMAGE: ["right"] * 30}
        for arm, said in arms.items():
            write_probes(run, answers(arm, said, step))
        append_metrics(run, {"step": step, "thinking/thinking_gain": 0.0, "thinking/thinking_gain_low": 0.0})
    write_answers(run, answers("grpo", [second, plain], 6))
    fields = {"group": 0, "index": 0, "question": "Which?", "answer": "left", "tokens": 5, "finish": "length"}
    fields |= {"rewards": {}, "reward": 0.0, "advantage": 0.0, "extracted": None, "correct": True}
    for step in range(1, 7):
        write_rollouts(run, step, [RolloutRow(step=step, sample_id="s0", completion=second, **fields)])
    return run


def test_what_a_run_recorded_becomes_tables_and_a_verdict_in_its_report(tmp_path):
    run = a_run(tmp_path / "run")
    found = thinking_of_run(run)
    assert list(found.necessity) == ["toy, step 0", "toy, step 6"]
    assert found.necessity["toy, step 6"].verdict == "trivial"
    assert found.rises["probe on toy"]["revision"].step == 6 and found.rises["probe on toy"]["revision"].lasts
    assert found.measures["probe on toy, step 6"].reflection.helped == 29
    assert found.measures["grpo on toy, step 6"].n == 2
    assert found.measures["rollouts, by 1 steps, step 6"].lengths.all.cut_off.value == 1
    page = page_of(found)
    assert any("The thoughts are trivial: the thinking gain of +0.0 points" in one for one in page.verdicts)
    assert any("the sight gain is +100.0" in one for one in page.verdicts)
    compact(run)
    assert len(read_probes(run)) == 2 * 4 * 30 and thinking_of_run(run) == found
    html = run_report(run).read_text(encoding="utf-8")
    assert "The thoughts are trivial" in html and "When reflection rises" in html
    assert "Thinking gain and sight gain" in html
    assert ATTACK not in html and "so right, wait, so left" in html


def test_reports_of_runs_without_probes_say_nothing_of_thinking(tmp_path):
    run = create_run(tmp_path / "run", grpo_recipe())
    write_answers(run, answers("grpo", ["left"], 6))
    assert "hinking" not in run_report(run).read_text(encoding="utf-8").replace("thinking: null", "")
    empty = create_run(tmp_path / "empty", grpo_recipe())
    with pytest.raises(InputError, match="to study"):
        thinking_of_run(empty)


LINES = (
    {"text": "<think>so right. Wait, so left.</think>left", "answer": "left", "choices": ["left", "right"]},
    {"text": "<think>a</think><think>b</think>c", "correct": False, "step": 0, "tokens": 9, "finish": "length"},
    {"text": "<think>never closed", "correct": True, "further": 1},
    {"text": "", "answer": "left"},
)


def test_a_file_of_answers(tmp_path, command):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)) + "\n\n", encoding="utf-8")
    items = read_items(path)
    assert [item.form for item in items] == ["closed", "several", "unclosed", "none"]
    assert [item.correct for item in items] == [True, False, True, False]
    result = command("think", path, "--json", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    assert "Reflection" in result.output and "Form of the records" in result.output
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    measured = found["measures"]["answers.jsonl"]
    assert measured["reflection"]["helped"] == 1 and measured["forms"]["several"] == 1
    assert measured["reflection"]["rates"]["revision"]["n"] == 1
    assert measured["lengths"]["all"]["unit"] == "words" and "flags" not in measured["reflection"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"}', "line 1: neither answer nor correct"),
        ('{"answer": "a"}', "line 1: text: Field required"),
        ("[", "line 1"),
        ('{"text": "a", "correct": "perhaps"}', "line 1: correct"),
        ("", "holds no answers"),
    ],
)
def test_bad_files_are_named(tmp_path, command, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(line, encoding="utf-8")
    result = command("think", path)
    assert result.exit_code == 2 and message in result.stderr
    assert command("think", tmp_path / "none.jsonl").exit_code == 2
    assert "name a task" in command("think", path, "--model", "tiny-base").stderr


def table(folder, count=3):
    path = folder / "mine.jsonl"
    picture(32, 32).save(folder / "a.png")
    rows = [
        {"image": "a.png", "question": f"Which? {n}", "answer": "left", "choices": SIDES, "id": f"s{n}"}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_training_with_probes_and_probing_afterwards(tmp_path, command, checkpoint):
    recipe = {
        "method": "grpo",
        "model": {"path": str(checkpoint)},
        "task": {"name": "table", "path": str(table(tmp_path))},
        "optimizer": {"lr": 1e-4},
        "steps": 2,
        "prompts_per_step": 2,
        "sampling": {"group": 2, "max_tokens": 4},
        "beta": 0.0,
        "thinking": {"probe_items": 2, "every": 2, "counterfactual": False},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = command("train", "r.yaml")
    assert result.exit_code == 0, result.output
    run = RunFolder(tmp_path / "runs" / "r")
    rows = {row["step"]: row for row in read_metrics(run)}
    assert {step: "thinking/tokens_thought" in row for step, row in rows.items()} == {0: True, 1: False, 2: True}
    assert "thinking/thinking_gain" not in rows[2]
    assert {(row.label, row.step) for row in read_probes(run)} == {(AS_IS, 0), (AS_IS, 2)}
    assert "Length of thought and answer" in run.report.read_text(encoding="utf-8")

    result = command("think", run.path, "--model", run.final, "--items", 3, "--max-tokens", 4)
    assert result.exit_code == 0, result.output
    probed = {row.label for row in read_probes(run) if row.task == "table-mine by r/final" or "by r/final" in row.task}
    assert {AS_IS, EMPTY_THOUGHT, NO_REASONING} <= probed
    assert "thinking gain" in result.output and "Is the" not in result.stderr
    assert "What thought and picture are worth" in run.report.read_text(encoding="utf-8")

    recipe["thinking"] = None
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert command("train", "plain.yaml").exit_code == 0
    plain = RunFolder(tmp_path / "runs" / "plain")
    assert not plain.thinking.exists()
    weights = ("final/model.safetensors", "checkpoint/optimizer.safetensors")
    assert all((plain.path / name).read_bytes() == (run.path / name).read_bytes() for name in weights)


def test_an_evaluation_is_studied_and_probed(tmp_path, command, checkpoint):
    path = table(tmp_path)
    assert command("eval", path, "--model", checkpoint, "--max-tokens", 4, "--out", "runs/e").exit_code == 0
    result = command("think", "runs/e", "--model", checkpoint, "--items", 2, "--max-tokens", 4)
    assert result.exit_code == 0, result.output
    run = RunFolder(tmp_path / "runs" / "e")
    assert {row.sample_id for row in read_probes(run)} == {"s0", "s1"}
    assert "Form of the records" in run.report.read_text(encoding="utf-8")
    result = command("think", "runs/e", "--rule", "lmms-eval")
    assert result.exit_code == 0 and "3 not judged under lmms-eval" in result.output
    result = command("think", "runs/e", "--model", "openai:NAME")
    assert result.exit_code == 2 and "our own engine" in result.stderr


def test_validation_says_when_reflection_rises():
    found = Thinking()
    rows = [row for step in (0, 25) for row in answers("validation", ["wait, left" if step else "left"] * 20, step)]
    add_answers(found, [*rows, *answers("grpo", ["left"], 25)], "strict")
    assert found.rises["validation on toy"]["visualthinker"].step == 25
    assert list(found.rises) == ["validation on toy"] and "grpo on toy, step 25" in found.measures


def test_a_grader_confirms_what_holds_a_phrase(tmp_path):
    items = [Item("let me recheck", question="a"), Item("I rethink", question="b"), Item("wait"), Item("recheck")]
    items.append(items[0])
    asked = list(grader_requests(items))
    assert len(asked) == 3 and "let me recheck" in asked[0].prompt
    said = ["It goes back. 2", "Straight. **1**", "no idea"]
    lines = [json.dumps({"sample_id": one.sample_id, "text": text}) for one, text in zip(asked, said, strict=True)]
    (tmp_path / "grader.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        grader = ReplayAnswerer(tmp_path / "grader.jsonl")
        marks = asyncio.run(grade(items, grader, journal, Limits()))
    assert marks == [True, False, None, None, True]
    found = Thinking()
    add_items(found, "graded", items, graded=marks)
    assert found.measures["graded"].reflection.flags["understand-r1-zero"] == [True, False, False, None, True]


@pytest.mark.parametrize(
    ("text", "expected"), [("2", 2), ("of 3 kinds: 1.", 1), ("**0**", 0), ("4", None), ("", None), ("step12", None)]
)
def test_the_category_is_the_last_number_that_stands_alone(text, expected):
    assert category(text) == expected
