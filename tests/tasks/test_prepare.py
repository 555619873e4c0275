"""`cleareyed data`: what is written reads back the same, and nothing is left out in silence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tasks.public import (
    CVBENCH,
    SAT,
    VSR,
    cvbench_row,
    picture,
    sat_row,
    write_blink,
    write_cvbench,
    write_sat,
    write_vsr,
)

from cleareyed.data_command import data
from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.tasks.blink import SUBTASKS
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.prepare import Wanted, prepare
from cleareyed.tasks.task import Sample


def content(samples: Any) -> list[tuple[Sample, list[bytes]]]:
    return [(replace(sample, images=()), [picture_bytes(load) for load in sample.images]) for sample in samples]


def write_nlvr(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"dev-{n}",
            "group": "g",
            "image": picture("red", (n + 1, 5)),
            "sentence": "It is red.",
            "label": n == 1,
        }
        for n in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "dev.parquet")
    return folder


@pytest.mark.parametrize(
    ("name", "write", "split"),
    [
        ("cvbench", write_cvbench, None),
        ("sat", write_sat, "train"),
        ("blink-all", lambda folder: write_blink(folder, SUBTASKS), None),
        ("vsr", write_vsr, None),
        ("nlvr", write_nlvr, "dev"),
    ],
)
def test_prepared_data_read_back_the_same(
    tmp_path: Path, name: str, write: Callable[[Path], Path], split: str | None
) -> None:
    spec = TaskSpec(name=name, split=split)
    published = write(tmp_path / "published" / name)
    found = prepare(name, str(published), tmp_path / "new", split=split, wanted=Wanted(multi_image="keep"))
    before = load_task(spec, tmp_path / "published").samples
    after = load_task(spec, tmp_path / "new").samples
    assert content(after) == content(before)
    assert [load().size for load in after[-1].images] == [load().size for load in before[-1].images]
    assert found.samples == len(after) == sum(found.skills.values()) == sum(found.gold.values())
    assert (found.left_out, found.bad_rows) == ({}, [])
    kept = json.loads((tmp_path / "new" / name / f"{found.split}.json").read_text())
    assert (kept["samples"], kept["skills"]) == (found.samples, found.skills)
    assert sorted(path.name for path in (tmp_path / "new" / name).iterdir()) == [
        f"{found.split}.json",
        f"{found.split}.parquet",
    ]


def test_a_table_is_prepared_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    row = {"image": "a.png", "question": "Which colour?", "answer": "red", "choices": ["red", "blue"], "hue": 0}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    found = prepare("table", str(tmp_path / "mine.jsonl"), tmp_path / "new")
    before = load_task(TaskSpec(name="table", path=str(tmp_path / "mine.jsonl")), None).samples
    assert content(load_task(TaskSpec(name="table", path=found.file), None).samples) == content(before)


def test_what_is_not_wanted_is_counted_by_reason(tmp_path: Path) -> None:
    source = str(write_sat(tmp_path / "sat"))
    with pytest.raises(InputError, match="2 of 6 rows have several pictures; say --multi-image keep or"):
        prepare("sat", source, tmp_path / "new", split="train")
    assert not (tmp_path / "new").exists()
    wanted = Wanted(skills=("other", "ego_movement"), multi_image="drop")
    found = prepare("sat", source, tmp_path / "new", split="train", wanted=wanted)
    assert found.left_out == {
        "skill `obj_movement` not asked for": 1,
        "skill `perspective` not asked for": 1,
        "several pictures": 1,
    }
    assert (found.samples, found.skills, found.multi_image) == (3, {"other": 3}, 0)
    with pytest.raises(InputError, match=r"unknown skill `others`: did you mean `other`\?"):
        prepare("sat", source, tmp_path / "two", split="train", wanted=Wanted(("others",), "keep"))


def test_a_limit_draws_by_seed_from_all_rows_and_keeps_their_order(tmp_path: Path) -> None:
    source = str(write_sat(tmp_path / "sat", rows=[sat_row(n, "other", ["x", "y"], "x") for n in range(60)]))

    def drawn(seed: int, folder: str) -> list[str]:
        wanted = Wanted(limit=20, seed=seed)
        found = prepare("sat", source, tmp_path / folder, split="train", wanted=wanted)
        assert found.left_out == {"beyond the limit, by lot": 40}
        return [s.id for s in load_task(TaskSpec(name="sat", split="train"), tmp_path / folder).samples]

    one, again, other = drawn(1, "one"), drawn(1, "again"), drawn(2, "other")
    assert one == again == sorted(one)
    assert one != other
    assert max(one) > "sat-train/000030"


def test_the_seed_orders_choices(tmp_path: Path) -> None:
    source = str(write_sat(tmp_path / "sat", rows=[sat_row(n, "other", ["x", "y", "z"], "x") for n in range(30)]))
    orders = []
    for seed in (0, 1):
        prepare("sat", source, tmp_path / str(seed), split="train", wanted=Wanted(seed=seed))
        samples = load_task(TaskSpec(name="sat", split="train"), tmp_path / str(seed)).samples
        assert {sample.answer for sample in samples} == {"x"}
        orders.append([sample.choices for sample in samples])
    assert orders[0] != orders[1]
    assert orders[0] == [s.choices for s in load_task(TaskSpec(name="sat", split="train"), tmp_path).samples]


BAD = [VSR[0], {**VSR[1], "label": 5}, {**VSR[2], "image": "gone.jpg"}]


def test_bad_rows_stop_it_or_are_listed(tmp_path: Path) -> None:
    source = str(write_vsr(tmp_path / "vsr", BAD))
    with pytest.raises(InputError, match=r"row 2: field `label` is `5`; .*\(1 more rows are bad\).*--leave-out-bad"):
        prepare("vsr", source, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    found = prepare("vsr", source, tmp_path / "new", wanted=Wanted(leave_out_bad=True))
    assert (found.samples, found.left_out, len(found.bad_rows)) == (1, {"bad row": 2}, 2)
    assert "gone.jpg" in found.bad_rows[1]
    assert len(load_task(TaskSpec(name="vsr"), tmp_path / "new").samples) == 1


def test_pictures_that_cannot_be_decoded_are_bad_rows(tmp_path: Path) -> None:
    write_vsr(tmp_path / "vsr")
    (tmp_path / "vsr" / "images" / "000000001.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"test\.jsonl, row 3 \(.*0001\.jpg\): image cannot be decoded"):
        prepare("vsr", str(tmp_path / "vsr"), tmp_path / "new")
    assert list((tmp_path / "new").rglob("*.*")) == []
    found = prepare("vsr", str(tmp_path / "vsr"), tmp_path / "new", wanted=Wanted(leave_out_bad=True))
    assert (found.samples, found.left_out) == (2, {"bad row": 1})


def test_pictures_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    write_vsr(tmp_path / "vsr")
    (tmp_path / "vsr" / "images").rename(tmp_path / "coco")
    with pytest.raises(InputError, match=r"row 1: picture 000000000\.jpg is in none of"):
        prepare("vsr", str(tmp_path / "vsr"), tmp_path / "new")
    assert prepare("vsr", str(tmp_path / "vsr"), tmp_path / "new", images=tmp_path / "coco").distinct_pictures == 1


def test_duplicates_and_contradictions_are_counted_and_kept(tmp_path: Path) -> None:
    first = cvbench_row(0, "2D", "Count", "COCO", "How many?", ["1", "2"], "(A)")
    rows = [first, {**first, "idx": 1}, {**first, "idx": 2, "answer": "(B)"}, CVBENCH[4]]
    write_cvbench(tmp_path / "cvbench", rows)
    found = prepare("cvbench", str(tmp_path / "cvbench"), tmp_path / "new")
    assert (found.samples, found.duplicates, found.contradictions) == (4, 1, 1)
    assert (found.pictures, found.distinct_pictures, found.gold) == (4, 1, {"A": 2, "B": 2})
    assert found.sides == (8, 10, 12)
    assert found.notes[0] == "skill Count: 3 samples, the benchmark's authors state 788"


def test_nothing_is_overwritten_and_a_task_is_read_as_itself(tmp_path: Path) -> None:
    source = str(write_cvbench(tmp_path / "cvbench"))
    prepare("cvbench", source, tmp_path / "new")
    with pytest.raises(InputError, match=r"test\.parquet: exists already; delete it, or give another folder"):
        prepare("cvbench", source, tmp_path / "new")
    (tmp_path / "new" / "vsr").mkdir()
    (tmp_path / "new" / "cvbench" / "test.parquet").rename(tmp_path / "new" / "vsr" / "test.parquet")
    with pytest.raises(InputError, match="prepared as task `cvbench`, not `vsr`"):
        load_task(TaskSpec(name="vsr"), tmp_path / "new")


def test_a_damaged_prepared_file_is_named(tmp_path: Path) -> None:
    prepare("cvbench", str(write_cvbench(tmp_path / "cvbench")), tmp_path / "new")
    file = tmp_path / "new" / "cvbench" / "test.parquet"
    table = pq.read_table(file)
    newer = {b"cleareyed": json.dumps({"format": 9, "task": "cvbench"}).encode()}
    pq.write_table(table.replace_schema_metadata(newer), file)
    with pytest.raises(InputError, match="prepared in format 9, not 1"):
        load_task(TaskSpec(name="cvbench"), tmp_path / "new")
    pq.write_table(table.replace_schema_metadata({b"cleareyed": b"{"}), file)
    with pytest.raises(InputError, match="metadata `cleareyed` are damaged"):
        load_task(TaskSpec(name="cvbench"), tmp_path / "new")
    blank = table.set_column(table.column_names.index("columns"), "columns", pa.array(["{"] * len(table)))
    pq.write_table(blank.replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(InputError, match="cannot be read as prepared data"):
        load_task(TaskSpec(name="cvbench"), tmp_path / "new")


@pytest.mark.parametrize(
    ("name", "source", "split", "message"),
    [
        ("cvbensh", "x", None, r"unknown task to prepare `cvbensh`: did you mean `cvbench`\?"),
        ("cvbench", "nowhere", None, "nowhere: no such file or folder; give one, or hub:OWNER/NAME"),
        ("cvbench", "nowhere", "dev", "unknown split of task `cvbench` `dev`"),
        ("nlvr", "hub", "dev", "task `nlvr` is not on the hub"),
        ("sat", "hub", None, "task `sat`: field `split` is missing"),
        ("table", "hub:a/b", None, "is not on the hub"),
        ("cvbench", "hub:no name at all", None, "hub:no name at all: cannot be fetched"),
    ],
)
def test_sources_are_checked(tmp_path: Path, name: str, source: str, split: str | None, message: str) -> None:
    if source == "nowhere" and split:
        source = str(tmp_path)
    with pytest.raises(InputError, match=message):
        prepare(name, source, tmp_path / "new", split=split)


def test_what_lies_in_the_hubs_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is not to be had here: a cache folder as the hub's client lays it out, and no network."""
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    held = tmp_path / "hub" / "datasets--array--SAT"
    write_sat(held / "snapshots" / commit, "val", SAT)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = prepare("sat", "hub", tmp_path / "new", split="val", wanted=Wanted(multi_image="keep"))
    assert (found.samples, found.sources) == (6, [f"hub:array/SAT@{commit}/SAT_val.parquet"])
    with pytest.raises(InputError, match=r"hub:array/SAT: holds no SAT_test\.parquet"):
        prepare("sat", "hub", tmp_path / "new", split="test")


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(write_vsr(tmp_path / "vsr", BAD))
    data("vsr", source, tmp_path / "new", None, None, Wanted(leave_out_bad=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/new/vsr/test.parquet: 1 sample of task vsr, split test"
    assert lines[1].startswith(
        "pictures: 1, distinct 1 (0.0 MB, sides 8 to 12 px, median 10); samples with several: 0"
    )
    assert lines[2:6] == [
        "right choice by place: A 100.0%",
        "duplicates: 0; same question, other answer: 0; both kept",
        "left out: 2",
        "  bad row: 2",
    ]
    assert "row 2: field `label` is `5`" in lines[6]
