"""The command line: what it refuses and with which words, and whole runs on a very small model."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from conftest import ROOT, Result
from PIL import Image

from cleareyed.cli_shared import plain_errors
from cleareyed.errors import InputError
from cleareyed.records.parts import read_answers, read_rollouts
from cleareyed.records.run import RunFolder, read_metrics

Command = Callable[..., Result]
PROGRAM = (sys.executable, "-c", "from cleareyed.cli import main; main()")
QUICK = ("sampling.max_tokens=8", "sampling.group=2", "prompts_per_step=2")
SMALL = """\
method: grpo
model: {{path: {model}}}
task: {{name: scenes-train}}
steps: 2
prompts_per_step: 2
sampling: {{group: 2, max_tokens: 8}}
beta: 0
optimizer: {{lr: 1e-3}}
eval_every: 1
validate_on: {{task: {{name: scenes-val, limit: 4}}}}
measure:
  - task: {{name: scenes-bench, limit: 4}}
  - task: {{name: scenes-bench, limit: 4}}
    prompt: no-reasoning
"""


@pytest.fixture
def recipe_file(tmp_path: Path, checkpoint: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(model=checkpoint))
    return path


def refusal(result: Result, *says: str) -> None:
    """Exit code 2, one line that holds every part, and no run folder."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in says:
        assert part in result.stderr
    assert not [path for path in Path("runs").glob("*") if path.name != "kept"]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom cleareyed.cli import app\n"
        "try: app(['eval', '--help'])\n"
        "except SystemExit: pass\n"
        "try: app(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert "optimizer.lr=3e-5" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stepz=1"], ["stepz=1", "did you mean `steps`?"]),
        (["sampling.group=1"], ["sampling.group", "at least 2"]),
        (["model.path=absent/model/folder"], ["absent/model/folder", "no such folder"]),
        (["task.name=scenes-trian"], ["scenes-trian", "scenes-train"]),
        (["prompt=bsae"], ["bsae", "base"]),
        (["task.rule=strickt"], ["strickt", "strict"]),
        (["task={name: nlvr, split: train}"], ["--data-root", "CLEAREYED_DATA"]),
        (["rewards=[{function: 'reward.py:f'}]"], ["--allow-code"]),
        (["measure.1.prompt=base"], ["measure.1", "measured twice"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bad_recipe_is_refused(command: Command, recipe_file: Path, overrides: list[str], says: list[str]) -> None:
    refusal(command("train", recipe_file, *overrides), *says)


@pytest.mark.parametrize("method", ["train", "pretrain"])
def test_each_command_wants_its_own_kind_of_recipe(command: Command, tmp_path: Path, method: str) -> None:
    path = tmp_path / "other.yaml"
    other = "method: sft\ntask: {name: scenes-train}\n" if method == "pretrain" else "method: pretrain\nmixture: {}\n"
    path.write_text(other + "steps: 1\noptimizer: {lr: 1e-4}\n")
    refusal(command(method, path), "other.yaml", f"cleareyed {'pretrain' if method == 'train' else 'train'}")


def test_a_checkpoint_that_is_no_vision_language_model_is_refused(
    command: Command, recipe_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "text-only"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    refusal(command("train", recipe_file, f"model.path={folder}"), "text-only", "llama")


def test_pickled_weights_are_refused(command: Command, recipe_file: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refusal(command("eval", "scenes-bench", "--model", folder), "pytorch_model.bin", "safetensors")
    refusal(command("eval", "scenes-bench", "--model", f"transformers:{folder}"), "pickled")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "opena:gpt"), ["kind of model", "did you mean `openai`?"]),
        (("--model", "openai:"), ["openai:NAME"]),
        (("--model", "openai:gpt"), ["OPENAI_API_KEY"]),
        pytest.param(
            *(("--model", "anthropic:x", "--no-chat"), ["ANTHROPIC_API_KEY"]),
            marks=pytest.mark.skipif(find_spec("anthropic") is None, reason="needs the extra `anthropic`"),
        ),
        (("--model", "replay:absent.jsonl"), ["absent.jsonl", "cannot be read"]),
        (("--model", "tiny-base", "--base-url", "http://localhost"), ["--base-url", "openai"]),
        (("--model", "openai:x", "--base-url", "http://localhost/v1?key=1"), ["--base-url", "environment"]),
        (("--model", "tiny-base", "--extra", "[1]"), ["--extra", "JSON object"]),
        (("--model", "tiny-base", "--protocol", "paper"), ["protocol", "did you mean `paper-eval`?"]),
        (("--model", "tiny-base", "--protocol", "lmms-eval"), ["protocol of task `scenes-bench`"]),
        (("--model", "tiny-base", "--prompt", "instruct", "--no-chat"), ["prompt instruct", "--no-chat"]),
        (("--model", "tiny-base", "--rule", "strickt"), ["did you mean `strict`?"]),
        (("--model", "tiny-base", "--resume"), ["no such run folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked_is_refused_before_anything_is_made(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], says: list[str]
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    refusal(command("eval", "scenes-bench", *options), *says)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "q", "answer": "a"}, "image"),
        ({"image": "absent.png", "question": "q", "answer": "a"}, "absent.png"),
        ({"image": "good.png", "answer": "a"}, "question"),
        ({"image": "good.png", "question": "q"}, "answer"),
        ({"image": "good.png", "question": "q", "answer": "a", "choices": ["b", "c"]}, "choices"),
    ],
)
def test_a_bad_row_is_refused(
    command: Command, recipe_file: Path, tmp_path: Path, row: dict[str, object], says: str
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "good.png")
    rows = [{"image": "good.png", "question": "q", "answer": "a"}, row]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    refusal(command("train", recipe_file, "task={name: table, path: mine.jsonl}"), "mine.jsonl, line 2", says)


