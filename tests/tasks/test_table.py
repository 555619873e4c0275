import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks import parquet
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.parquet import Cell
from cleareyed.tasks.table import table_task


def picture(colour: str) -> bytes:
    out = BytesIO()
    Image.new("RGB", (4, 3), colour).save(out, "PNG")
    return out.getvalue()


GOOD = {"image": "red.png", "question": "Which colour?", "answer": "red", "choices": ["red", "blue"]}


def jsonl(folder: Path, *rows: Any) -> Path:
    (folder / "red.png").write_bytes(picture("red"))
    (folder / "blue.png").write_bytes(picture("blue"))
    path = folder / "mine.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_row_becomes_a_sample(tmp_path: Path) -> None:
    row = {**GOOD, "id": 7, "skill": "Colour", "group": "g", "answer": " red ", "extra": {"x": 1}, "note": None}
    (sample,) = table_task(jsonl(tmp_path, row)).samples
    assert sample.question == "Which colour? Choose between the following options: red or blue"
    assert (sample.id, sample.answer, sample.choices) == ("7", "red", ("red", "blue"))
    assert (sample.skill, sample.group, sample.columns) == ("Colour", "g", {"extra": {"x": 1}, "note": None})
    assert sample.images[0]().getpixel((0, 0)) == (255, 0, 0)


def test_choices_are_appended_only_where_the_question_does_not_hold_them(tmp_path: Path) -> None:
    held = {**GOOD, "question": "Is it Red or blue?"}
    inside_a_word = {**GOOD, "question": "Is it tired or blue?"}
    open_question = {"image": "red.png", "question": "Which colour?", "answer": "red"}
    asked = [sample.question for sample in table_task(jsonl(tmp_path, held, inside_a_word, open_question)).samples]
    assert asked[0] == held["question"]
    assert asked[1] == "Is it tired or blue? Choose between the following options: red or blue"
    assert asked[2] == "Which colour?"


def test_numbers_are_text_and_lines_give_ids(tmp_path: Path) -> None:
    row = {"image": ["red.png", "blue.png"], "question": "How many?", "answer": 3, "choices": [2, 3]}
    samples = table_task(jsonl(tmp_path, row, "", row)).samples
    assert [sample.id for sample in samples] == ["mine-1", "mine-3"]
    assert (samples[0].answer, samples[0].choices) == ("3", ("2", "3"))
    assert [image().getpixel((0, 0)) for image in samples[0].images] == [(255, 0, 0), (0, 0, 255)]


def test_an_empty_list_is_a_question_without_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = jsonl(tmp_path, GOOD, {**GOOD, "image": []})
    assert [len(sample.images) for sample in table_task(lines).samples] == [1, 0]
    path = tmp_path / "mine.parquet"
    rows = [{"image": images, "question": "Which?", "answer": "red"} for images in ([], [picture("red")], [])]
    pq.write_table(pa.Table.from_pylist(rows), path)
    samples = table_task(path).samples
    monkeypatch.setattr(Cell, "value", lambda cell: pytest.fail("a picture is read"))
    assert [len(sample.images) for sample in samples] == [0, 1, 0]


