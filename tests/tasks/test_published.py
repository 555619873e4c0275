"""The benchmarks as published, in small files of their exact columns (`public.py` makes them)."""

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tasks.public import (
    BLINK_SCHEMA,
    CVBENCH,
    CVBENCH_SCHEMA,
    SAT,
    VSR,
    cvbench_row,
    picture,
    sat_row,
    write_blink,
    write_cvbench,
    write_cvbench_jsonl,
    write_cvbench_tsv,
    write_sat,
    write_vsr,
)

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.tasks.blink import SUBTASKS
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.cvbench import cvbench_totals
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.task import Sample


def cvbench(root: Path) -> tuple[Sample, ...]:
    return tuple(load_task(TaskSpec(name="cvbench"), root).samples)


def test_cvbench_is_asked_by_its_prompt_and_keeps_its_bytes(tmp_path: Path) -> None:
    write_cvbench(tmp_path / "cvbench")
    samples = cvbench(tmp_path)
    assert [sample.id for sample in samples] == ["2D/0", "2D/1", "2D/2", "2D/3", "3D/4", "3D/5", "3D/6"]
    assert [sample.skill for sample in samples] == [row["task"] for row in CVBENCH]
    assert [sample.question for sample in samples] == [row["prompt"] for row in CVBENCH]
    assert [sample.answer for sample in samples[:6]] == ["1", "10", "left", "below", "chair", "shelf, white"]
    assert [picture_bytes(sample.images[0]) for sample in samples] == [row["image"]["bytes"] for row in CVBENCH]
    assert samples[0].images[0]().size == (12, 8)
    assert samples[0].columns["source"] == "ADE20K"
    assert samples[2].columns["bbox"] == [[1.0, 2.0, 3.0, 4.0]]
    assert [sample.group for sample in samples[:2]] == ["ADE20K/0.jpg", "COCO/0.jpg"]


def test_choices_that_read_the_same_are_told_apart_by_their_letters(tmp_path: Path) -> None:
    write_cvbench(tmp_path / "cvbench")
    last = cvbench(tmp_path)[-1]
    assert (last.choices, last.answer) == (("(A) books", "(B) books"), "(B) books")


def test_cvbench_from_jsonl_and_tsv_is_the_same(tmp_path: Path) -> None:
    for kind in ("parquet", "jsonl", "tsv"):
        (tmp_path / kind / "cvbench").mkdir(parents=True)
    expected = cvbench(write_cvbench(tmp_path / "parquet" / "cvbench").parent)
    jsonl = cvbench(write_cvbench_jsonl(tmp_path / "jsonl" / "cvbench").parent)
    tsv = cvbench(write_cvbench_tsv(tmp_path / "tsv" / "cvbench").parent)

    def asked(samples: tuple[Sample, ...]) -> list[tuple[object, ...]]:
        return [(s.question, s.answer, s.choices, s.skill, s.columns["type"], s.columns["source"]) for s in samples]

    assert asked(expected) == asked(jsonl) == asked(tsv)
    assert [picture_bytes(s.images[0]) for s in jsonl] == [picture_bytes(s.images[0]) for s in expected]
    held = [picture_bytes(s.images[0]) for s in tsv]
    assert held[:3] + held[4:] == [row["image"]["bytes"] for row in CVBENCH if row["idx"] != 3]
    assert held[3] == held[0]
    assert tsv[4].images[0]().getpixel((0, 0)) == (255, 0, 0)


def test_cvbench_totals_are_micro_and_averaged_over_sources() -> None:
    """ADE20K 3 of 4, COCO 1 of 2, Omni3D 1 of 4: worked by hand."""
    rows = [("ADE20K", index < 3) for index in range(4)] + [("COCO", True), ("COCO", False)]
    rows += [("Omni3D", index < 1) for index in range(4)]
    totals = cvbench_totals(rows)
    assert totals.micro == 5 / 10
    assert (totals.two_d, totals.three_d) == (0.625, 0.25)
    assert totals.averaged == 0.4375
    assert totals.by_source == {"ade20k": (3, 4), "coco": (1, 2), "omni3d": (1, 4)}
    part = cvbench_totals(rows[:4])
    assert (part.micro, part.two_d, part.three_d, part.averaged) == (0.75, None, None, None)
    with pytest.raises(ValueError, match="no rows"):
        cvbench_totals([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "Size"}, r"unknown task in .*test_2d.parquet, row 1 `Size`: .*known: Count, Relation, Depth"),
        ({"answer": "(E)"}, r"row 1: field `answer` is `\(E\)`, not one of \(A\), \(B\), \(C\), \(D\)"),
        ({"answer": None}, "row 1: field `answer` is missing or empty"),
        ({"prompt": ""}, "row 1: field `prompt` is missing or empty"),
        ({"choices": ["3"]}, "row 1: field `choices` holds fewer than two choices"),
        ({"choices": ["3", "2"]}, "row 1: field `prompt` lists 4 choices, `choices` 2"),
        ({"image": None}, "row 1: the row holds no picture"),
        ({"source": None}, "row 1: field `source` is missing"),
    ],
)
def test_a_bad_cvbench_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_cvbench(tmp_path / "cvbench", [{**CVBENCH[0], **change}, *CVBENCH[1:]])
    with pytest.raises(InputError, match=message):
        cvbench(tmp_path)


