"""Runs as logs of inspect_ai and back: by our own reader always, by inspect_ai itself where it is installed."""

import ast
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from evaluation.inspect_files import members, sample, zip_of
from evaluation.stub import Config, serving
from PIL import Image

import cleareyed
from cleareyed.evaluation.inspect_log import LoggedSample, read_header, read_samples
from cleareyed.evaluation.journal import read_answers
from cleareyed.records.parts import read_answers as read_rows
from cleareyed.records.run import RunFolder
from cleareyed.tasks.catalog import NAMES

Command = Callable[..., Result]
CHOICES = ["left", "right", "above", "below"]
COUNT = 40


@pytest.fixture
def asked(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 40 questions with answers in every state; a server that fails some of them for good."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "one.png")
    rows = [
        {
            "id": f"s{number}",
            "image": "one.png",
            "question": f"Größe? sample s{number}",
            "answer": CHOICES[number % 4],
            "choices": CHOICES,
            "skill": "depth",
        }
        for number in range(COUNT)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(Config(states=True)) as stub:
        said = command(
            "eval", path, "--model", "openai:stub", "--base-url", stub.url, "--out", "r", "--rule", "strict"
        )
    assert said.exit_code == 1, said.output  # coverage
    return path


def exported(command: Command, folder: Path, *more: str) -> list[LoggedSample]:
    result = command("export", "r", "out.eval", *more)
    assert result.exit_code == 0, result.output
    assert f"{COUNT} samples" in result.stdout
    return list(read_samples(folder / "out.eval"))


def test_a_run_goes_out_and_comes_back_with_the_same_verdicts(command: Command, asked: Path, tmp_path: Path) -> None:
    rows = read_rows(RunFolder(tmp_path / "r"))
    logged = exported(command, tmp_path)
    answers = {answer.sample_id: answer for answer in read_answers(tmp_path / "r/journal.jsonl")}
    assert [one.id for one in logged] == [row.sample_id for row in rows]
    for one, row in zip(logged, rows, strict=True):
        held = answers[one.id]
        assert one.state == ("filtered" if row.state == "refused-by-api" else row.state)
        assert (one.output, one.target, one.choices) == (held.text, row.answer, tuple(CHOICES))
        assert (one.input_tokens, one.output_tokens) == (held.prompt_tokens, held.completion_tokens)
        assert row.question in one.input and one.metadata["state"] == row.state and not one.images
        judged = row.state not in ("filtered", "refused-by-api")
        assert one.scores == ({"strict": "C" if row.correct["strict"] else "I"} if judged else {})
    head = read_header(tmp_path / "out.eval")
    assert (head.task, head.model, head.status) == ("cleareyed/table-mine", "openai/stub", "success")
    assert head.config["max_tokens"] == 256
    with zipfile.ZipFile(tmp_path / "out.eval") as archive:
        results = json.loads(archive.read("header.json"))["results"]
    judged_rows = [row for row in rows if row.state not in ("filtered", "refused-by-api")]
    (score,) = results["scores"]
    assert (score["scored_samples"], score["scored_samples"] + score["unscored_samples"]) == (len(judged_rows), COUNT)
    share = sum(row.correct["strict"] for row in judged_rows) / len(judged_rows)
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(share)

    back = command("eval", asked, "--model", "replay:out.eval", "--rule", "strict", "--out", "back")
    assert back.exit_code == 1, back.output
    again = read_rows(RunFolder(tmp_path / "back"))
    assert [(row.sample_id, row.completion, row.correct) for row in again] == [
        (row.sample_id, row.completion, row.correct) for row in rows
    ]
    assert command("export", "r", "out.eval").exit_code == 2  # never over a file


def test_pictures_go_in_on_request_only(command: Command, asked: Path, tmp_path: Path) -> None:
    logged = exported(command, tmp_path, "--inline")
    picture = (tmp_path / "one.png").read_bytes()
    import base64

    assert {one.images for one in logged} == {("data:image/png;base64," + base64.b64encode(picture).decode(),)}
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    other = command("export", "r", "other.eval")
    assert other.exit_code == 2 and "another prompt or picture" in other.stderr
    assert not (tmp_path / "other.eval").exists()


def test_what_failed_in_a_log_stays_failed_and_epochs_are_counted(
    command: Command, asked: Path, tmp_path: Path
) -> None:
    said = [sample(f"s{number}", "left") for number in range(COUNT - 2)]
    failed = sample(f"s{COUNT - 2}", None, error={"message": "reset by peer"})
    zip_of(tmp_path / "log.eval", members(*said, failed, sample("s0", "right", epoch=2), sample("other", "x")))
    result = command("eval", asked, "--model", "replay:log.eval", "--rule", "any-form", "--out", "i")
    rows = {row.sample_id: row for row in read_rows(RunFolder(tmp_path / "i"))}
    assert rows["s0"].completion == "left" and rows[f"s{COUNT - 2}"].state == "failed"
    assert f"{COUNT - 2} of {COUNT} samples judged" in result.stdout and "2 failed" in result.stdout
    assert "reset by peer" in result.stdout and "1 answers are of later epochs" in result.stdout
    assert "1 answer is to samples that were not asked (other)" in result.stdout


def test_inspect_reads_what_we_write(command: Command, asked: Path, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install 'cleareyed[inspect]'")
    exported(command, tmp_path, "--inline")
    read: Any = log.read_eval_log(str(tmp_path / "out.eval"), resolve_attachments=True)
    assert len(read.samples) == COUNT and read.status == "success"
    assert read.samples[0].input[0].content[0].image.startswith("data:image/png")
    assert len(log.read_eval_log_sample_summaries(str(tmp_path / "out.eval"))) == COUNT


def test_inspect_is_offered_every_task_that_is_evaluated() -> None:
    source = ast.parse(Path(cleareyed.__file__).with_name("inspect_tasks.py").read_text(encoding="utf-8"))
    offered = {
        one.name
        for one in source.body
        if isinstance(one, ast.FunctionDef) and [getattr(by, "id", None) for by in one.decorator_list] == ["task"]
    }
    assert offered == {name.replace("-", "_") for name in NAMES if name != "scenes-train"}


def test_inspect_asks_our_tasks(asked: Path, tmp_path: Path) -> None:
    inspect_ai = pytest.importorskip(
        "inspect_ai", reason="inspect_ai is not installed: pip install 'cleareyed[inspect]'"
    )
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from cleareyed.inspect_tasks import table

    outputs = [ModelOutput.from_content("mockllm/model", "<answer>left</answer>") for _ in range(8)]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    (log,) = inspect_ai.eval(
        table(str(asked), "strict"),
        model=get_model("mockllm/model", custom_outputs=outputs),
        limit=8,
        max_samples=1,
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    assert log.status == "success", log.error
    (score,) = log.results.scores
    assert score.metrics["accuracy"].value == 0.25
