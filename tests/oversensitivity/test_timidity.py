import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from oversensitivity.rows import ROW
from tasks.moss import write_flat
from typer.testing import Result

from cleareyed.errors import InputError
from cleareyed.evaluation.rows import make_row
from cleareyed.oversensitivity.outcome_rows import (
    AT_ONCE,
    OutcomeRow,
    judge_rows,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from cleareyed.oversensitivity.outcomes import Answered, Judgement
from cleareyed.oversensitivity.published import read_published
from cleareyed.recipe import EvalSpec, GrpoRecipe, OptimizerSpec, TaskSpec
from cleareyed.records.parts import write_answers
from cleareyed.records.run import RunFolder, create_run
from cleareyed.tasks.catalog import load_task

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
YES, NO = "Sure. Begin with the large one, then the small one.", "I'm sorry, but I can't help with that."
BENIGN = {"1": YES, "2": NO, "101": None, "102": "Blocked for Safety Reasons", "201": YES + "<script>x</script>"}
CONTRAST = {"1": NO, "101": YES, "201": NO}


@pytest.fixture
def asked(tmp_path: Path, command: Callable[..., Result]) -> Path:
    """A folder with the runs `benign` and `contrast` of one model."""
    write_flat(tmp_path / "mossbench")
    for name, task, answers in (("b", "mossbench", BENIGN), ("b-contrast", "mossbench_contrast", CONTRAST)):
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
        out = "benign" if task == "mossbench" else "contrast"
        options = ("--out", out, "--data-root", tmp_path, "--min-coverage", 0)
        found = command("eval", task, "--model", f"replay:{name}.json", *options)
        assert found.exit_code == 0, found.output
        assert "declined, % (95 %), judge local" in found.output
    return tmp_path


def test_an_evaluation_leaves_outcomes_that_need_no_data_to_be_told(
    asked: Path, command: Callable[..., Result]
) -> None:
    rows = {row.id: row for row in read_outcomes(outcomes_file(RunFolder(asked / "benign"), "local"))}
    assert {name: row.state for name, row in rows.items()} == {
        "1": "complied",
        "2": "refusal",
        "101": "empty",
        "102": "filtered",
        "201": "complied",
        "202": "failed",
    }
    assert (rows["1"].tags["child"], rows["1"].stimulus, rows["101"].group) == (True, "ER", rows["102"].group)
    assert rows["2"].refusal_probability is not None and rows["2"].reason
    found = command("timidity", "benign", "contrast", "--json", "figures.json", "--page", "page.html")
    assert found.exit_code == 0, found.output  # without --data-root
    figures = json.loads((asked / "figures.json").read_text())
    benign, contrast = figures["measured"]
    assert (benign["whole"]["n"], benign["whole"]["declined"], benign["whole"]["unread"]) == (5, 3, 1)
    assert (benign["without_empty"]["n"], benign["without_empty"]["declined"]) == (4, 2)
    assert benign["by_tag"]["child"]["yes"]["n"] == 1
    assert (contrast["set"], contrast["whole"]["declined"], contrast["whole"]["n"]) == ("contrast", 2, 3)
    (cells,) = figures["two_by_two"]
    assert (cells["wrong_refusals"], cells["right_answers"], cells["right_refusals"]) == (3, 2, 2)
    assert figures["points"][0]["cells"]["pooled"]["detected"]["sensitivity"] is not None
    assert "b, mossbench: failed: 1 (202)." in found.output
    assert "right and wrong refusals" in found.output and "MOSSBench's own table" in found.output


def test_the_page_stands_alone_and_escapes_what_models_say(asked: Path) -> None:
    page = (asked / "benign" / "timidity.html").read_text()
    assert "<script" not in page.lower() and "&lt;script&gt;x" in page
    assert page.count("data:image/png;base64,") == 5 and page.count("<svg") == 2
    assert "://" not in page.replace("http://www.w3.org", "")
    assert "Exaggerated Risk" in page and "(no text)" in page


def test_runs_are_judged_again_by_another_judge_and_nothing_is_lost(
    asked: Path, command: Callable[..., Result]
) -> None:
    kept = outcomes_file(RunFolder(asked / "benign"), "local").read_text()
    found = command("timidity", "benign", "--judge", "lexical:autodan")
    assert found.exit_code == 0, found.output
    assert "judge lexical:autodan" in found.output
    other = read_outcomes(outcomes_file(RunFolder(asked / "benign"), "lexical:autodan"))
    assert {row.judge for row in other} == {"lexical:autodan"} and len(other) == 6
    assert outcomes_file(RunFolder(asked / "benign"), "local").read_text() == kept
    assert "no such judge" in command("timidity", "benign", "--judge", "oracle").output
    outcomes_file(RunFolder(asked / "benign"), "local").write_text("{}\n")
    assert "line 1 is no outcome" in command("timidity", "benign").output


def test_repeated_runs_and_the_authors_result_file(asked: Path, command: Callable[..., Result]) -> None:
    (asked / "second").mkdir()
    (asked / "second" / "b.json").write_text(json.dumps({**BENIGN, "1": NO}))
    options = ("--out", "again", "--data-root", asked, "--min-coverage", 0)
    assert command("eval", "mossbench", "--model", "replay:second/b.json", *options).exit_code == 0
    found = command("timidity", "benign", "again", "--data-root", asked)
    assert found.exit_code == 0, found.output
    assert "2 runs, declined 60.0, 80.0 %" in " ".join(found.output.split())
    assert "1 of 5 items changed between runs" in " ".join(found.output.split())
    assert "name one run" in command("timidity", "benign", "again", "--results", "r.json").output
    told = command("timidity", "benign", "--results", "r.json", "--data-root", asked)
    assert told.exit_code == 0, told.output
    written = json.loads((asked / "r.json").read_text())
    assert written["reject Rate"]["Total"] == 3 / 5
    assert written["responses"]["2"]["metadata"]["harm"] == [2]
    again = read_published(asked / "r.json")
    assert again.by_pid["2"].rejected is True and again.by_pid["202"].rejected is None


def test_other_runs_are_refused(asked: Path, command: Callable[..., Result]) -> None:
    assert "no such run folder" in command("timidity", "none").output
    found = command("plane", "benign", "--data-root", asked)
    assert found.exit_code == 2 and "evaluate mossbench_contrast too" in found.output


def test_the_plane_of_published_and_measured_models(asked: Path, command: Callable[..., Result]) -> None:
    found = command("plane", "benign", "contrast", "--json", "plane.json", "--picture", "plane.png")
    assert found.exit_code == 0, found.output
    text = " ".join(found.output.split())
    assert "published, as printed, 16 models" in text and "all, 17 models" in text
    assert "LLaVA-1.5-13b: the figure's benign rates contradict the paper's main table" in text
    held = json.loads((asked / "plane.json").read_text())
    assert len(held["points"]) == 17
    assert held["correlations"]["published, as printed"]["refusals"]["NH"]["p"] > 0.05
    for name in ("plane.png", "plane-detection.png"):
        assert (asked / name).read_bytes().startswith(b"\x89PNG")


class Paid:
    """A judge that costs something: counts what it is shown, and fails at the given call."""

    name = "paper:someone"

    def __init__(self, fails_at: int = -1, undecided: frozenset[str] = frozenset()) -> None:
        self.calls, self.fails_at, self.undecided = [0], fails_at, undecided
        self.shown: list[Answered] = []

    def judge(self, answers: Sequence[Answered]) -> list[Judgement]:
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(len(answers))
        self.shown += answers
        return [
            Judgement(one.id, "undecided" if one.id in self.undecided else "refusal", None, "said") for one in answers
        ]


def unjudged(count: int) -> list[OutcomeRow]:
    return [replace(ROW, id=str(number), state="undecided", judge="paper:someone") for number in range(count)]


def test_what_a_paid_judge_said_survives_an_interruption(tmp_path: Path) -> None:
    rows, file = unjudged(3 * AT_ONCE), tmp_path / "outcomes" / "paper.jsonl"
    with pytest.raises(KeyboardInterrupt):
        judge_rows(rows, Paid(fails_at=2), keep=lambda some: write_outcomes(file, some))
    before = read_outcomes(file)
    assert sum(row.state == "refusal" for row in before) == AT_ONCE
    second = Paid(undecided=frozenset({"30"}))
    done = judge_rows(rows, second, before=before, see=lambda name: (name.encode(),))
    assert len(second.shown) == 2 * AT_ONCE and second.shown[0].images == (b"20",)
    assert [row.state for row in done].count("refusal") == 3 * AT_ONCE - 1
    third = Paid()
    judge_rows([replace(rows[0], response="Other."), *rows[1:]], third, before=done)
    assert [one.id for one in third.shown] == ["0", "30"]  # a new answer, and one that was undecided


@pytest.mark.skipif(not (DATA / "mossbench").is_dir(), reason=f"no {DATA}/mossbench")
def test_published_answers_that_are_empty_are_given_with_and_without(
    tmp_path: Path, command: Callable[..., Result]
) -> None:
    model = f"replay:{DATA / 'mossbench' / 'responses' / 'claude-3-haiku.json'}"
    assert command("eval", "mossbench", "--model", model, "--data-root", DATA, "--out", "run").exit_code == 0
    assert command("timidity", "run", "--json", "figures.json").exit_code == 0
    (found,) = json.loads((tmp_path / "figures.json").read_text())["measured"]
    assert found["states"]["empty"] == 14
    assert (found["whole"]["n"], found["without_empty"]["n"]) == (300, 286)
    assert found["whole"]["declined"] - found["without_empty"]["declined"] == 14


def test_labels_of_people_that_fit_no_answer_are_named(asked: Path, command: Callable[..., Result]) -> None:
    (asked / "people.csv").write_text("id,state\n1,refusal\n2,complied\n9,partial\n")
    found = command("timidity", "benign", "--judge", "human:people.csv", "--data-root", asked)
    assert found.exit_code == 0, found.output
    assert "labels of answers that these runs do not have: 1 (9)" in found.output
    assert "b, mossbench: undecided: 1 (201)" in found.output


def test_an_answer_with_line_separators_is_kept_on_one_line(tmp_path: Path) -> None:
    rows = [replace(ROW, response="One\u2028two\x85three\x1cfour"), replace(ROW, id="2")]
    write_outcomes(tmp_path / "local.jsonl", rows)
    assert read_outcomes(tmp_path / "local.jsonl") == rows


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "outcomes").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        write_outcomes(tmp_path / "outcomes" / "local.jsonl", unjudged(1))


def test_a_training_run_is_told_step_by_step(tmp_path: Path, command: Callable[..., Result]) -> None:
    recipe = GrpoRecipe(
        method="grpo",
        task=TaskSpec(name="scenes-train"),
        optimizer=OptimizerSpec(lr=1e-4),
        steps=2,
        validate_on=EvalSpec(task=TaskSpec(name="timidity-mini", limit=2)),
    )
    run = create_run(tmp_path / "trained", recipe)
    first, second = load_task(TaskSpec(name="timidity-mini", limit=2), None).samples
    for step, texts in ((0, (YES, YES)), (2, (NO, YES))):
        rows = [
            make_row(sample, text, "answered", {}, task="timidity-mini", label="v", step=step, tokens=1, finish="stop")
            for sample, text in zip((first, second), texts, strict=True)
        ]
        write_answers(run, rows)
    found = command("timidity", "trained", "--json", "figures.json")
    assert found.exit_code == 0, found.output
    measured = json.loads((tmp_path / "figures.json").read_text())["measured"]
    assert [(one["model"], one["step"], one["whole"]["declined"]) for one in measured] == [
        ("v of trained", 0, 0),
        ("v of trained", 2, 1),
    ]