def test_ids_must_be_unique_and_files_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cvbench: holds none of test.parquet, or test_2d.parquet and test_3d"):
        cvbench(tmp_path)
    write_cvbench(tmp_path / "cvbench", [CVBENCH[0], CVBENCH[0], CVBENCH[4]])
    with pytest.raises(InputError, match="row 2: the id `2D/0` has been used before"):
        cvbench(tmp_path)


def sat(root: Path, split: str) -> tuple[Sample, ...]:
    return tuple(load_task(TaskSpec(name="sat", split=split), root).samples)


def test_sat_keeps_commas_and_shuffles_training_choices_by_seed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_sat(tmp_path / "sat", split)
    train, val = sat(tmp_path, "train"), sat(tmp_path, "val")
    assert [sample.choices for sample in val] == [tuple(dict.fromkeys(row["answers"])) for row in SAT]
    assert [sample.answer for sample in train] == [row["correct_answer"] for row in SAT]
    assert all(set(a.choices) == set(b.choices) for a, b in zip(train, val, strict=True))
    assert [a.choices for a in train] != [b.choices for b in val]
    assert [a.choices for a in train] == [a.choices for a in sat(tmp_path, "train")]
    assert val[0].question == (
        "Answer in natural language. Where did thing 0 go? Choose between the following options: "
        "left, behind the sofa or right, near the door"
    )
    assert [len(sample.images) for sample in val] == [1, 2, 1, 1, 2, 1]
    assert [picture_bytes(load) for load in val[1].images] == [held["bytes"] for held in SAT[1]["image_bytes"]]
    assert (val[1].id, val[1].skill) == ("sat-val/000002", "obj_movement")


def test_sat_places_of_right_choices_even_out_over_many_rows(tmp_path: Path) -> None:
    write_sat(tmp_path / "sat", rows=[sat_row(0, "other", ["a jug", "a cup"], "a jug") for _ in range(400)])
    first = sum(sample.choices[0] == sample.answer for sample in sat(tmp_path, "train"))
    assert 150 < first < 250


def test_sat_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="field `split` is missing; write `split: train` or `split: static`"):
        load_task(TaskSpec(name="sat"), tmp_path)
    write_sat(tmp_path / "sat", rows=[{**SAT[0], "correct_answer": "left"}])
    with pytest.raises(InputError, match=r"row 1: field `answers` .* does not hold the correct answer `left`"):
        sat(tmp_path, "train")
    write_sat(tmp_path / "sat", rows=[{**SAT[0], "answers": ["left", "left"], "correct_answer": "left"}])
    with pytest.raises(InputError, match="row 1: field `answers` holds one choice only"):
        sat(tmp_path, "train")
    (tmp_path / "sat" / "SAT_train.parquet").rename(tmp_path / "sat" / "mine.parquet")
    with pytest.raises(InputError, match=r"mine\.parquet: its name does not say the split"):
        load_task(TaskSpec(name="sat", path="sat/mine.parquet"), tmp_path)


def test_blink_reads_all_fourteen_sub_tasks_as_published(tmp_path: Path) -> None:
    write_blink(tmp_path / "blink", SUBTASKS)
    samples = load_task(TaskSpec(name="blink-all"), tmp_path).samples
    assert len(samples) == 28
    assert {sample.skill for sample in samples} == {name.replace("_", " ") for name in SUBTASKS}
    assert {len(sample.images) for sample in samples} == {1, 2, 3, 4}
    assert [load().size for load in samples[-1].images] == [(n + 13, 4) for n in range(1, 1 + len(samples[-1].images))]
    assert {sample.answer for sample in samples} == {"the second"}
    two = load_task(TaskSpec(name="blink"), tmp_path).samples
    assert [sample.skill for sample in two] == ["Relative Depth"] * 2 + ["Spatial Relation"] * 2
    one = load_task(TaskSpec(name="blink", path="blink/Jigsaw/val-00000-of-00001.parquet"), tmp_path).samples
    assert [sample.id for sample in one] == ["val_Jigsaw_1", "val_Jigsaw_2"]


def test_blink_choices_come_from_their_column_where_the_prompt_lists_none(tmp_path: Path) -> None:
    row = {"idx": "1", "sub_task": "IQ_Test", "answer": "B", "prompt": "Which?", "choices": ["one, two", "three"]}
    row["image_1"] = {"bytes": picture("red"), "path": None}
    pq.write_table(pa.Table.from_pylist([row], schema=BLINK_SCHEMA), tmp_path / "iq.parquet")
    (sample,) = load_task(TaskSpec(name="blink", path="iq.parquet"), tmp_path).samples
    assert (sample.choices, sample.answer, sample.skill) == (("one, two", "three"), "three", "IQ Test")