def test_a_truncated_image_is_a_failure_and_no_wrong_answer(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    rows = [{"image": f"{name}.png", "question": "q", "answer": "a", "id": name} for name in ("cut", "whole")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("eval", "mine.jsonl", "--model", checkpoint, "--max-tokens", 4, "--rule", "strict", "--out", "runs/a")
    result = command(*asked)
    assert result.exit_code == 1, result.output
    assert "Coverage 50.0 %: 1 of 2 samples judged" in result.stdout
    assert "1 time: sample cut, image 1: image cannot be decoded" in result.stdout
    assert command("score", "runs/a", "--min-coverage", 0.5).exit_code == 0
    (failed,) = [row for row in read_answers(RunFolder(tmp_path / "runs/a")) if row.state == "failed"]
    assert (failed.sample_id, failed.completion, failed.correct) == ("cut", "", {"strict": False})

    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes())
    mended = command(*asked, "--resume")
    assert mended.exit_code == 0, mended.output
    assert "Asked: 1 in" in mended.stdout and "1 answered before" in mended.stdout


def test_an_existing_run_is_never_overwritten(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/kept").mkdir(parents=True)
    (tmp_path / "runs/kept/notes.txt").write_text("mine")
    refusal(command("train", recipe_file, "--name", "kept"), "runs/kept", "--resume", "--name")
    refusal(command("eval", "scenes-bench", "--model", "tiny-base", "--out", "runs/kept"), "runs/kept")
    refusal(command("demo", "--model", recipe_file.parent / "no-model", "--out", "runs/kept"), "no such folder")
    assert [path.name for path in (tmp_path / "runs/kept").iterdir()] == ["notes.txt"]


def test_what_cannot_be_resumed_or_reported_is_refused(command: Command, recipe_file: Path) -> None:
    refusal(command("train", recipe_file, "--resume"), "runs/small", "no such run folder")
    refusal(command("report", "runs/absent"), "runs/absent", "no such run folder")


def test_a_run_name_is_no_path(command: Command, recipe_file: Path) -> None:
    result = command("train", recipe_file, "--name", "../elsewhere")
    assert result.exit_code == 2
    assert "a name has no slashes" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "x", "runs/a"), 2, "error: runs/a: No space left on device; free space"),
        (InputError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted; go on"),
    ],
)
def test_errors_become_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    with pytest.raises(typer.Exit) as ended, plain_errors("go on"):
        raise error
    assert ended.value.exit_code == code
    written = capsys.readouterr().err
    assert written.startswith(says)
    assert written.count("\n") == 1


def test_a_fault_of_the_program_is_not_disguised() -> None:
    with pytest.raises(PermissionError), plain_errors("go on"):
        raise PermissionError(errno.EACCES, "x")


