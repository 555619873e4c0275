from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.tasks.catalog import load_task

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository")


def test_limit_and_rule_are_applied_and_samples_stay_the_same() -> None:
    whole = load_task(TaskSpec(name="scenes-bench"), None)
    part = load_task(TaskSpec(name="scenes-bench", limit=5, rule="paper-eval"), None)
    assert (len(part.samples), part.rule, whole.rule) == (5, "paper-eval", "strict")
    assert part.samples[4].id == whole.samples[4].id == part.samples[-1].id
    assert [sample.id for sample in part.samples[1:3]] == [whole.samples[1].id, whole.samples[2].id]
    with pytest.raises(IndexError):
        part.samples[5]
    assert len(load_task(TaskSpec(name="scenes-val", limit=10**9), None).samples) == len(
        load_task(TaskSpec(name="scenes-val"), None).samples
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TaskSpec(name="scenes-trian"), r"unknown task `scenes-trian`: did you mean `scenes-train`\?"),
        (TaskSpec(name="nlvr2"), r"unknown task `nlvr2`: did you mean `nlvr`\?"),
        (TaskSpec(name="scenes-val", split="dev"), "task `scenes-val`: field `split` does not apply here"),
        (TaskSpec(name="scenes-val", path="x"), "task `scenes-val`: field `path` does not apply here"),
        (TaskSpec(name="table"), "task `table`: field `path` is missing"),
        (TaskSpec(name="table", path="a.jsonl", split="x"), "task `table`: field `split` does not apply here"),
        (TaskSpec(name="table", path="a.jsonl"), "a.jsonl: no such file"),
        (TaskSpec(name="blink"), "with --data-root or CLEAREYED_DATA"),
        (TaskSpec(name="nlvr", split="dev"), "with --data-root or CLEAREYED_DATA"),
    ],
)
def test_what_does_not_fit_is_refused(spec: TaskSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(spec, None)


def test_a_data_root_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; correct --data-root"):
        load_task(TaskSpec(name="blink"), tmp_path / "none")
    with pytest.raises(InputError, match=r"relative_depth\.parquet: no such file"):
        load_task(TaskSpec(name="blink"), tmp_path)
    with pytest.raises(InputError, match="task `nlvr`: field `split` is missing"):
        load_task(TaskSpec(name="nlvr"), tmp_path)
    with pytest.raises(InputError, match="did you mean `train`"):
        load_task(TaskSpec(name="nlvr", split="trian"), tmp_path)


def test_malformed_rows_of_public_data_are_named(tmp_path: Path) -> None:
    row = {"id": "x", "image": b"", "prompt": "Which?\n(A) one\n(C) two", "answer": "(A)"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="id x: field `prompt` does not list choices"):
        load_task(TaskSpec(name="blink", path="a.parquet"), tmp_path)
    row = {**row, "prompt": "Which?\n(A) one\n(B) two", "answer": "(D)"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"id x: field `answer` is `\(D\)`, not one of \(A\), \(B\)"):
        load_task(TaskSpec(name="blink", path="a.parquet"), tmp_path)
    sentence = {"id": "x", "group": "g", "image": b"", "sentence": "", "label": True}
    pq.write_table(pa.Table.from_pylist([sentence]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="id x: field `sentence` is empty"):
        load_task(TaskSpec(name="nlvr", path="b.parquet"), tmp_path)


@needs_data
@pytest.mark.parametrize(("split", "count", "groups"), [("train", 4698, 783), ("dev", 5934, 989)])
def test_nlvr(split: str, count: int, groups: int) -> None:
    task = load_task(TaskSpec(name="nlvr", split=split), DATA)
    assert len(task.samples) == len({sample.id for sample in task.samples}) == count
    assert len({sample.group for sample in task.samples}) == groups
    assert {sample.choices for sample in task.samples} == {("true", "false")}
    assert all(sample.question.endswith("options: true or false") for sample in task.samples)
    image = task.samples[-1].images[0]()
    assert (image.mode, image.size) == ("RGB", (400, 100))


@needs_data
def test_blink() -> None:
    task = load_task(TaskSpec(name="blink"), DATA)
    skills = [sample.skill for sample in task.samples]
    assert (skills.count("Relative Depth"), skills.count("Spatial Relation"), len(skills)) == (124, 143, 267)
    by_skill = {sample.skill: sample.choices for sample in task.samples}
    assert by_skill == {"Relative Depth": ("A is closer", "B is closer"), "Spatial Relation": ("yes", "no")}
    assert [sum(sample.answer == sample.choices[0] for sample in task.samples if sample.skill == skill) for skill in
            ("Relative Depth", "Spatial Relation")] == [64, 77]  # fmt: skip
    assert all(task.samples[index].images[0]().mode == "RGB" for index in (0, 123, 124, 266))
    only = load_task(TaskSpec(name="blink", path="blink/spatial_relation.parquet"), DATA)
    assert [sample.id for sample in only.samples] == [sample.id for sample in task.samples[124:]]