def test_vsr_is_asked_in_the_papers_words(tmp_path: Path) -> None:
    write_vsr(tmp_path / "vsr")
    samples = load_task(TaskSpec(name="vsr"), tmp_path).samples
    assert samples[0].question == (
        'Please analyze the provided image. Does the statement "The cat is under the bed." accurately describes what '
        "you see? Choose from (A) True or (B) False."
    )
    assert [sample.answer for sample in samples] == ["True", "False", "True"]
    assert [sample.group for sample in samples] == ["000000000.jpg", "000000000.jpg", "000000001.jpg"]
    assert picture_bytes(samples[0].images[0]) == (tmp_path / "vsr" / "images" / "000000000.jpg").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "row 1: field `label` is `2`; write 1 for true or 0 for false"),
        ({"caption": ""}, "row 1: field `caption` is missing or empty"),
        ({"image": "gone.jpg"}, "row 1: picture gone.jpg is in none of .*name its folder with --images"),
        ({"image": "../test.jsonl"}, "row 1: .* is no name of a picture inside a folder"),
        ({"image": "/etc/hosts"}, "row 1: .* is no name of a picture inside a folder"),
        ({"image": "\0"}, "row 1: picture .* is in none of"),
        ({"image": 7}, "row 1: 7 is no name of a picture"),
        ({"image": None}, "row 1: the row holds no picture"),
    ],
)
def test_a_bad_vsr_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_vsr(tmp_path / "vsr", [{**VSR[0], **change}])
    with pytest.raises(InputError, match=message) as caught:
        load_task(TaskSpec(name="vsr"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows; write at least one"),
        ("index\timage\n1\n", "row 1: 1 fields, not 2"),
        ("index\timage\n1\t9\n", "row 1: field `image` is neither base64 nor an earlier index"),
        (f"index\timage\n1\t[{'x' * 99}\n", "row 1: the list of pictures is not JSON"),
        ('index\timage\n1\t"\0', "row 1: "),
    ],
)
def test_a_damaged_tsv_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.tsv").write_text(text)
    with pytest.raises(InputError, match=rf"bad\.tsv.*{message}"):
        load_task(TaskSpec(name="cvbench", path="bad.tsv"), tmp_path)


def test_what_is_no_base64_no_json_or_no_parquet_is_named(tmp_path: Path) -> None:
    write_cvbench_tsv(tmp_path)
    tsv = (tmp_path / "CV-Bench-3D.tsv").read_text()
    head, rest = tsv.split("\n", 1)
    (tmp_path / "bad.tsv").write_text(f"{head}\n{rest.replace('iVBOR', '!!!!!', 1)}")
    sample = load_task(TaskSpec(name="cvbench", path="bad.tsv"), tmp_path).samples[0]
    with pytest.raises(InputError, match=r"bad\.tsv, row 1: picture is not base64"):
        sample.images[0]()
    (tmp_path / "bad.jsonl").write_text(json.dumps(CVBENCH[0]["choices"]))
    with pytest.raises(InputError, match=r"bad\.jsonl, row 1: not an object"):
        load_task(TaskSpec(name="cvbench", path="bad.jsonl"), tmp_path)
    with pytest.raises(InputError, match=r"ends in `.csv`; give a .parquet, .jsonl, .tsv file"):
        load_task(TaskSpec(name="cvbench", path="bad.csv"), tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"bad\.parquet: cannot be read as parquet"):
        load_task(TaskSpec(name="cvbench", path="bad.parquet"), tmp_path)


def test_a_list_of_pictures_in_tsv_is_read_item_by_item(tmp_path: Path) -> None:
    held = [picture("red"), picture("blue", (5, 5))]
    row = cvbench_row(0, "2D", "Count", "COCO", "How many?", ["1", "2"], "(A)")
    cells = {"index": "7", "image": json.dumps([base64.b64encode(data).decode() for data in held])}
    cells |= {"split": "2D", "category": "Count", "source": "COCO", "A": "1", "B": "2", "answer": "A"}
    cells["prompt"] = row["prompt"]
    quoted = ['"' + value.replace('"', '""') + '"' for value in cells.values()]
    (tmp_path / "two.tsv").write_text("\t".join(cells) + "\n" + "\t".join(quoted) + "\n")
    (sample,) = load_task(TaskSpec(name="cvbench", path="two.tsv"), tmp_path).samples
    assert [picture_bytes(load) for load in sample.images] == held


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**CVBENCH[0], "image": {"bytes": None, "path": "a.png"}}], schema=CVBENCH_SCHEMA)
    pq.write_table(table, tmp_path / "a.parquet")
    (sample,) = load_task(TaskSpec(name="cvbench", path="a.parquet"), tmp_path).samples
    with pytest.raises(InputError, match=r"a\.parquet, row 1: field `image` holds no picture"):
        sample.images[0]()