def test_train_measures_before_and_after_and_reports(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    result = command("train", recipe_file)
    assert result.exit_code == 0, result.output
    run = RunFolder(tmp_path / "runs/small")
    answers = read_answers(run)
    labels = {(row.task, row.label) for row in answers}
    assert {label for task, label in labels if task == "scenes-bench"} == {
        "base",
        "base/no-reasoning",
        "grpo",
        "grpo/no-reasoning",
    }
    assert len([row for row in answers if row.task == "scenes-val"]) == 3 * 4  # before the first step, after each
    assert len(read_rollouts(run)) == 2 * 2 * 2
    assert [row["step"] for row in read_metrics(run)] == [0, 1, 2]
    assert "<html" in run.report.read_text()
    assert result.stdout.splitlines()[-1] == "report: runs/small/report.html"
    assert not list(run.path.glob(".*")), "something was left half-written"

    before = {path: path.read_bytes() for path in run.answers.iterdir()}
    again = command("train", recipe_file, "--resume")
    assert again.exit_code == 0, again.output
    assert "measuring base" not in again.stdout
    assert {path: path.read_bytes() for path in run.answers.iterdir()} == before

    changed = command("train", recipe_file, "--resume", "optimizer.lr=1e-4")
    assert changed.exit_code == 2
    assert "optimizer was" in changed.stderr

    run.report.unlink()
    reported = command("report", run.path)
    assert reported.exit_code == 0, reported.output
    assert run.report.is_file()


def test_eval_keeps_the_answers_and_prints_each_rule(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("eval", "scenes-bench", "--model", checkpoint, "--limit", 6, "--max-tokens", 8, "--batch", 4)
    first, second = command(*arguments), command(*arguments, "--rule", "strict")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    for word in ("paper-eval", "strict", "any-form", "Count", "Distance", "all"):
        assert word in first.stdout
    assert "paper-eval" not in second.stdout
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    name = f"eval-scenes-bench-{checkpoint.parent.name}-model"
    assert runs == [name, f"{name}-2"]
    rows = read_answers(RunFolder(tmp_path / "runs" / runs[0]))
    assert [row.sample_id for row in rows] == [f"scenes-bench/{index:05d}" for index in range(6)]
    assert set(rows[0].correct) == {"paper-eval", "strict", "any-form"}
    assert all(row.state in ("answered", "cut-off", "empty") and row.completion.startswith("<think>") for row in rows)
    assert command("report", f"runs/{runs[1]}").exit_code == 0

    other = command(*arguments, "--resume", "--temperature", 1)
    assert other.exit_code == 2 and "measure.0.temperature was 0.0 and is now 1.0" in other.stderr
    resumed = command(*arguments[:-1], 2, "--resume", "--out", f"runs/{name}")
    assert resumed.exit_code == 0, resumed.output
    assert "Asked: 0 in" in resumed.stdout and "6 answered before" in resumed.stdout

    scored = command("score", f"runs/{runs[1]}", "--rule", "lmms-eval")
    assert scored.exit_code == 0 and "lmms-eval" in scored.stdout, scored.output
    judged = read_answers(RunFolder(tmp_path / "runs" / runs[1]))
    assert set(judged[0].correct) == {"strict", "lmms-eval"}
    compared = command("diff", f"runs/{runs[0]}", f"runs/{runs[1]}", "--json", "found.json")
    assert compared.exit_code == 0, compared.output
    (found,) = json.loads((tmp_path / "found.json").read_text())["tasks"]
    sources = {source["cause"]: source for source in found["explanation"]["sources"]}
    assert (found["explanation"]["n"], found["explanation"]["other_text"]) == (6, 0)
    for cause in ("prompt", "pixels", "model"):
        assert sources[cause]["items"] == 0, sources[cause]
    assert (sources["prompt"]["not_recorded"], sources["model"]["not_recorded"]) == ([], [])


def test_own_data_is_prepared_and_evaluated(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "good.png")
    rows = [
        {"image": image, "question": "q", "answer": "a", "id": id} for image, id in (("good.png", "one"), ([], "two"))
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = command("data", "table", "--from", "mine.jsonl", "--to", "root")
    assert prepared.exit_code == 0, prepared.output
    assert "2 samples of task table" in prepared.stdout
    (tmp_path / "said.jsonl").write_text(
        "".join(json.dumps({"sample_id": row["id"], "text": "a"}) + "\n" for row in rows)
    )
    (file,) = (tmp_path / "root/table").glob("*.parquet")
    result = command("eval", file.relative_to(tmp_path), "--model", "replay:said.jsonl", "--rule", "strict")
    assert result.exit_code == 0, result.output
    assert "100.0" in result.stdout
    refusal_of = command("data", "table", "--from", "mine.jsonl", "--to", "root")
    assert refusal_of.exit_code == 2 and "exists already" in refusal_of.stderr


def test_serve_and_preflight_refuse_what_they_cannot_take(command: Command, tmp_path: Path) -> None:
    refusal(command("serve", "absent/model/folder"), "absent/model/folder", "no such folder")
    path = tmp_path / "other.yaml"
    path.write_text("method: pretrain\nmixture: {}\nsteps: 1\noptimizer: {lr: 1e-4}\n")
    refusal(command("preflight", path), "other.yaml", "grpo and sft")
    refusal(command("score", "runs/absent"), "no such run folder")
    refusal(command("diff", "runs/absent", "runs/absent"), "no such run folder")


def test_an_interrupted_run_says_how_to_go_on_and_does(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    steps = ("steps=80", "eval_every=0", "save_every=20", "measure=[]")
    process = subprocess.Popen(
        [*PROGRAM, "train", str(recipe_file), *steps],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    metrics = tmp_path / "runs/small/metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and metrics.read_text().count("\n") >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, written = process.communicate(timeout=120)
    assert process.returncode == 130
    assert written.splitlines()[-1] == "interrupted; add --resume to the same command to go on"
    done = len(read_metrics(RunFolder(tmp_path / "runs/small")))
    assert 2 <= done < 80

    result = command("train", recipe_file, *steps, "--resume")
    assert result.exit_code == 0, result.output
    assert [row["step"] for row in read_metrics(RunFolder(tmp_path / "runs/small"))] == list(range(1, 81))


def environment() -> dict[str, str]:
    """This process's environment, with the checkout importable and one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