def without(field: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != field}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("image"), "field `image` is missing"),
        ({**GOOD, "image": ""}, "field `image` is empty"),
        ({**GOOD, "image": None}, r"field `image` is missing; give .*, or \[\] for no picture"),
        ({**GOOD, "image": [""]}, "field `image` is empty"),
        ({**GOOD, "image": 5}, "field `image` is of type int"),
        ({**GOOD, "image": "green.png"}, "field `image`: no file .*green.png; give a path relative to the data file"),
        ({**GOOD, "image": "\0"}, "field `image`: no file"),
        ({**GOOD, "image": "."}, "field `image`: no file"),
        (without("question"), "field `question` is missing"),
        ({**GOOD, "question": "  "}, "field `question` is blank"),
        ({**GOOD, "question": ["a"]}, "field `question` is of type list"),
        (without("answer"), "field `answer` is missing"),
        ({**GOOD, "answer": ""}, "field `answer` is empty"),
        ({**GOOD, "answer": True}, "field `answer` is of type bool"),
        ({**GOOD, "answer": "green"}, r"field `choices` \(red, blue\) does not contain the answer `green`"),
        ({**GOOD, "answer": "Red"}, "does not contain the answer `Red`"),
        ({**GOOD, "choices": []}, "field `choices` is empty"),
        ({**GOOD, "choices": "red, blue"}, "field `choices` is of type str"),
        ({**GOOD, "choices": ["red"]}, "field `choices` is of type list; write a list of two or more"),
        ({**GOOD, "choices": ["red", "red "]}, "the same choice twice"),
        ({**GOOD, "id": "one"}, "field `id` is `one`, as in line 1; make ids unique"),
        ({**GOOD, "completions": 1}, "field `completions` has a name that reward functions use"),
        ("{not json}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "of type list instead of an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = jsonl(tmp_path, {**GOOD, "id": "one"}, row)
    with pytest.raises(InputError, match=rf"mine\.jsonl, line 2: .*{message}") as caught:
        table_task(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        table_task(jsonl(tmp_path))
    with pytest.raises(InputError, match=r"none\.jsonl: no such file"):
        table_task(tmp_path / "none.jsonl")
    (tmp_path / "mine.csv").write_text("a,b")
    with pytest.raises(InputError, match=r"ends in `\.csv`"):
        table_task(tmp_path / "mine.csv")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe4"}\n')
    with pytest.raises(InputError, match="not UTF-8"):
        table_task(tmp_path / "latin.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        table_task(tmp_path / "broken.parquet")


def test_a_truncated_picture_is_named_with_its_row_when_it_is_decoded(tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD)
    (tmp_path / "red.png").write_bytes(picture("red")[:40])
    (sample,) = table_task(path).samples
    with pytest.raises(InputError, match=r"mine\.jsonl, line 1 \(.*red\.png\): image cannot be decoded"):
        sample.images[0]()


IMAGE_COLUMNS: dict[str, Callable[[str], Any]] = {
    "bytes": picture,
    "path": lambda colour: f"{colour}.png",
    "struct": lambda colour: {"bytes": picture(colour), "path": None},
    "struct of paths": lambda colour: {"bytes": None, "path": f"{colour}.png"},
    "list of bytes": lambda colour: [picture("blue"), picture(colour)],
    "list of structs": lambda colour: [{"bytes": picture("blue"), "path": None}, {"bytes": picture(colour)}],
}


@pytest.mark.parametrize("kind", IMAGE_COLUMNS)
def test_parquet_holds_pictures_in_many_ways(tmp_path: Path, kind: str) -> None:
    jsonl(tmp_path)
    colours = ["red", "blue", "red", "red", "blue"]
    rows = [{"image": IMAGE_COLUMNS[kind](c), "question": "Which?", "answer": c, "hint": c[0]} for c in colours]
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    samples = table_task(path).samples
    seen = [sample.images[-1]().getpixel((0, 0)) for sample in samples]
    assert seen == [(255, 0, 0) if colour == "red" else (0, 0, 255) for colour in colours]
    assert [sample.columns for sample in samples] == [{"hint": colour[0]} for colour in colours]
    assert samples[4].id == "mine-5"


def test_parquet_with_a_gap_or_without_a_column(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    rows = [{"image": picture("red"), "question": "Which?", "answer": "red"}, {"image": None, "question": "Which?"}]
    pq.write_table(pa.Table.from_pylist([rows[0], {**rows[1], "answer": "red"}]), path)
    with pytest.raises(InputError, match=r"mine\.parquet, row 2: field `image` is missing"):
        table_task(path)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist([{"image": b"", "question": "Which?"}]), other)
    with pytest.raises(InputError, match=r"other\.parquet: column `answer` is missing \(columns: image, question\)"):
        table_task(other)


def test_rows_are_read_again_and_pictures_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"image": image(colour), "question": f"Which? {number}", "answer": colour}
        for image in (IMAGE_COLUMNS["bytes"], IMAGE_COLUMNS["list of bytes"])
        for number, colour in enumerate(["red", "blue", "red"])
    ]
    for kind, own in (("bytes", rows[:3]), ("lists", rows[3:])):
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.Table.from_pylist(own), path, row_group_size=2)
        samples = table_task(path).samples
        before = list(samples)
        with monkeypatch.context() as patch:
            patch.setattr(Cell, "value", lambda cell: pytest.fail("a picture is read"))
            assert list(samples) == before
            assert samples[-1] == before[2] and samples[1:] == before[1:]
        assert [load() for sample in samples for load in sample.images][-1].getpixel((0, 0)) == (255, 0, 0)


def test_a_table_that_changes_while_in_use_is_refused(tmp_path: Path) -> None:
    lines = jsonl(tmp_path, GOOD, GOOD)
    table = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist([{"image": "red.png", "question": "Which?", "answer": "red"}]), table)
    for path in (lines, table):
        samples = table_task(path).samples
        path.write_bytes(path.read_bytes()[:-1] + b" ")
        with pytest.raises(InputError, match=rf"{path.name}: changed while it was in use"):
            samples[0]


def test_large_row_groups_are_read_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_SMALL", 100)
    path = tmp_path / "mine.parquet"
    rows = [{"image": picture("red"), "question": f"Which? {number}", "answer": "red"} for number in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    samples = table_task(path).samples
    for index in (0, 150, 3, 31, 32, 199, 198):
        assert samples[index].question == f"Which? {index}"
        assert picture_bytes(samples[index].images[0]) == picture("red")


def test_a_table_takes_a_few_bytes_a_row(tmp_path: Path) -> None:
    import gc
    import tracemalloc

    def held(count: int) -> int:
        path = jsonl(tmp_path, *({**GOOD, "question": f"{number} {'word ' * 50}"} for number in range(count)))
        tracemalloc.start()
        try:
            task = table_task(path)
            assert len(task.samples) == count
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    held(10)
    assert (held(3000) - held(1000)) / 2000 < 40
