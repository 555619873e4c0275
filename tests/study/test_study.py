"""Studies: what a file may say, how runs follow one another, and that nothing is done twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tasks.public import write_blink, write_cvbench, write_vsr
from typer.testing import Result

from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe, SftRecipe
from cleareyed.study.plan import open_study
from cleareyed.study.run import held, is_held
from cleareyed.study.schema import load_study
from cleareyed.study.summary import read_summary

Command = Callable[..., Result]

SMALL = """\
about: two arms and a start that is made once
seeds: [1, 2]
models: {{start: {checkpoint}}}
set: [steps=2, eval_every=2, validate_on.task.name=scenes-bench, validate_on.task.limit=4]
measure: [{{task: {{name: scenes-bench, limit: 4}}, max_tokens: 6}}]
probe: {{task: {{name: scenes-bench, limit: 3}}, max_tokens: 6}}
arms:
  - {{name: base, about: as it is, model: start, prompts: [base, no-reasoning]}}
  - name: instruct
    about: tuned
    recipe: tiny-instruct.yaml
    model: start
    set: [batch=4]
    seeds: [0]
    prompts: [instruct-eval]
    probe: false
  - name: grpo-instruct
    about: trained from the tuned one
    recipe: demo-grpo.yaml
    model: instruct
    set: [prompt=instruct, prompts_per_step=2, sampling.group=2, sampling.max_tokens=6]
    prompts: [instruct-eval]
"""


@pytest.fixture
def study_file(tmp_path: Path, checkpoint: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(checkpoint=checkpoint))
    return path


@pytest.mark.parametrize("name", ["smoke", "visualthinker", "visualthinker-2b"])
def test_shipped_studies_are_valid_and_ask_the_same_prompts_of_every_arm(name: str, tmp_path: Path) -> None:
    study = open_study(ROOT / f"studies/{name}.yaml", tmp_path)
    recipes = [run.recipe for run in study.runs if run.arm.name.startswith("grpo")]
    assert all(isinstance(recipe, GrpoRecipe) for recipe in recipes)
    assert len({(one.task, one.prompts_per_step, one.steps, one.sampling) for one in recipes}) == 1  # type: ignore[union-attr]
    sft = next(run.recipe for run in study.runs if run.arm.name == "sft")
    assert isinstance(sft, SftRecipe)
    assert (sft.task, sft.batch, sft.steps) == (recipes[0].task, recipes[0].prompts_per_step, recipes[0].steps)  # type: ignore[union-attr]


def test_the_order_of_runs_is_seed_by_seed_behind_what_is_made_once(study_file: Path, tmp_path: Path) -> None:
    study = open_study(study_file, tmp_path / "runs")
    assert [run.name for run in study.runs] == [
        "base-seed0", "instruct-seed0", "grpo-instruct-seed1", "grpo-instruct-seed2"
    ]  # fmt: skip
    assert [run.name for run in study.chosen(["grpo-instruct"], [2])] == ["instruct-seed0", "grpo-instruct-seed2"]
    with pytest.raises(InputError, match="there is no arm grop-instruct; did you mean `grpo-instruct`"):
        study.chosen(["grop-instruct"])
    with pytest.raises(InputError, match="no run has seed 7; seeds are 0, 1, 2"):
        study.chosen([], [7])


def test_where_a_study_is_kept_does_not_change_what_its_runs_are(study_file: Path, tmp_path: Path) -> None:
    here, there = (open_study(study_file, tmp_path / name).runs for name in ("here", "there"))
    assert [run.training for run in here] == [run.training for run in there]
    other = open_study(study_file, tmp_path, ["set=[steps=3, eval_every=3, validate_on.task.name=scenes-val]"]).runs
    changed = [run.training != before.training for run, before in zip(other, here, strict=True)]
    assert changed == [False, True, True, True]  # what is only measured has nothing to learn
    assert len({run.training for run in here}) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seeds: [1, 2]", "seeds: []"), "seeds is []"),
        (("about: two", "abuot: two"), "unknown key abuot; did you mean `about`?"),
        (("model: instruct", "model: instrct"), "starts from `instrct`, which is none of"),
        (("name: grpo-instruct", "name: instruct"), "`instruct` names two things"),
        (("model: start, prompts", "prompts"), "arm base has no recipe, so `model` must be one of start"),
        (("prompt=instruct, ", "promt=instruct, "), "set: promt=instruct: there is no promt; did you mean `prompt`?"),
        (("recipe: demo-grpo.yaml", "recipe: mine.yaml"), "mine.yaml does not come with this installation"),
        (("[base, no-reasoning]", "[bsae]"), "unknown prompt style `bsae`"),
        (("prompts: [instruct-eval]\n    probe", "prompts: []\n    probe"), "arms.1.prompts is []"),
    ],
)
def test_a_bad_study_is_refused(study_file: Path, tmp_path: Path, change: tuple[str, str], says: str) -> None:
    study_file.write_text(study_file.read_text().replace(*change, 1))
    with pytest.raises(InputError) as refused:
        open_study(study_file, tmp_path)
    assert says in str(refused.value)


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such study; the shipped ones are in studies/"):
        load_study(tmp_path / "none.yaml")


def test_a_study_is_run_resumed_and_reported(
    study_file: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after a training, it measures without training again; what is done is never touched."""
    from cleareyed.study import run as running

    measured: list[str] = []
    real = running.measure

    def measure(*arguments: Any) -> Any:
        measured.append(arguments[3])
        if measured.count("instruct-eval") == 2 and "stop" not in measured:
            measured.append("stop")
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(running, "measure", measure)
    stopped = command("study", "run", study_file, "--seed", "1")
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.output
    folder = Path("runs/small/grpo-instruct-seed1")
    trained = (folder / "final/model.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    assert not (folder / "summary.json").exists()
    status = command("study", "status", study_file).output
    assert "interrupted" in status
    assert "2 of 4 runs done" in status

    first = Path("runs/small/instruct-seed0/summary.json").read_bytes()
    assert command("study", "run", study_file, "--seed", "1").exit_code == 0
    assert trained == ((folder / "final/model.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes())
    assert Path("runs/small/instruct-seed0/summary.json").read_bytes() == first
    assert not (folder / "checkpoint").exists()
    summary = read_summary(folder / "summary.json")
    assert (summary.steps, len(summary.asked), len(summary.asked[0].tokens)) == (2, 1, 4)
    assert summary.necessity is not None
    assert set("".join(summary.asked[0].right.values())) <= {"0", "1"}

    assert command("study", "report", study_file).exit_code == 0
    report = json.loads(Path("runs/small/report.json").read_text())
    assert (report["complete"], report["missing"]) == (False, ["grpo-instruct-seed2"])
    assert {claim["verdict"] for claim in report["claims"] if claim["name"] == "accuracy-up"} == {"not measured"}
    page = Path("runs/small/report.html").read_text()
    assert "Incomplete: 3 of 4 runs are done" in page
    assert "<script" not in page

    # From summaries alone the same report is made, and a finished run is not wanted again.
    for name in ("base-seed0", "instruct-seed0", "grpo-instruct-seed1"):
        kept = Path("kept/small") / name
        kept.mkdir(parents=True)
        (kept / "summary.json").write_bytes(Path(f"runs/small/{name}/summary.json").read_bytes())
    assert command("study", "report", study_file, "--runs", "kept").exit_code == 0
    assert json.loads(Path("kept/small/report.json").read_text())["tables"] == report["tables"]
    assert command("study", "run", study_file, "--runs", "kept", "--seed", "1").exit_code == 0
    assert not Path("kept/small/instruct-seed0/final").exists()
    # A run that starts from one whose weights are not here trains those again, and nothing else of it.
    assert command("study", "run", study_file, "--runs", "kept").exit_code == 0
    assert Path("kept/small/instruct-seed0/final").is_dir()
    assert Path("kept/small/instruct-seed0/summary.json").read_bytes() == first

    changed = command("study", "run", study_file, "set=[steps=3]", "--seed", "1")
    assert changed.exit_code == 2
    assert "made with other settings" in changed.output


def test_more_questions_are_measured_without_training_again(study_file: Path, command: Command) -> None:
    assert command("study", "run", study_file, "--only", "instruct").exit_code == 0
    weights = Path("runs/small/instruct-seed0/final/model.safetensors")
    before = weights.stat().st_mtime_ns
    more = ["measure=[{task: {name: scenes-bench, limit: 6}, max_tokens: 5}]", "--only", "instruct"]
    assert command("study", "run", study_file, *more).exit_code == 0
    assert weights.stat().st_mtime_ns == before
    assert len(read_summary(weights.parents[1] / "summary.json").asked[0].tokens) == 6


def test_a_run_that_another_process_has_is_passed_over(study_file: Path, command: Command) -> None:
    planned = open_study(study_file, Path("runs")).runs[0]
    assert not is_held(planned)
    with held(planned) as ours:
        assert ours
        assert is_held(planned)
        found = command("study", "run", study_file, "--only", "base")
        assert "another process is running it" in found.output
        assert "running" in command("study", "status", study_file).output
    assert not planned.summary.exists()


def test_the_two_billion_study_runs_on_a_miniature(command: Command, checkpoint: Path) -> None:
    """Unchanged but for places and sizes, on a random Qwen2-VL and files as CV-Bench, BLINK and VSR publish."""
    write_cvbench(Path("data/cvbench"))
    write_blink(Path("data/blink"), ("Relative_Depth", "Spatial_Relation"))
    write_vsr(Path("data/vsr"))
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save("red.png")
    row = {"image": "red.png", "question": "Which?", "answer": "red", "choices": ["red", "blue"]}
    Path("SAT_train.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    limited = ", ".join(f"{{task: {{name: {name}, limit: 2}}, max_tokens: 4}}" for name in ("cvbench", "blink", "vsr"))
    set_ = (
        "set=[steps=1, eval_every=1, sampling.max_tokens=8, validate_on.task.name=cvbench, validate_on.task.limit=2, "
        "validate_on.max_tokens=4, model.min_pixels=256, model.max_pixels=1024]"
    )
    found = command(
        "study", "run", ROOT / "studies/visualthinker-2b.yaml", f"models.qwen2-vl-2b={checkpoint}",
        f"models.qwen2-vl-2b-instruct={checkpoint}", "seeds=[1]", set_, f"measure=[{limited}]",
        "probe={task: {name: blink, limit: 2}, max_tokens: 4}", "--data-root", "data",
        "--only", "sft", "--only", "grpo", "--only", "grpo-instruct-frozen-vision",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    summary = read_summary(Path("runs/visualthinker-2b/grpo-seed1/summary.json"))
    assert {one.task for one in summary.asked} == {"cvbench", "blink", "vsr"}
