"""Small data sets in the exact columns that CV-Bench, SAT, BLINK and VSR publish.

The real files are not to be had where these tests run; the texts and pictures here are our own.
"""

import base64
import csv
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HUB_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How the hub's data sets hold a picture."""


def picture(colour: str, size: tuple[int, int] = (12, 8), kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def lines(choices: list[str]) -> str:
    return "\n".join(f"({'ABCDEF'[index]}) {choice}" for index, choice in enumerate(choices))


def cvbench_row(
    idx: int, kind: str, skill: str, source: str, text: str, choices: list[str], answer: str
) -> dict[str, Any]:
    colour = ("red", "green", "blue", "teal")[idx % 4]
    return {
        "idx": idx,
        "type": kind,
        "task": skill,
        "image": {"bytes": picture(colour), "path": f"{source.lower()}_{idx}.png"},
        "question": text,
        "choices": choices,
        "answer": answer,
        "prompt": f"{text} Select from the following choices.\n{lines(choices)}",
        "filename": f"img/{kind}/{skill.lower()}/{source.lower()}_{idx}.png",
        "source": source,
        "source_dataset": f"{source} Val",
        "source_filename": f"{idx // 2}.jpg",
        "target_class": "cup",
        "target_size": 64,
        "bbox": [[1.0, 2.0, 3.0, 4.0]] if skill == "Relation" else [],
    }


CVBENCH = [
    cvbench_row(0, "2D", "Count", "ADE20K", "How many cups are there?", ["3", "2", "1", "0"], "(C)"),
    cvbench_row(1, "2D", "Count", "COCO", "How many plates are there?", ["0", "10", "1"], "(B)"),
    cvbench_row(2, "2D", "Relation", "ADE20K", "Where is the cup, seen from the jug?", ["left", "right"], "(A)"),
    cvbench_row(3, "2D", "Relation", "COCO", "Where is the lamp, seen from the bed?", ["above", "below"], "(B)"),
    cvbench_row(4, "3D", "Depth", "Omni3D", "Which object is closer to us?", ["table", "chair"], "(B)"),
    cvbench_row(5, "3D", "Distance", "Omni3D", "Which is nearer to the door?", ["shelf, white", "desk"], "(A)"),
    cvbench_row(6, "3D", "Depth", "Omni3D", "Which of the books is closer?", ["books", "books"], "(B)"),
]
CVBENCH_SCHEMA = pa.schema(
    [
        ("idx", pa.int32()),
        ("type", pa.string()),
        ("task", pa.string()),
        ("image", HUB_IMAGE),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("prompt", pa.string()),
        ("filename", pa.string()),
        ("source", pa.string()),
        ("source_dataset", pa.string()),
        ("source_filename", pa.string()),
        ("target_class", pa.string()),
        ("target_size", pa.int32()),
        ("bbox", pa.list_(pa.list_(pa.float64()))),
    ]
)


def write_cvbench(folder: Path, rows: list[dict[str, Any]] = CVBENCH) -> Path:
    """`test_2d.parquet` and `test_3d.parquet`, as the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("2D", "3D"):
        part = pa.Table.from_pylist([row for row in rows if row["type"] == kind], schema=CVBENCH_SCHEMA)
        pq.write_table(part, folder / f"test_{kind.lower()}.parquet", row_group_size=2)
    return folder


def write_cvbench_jsonl(folder: Path) -> Path:
    """`test.jsonl` and the folder `img/` that its `filename` points into."""
    for row in CVBENCH:
        file = folder / row["filename"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])
    kept = [{name: value for name, value in row.items() if name != "image"} for row in CVBENCH]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return folder


def write_cvbench_tsv(folder: Path) -> Path:
    """`CV-Bench-2D.tsv` and `CV-Bench-3D.tsv`: base64, a column for each letter; one row borrows another's picture."""
    for kind in ("2D", "3D"):
        with (folder / f"CV-Bench-{kind}.tsv").open("w", newline="", encoding="utf-8") as file:
            names = ["index", "image", "question", *"ABCD", "answer", "category", "split", "source", "prompt"]
            out = csv.DictWriter(file, names, delimiter="\t")
            out.writeheader()
            for index, row in enumerate(row for row in CVBENCH if row["type"] == kind):
                borrowed = kind == "2D" and index == 3
                out.writerow(
                    {
                        "index": index,
                        "image": "0" if borrowed else base64.b64encode(row["image"]["bytes"]).decode(),
                        "question": row["question"],
                        **dict(zip("ABCD", row["choices"], strict=False)),
                        "answer": row["answer"].strip("()"),
                        "category": row["task"],
                        "split": kind,
                        "source": row["source"],
                        "prompt": row["prompt"],
                    }
                )
    return folder


def sat_row(number: int, kind: str, answers: list[str], correct: str, pictures: int = 1) -> dict[str, Any]:
    colours = ("red", "green", "blue")[:pictures]
    return {
        "image_bytes": [{"bytes": picture(colour, (16 + number, 16), "JPEG"), "path": None} for colour in colours],
        "question": f"Where did thing {number} go?",
        "answers": answers,
        "question_type": kind,
        "correct_answer": correct,
    }


SAT = [
    sat_row(0, "other", ["left, behind the sofa", "right, near the door"], "left, behind the sofa"),
    sat_row(1, "obj_movement", ["it moved", "it did not move"], "it did not move", pictures=2),
    sat_row(2, "perspective", ["yes", "no"], "yes"),
    sat_row(3, "other", ["1", "2", "3", "4"], "4"),
    sat_row(4, "ego_movement", ["rotated left", "rotated right"], "rotated left", pictures=2),
    sat_row(5, "other", ["near", "far", "near"], "far"),
]
SAT_SCHEMA = pa.schema(
    [
        ("image_bytes", pa.list_(HUB_IMAGE)),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("question_type", pa.string()),
        ("correct_answer", pa.string()),
    ]
)


def write_sat(folder: Path, split: str = "train", rows: list[dict[str, Any]] = SAT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SAT_SCHEMA), folder / f"SAT_{split}.parquet", row_group_size=4)
    return folder


BLINK_SCHEMA = pa.schema(
    [
        ("idx", pa.string()),
        ("question", pa.string()),
        ("sub_task", pa.string()),
        *((f"image_{number}", HUB_IMAGE) for number in (1, 2, 3, 4)),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("prompt", pa.string()),
        ("explanation", pa.string()),
    ]
)


def write_blink(folder: Path, subtasks: tuple[str, ...]) -> Path:
    """A folder with `val-00000-of-00001.parquet` for each sub-task, two rows of one to four pictures each."""
    for place, subtask in enumerate(subtasks):
        rows = []
        for index in range(2):
            choices = ["the first", "the second", "neither"][: 2 + index]
            held = {f"image_{n}": {"bytes": picture("red", (n + place, 4)), "path": f"{n}.jpg"} for n in (1, 2, 3, 4)}
            pictures = {name: held[name] for name in list(held)[: 1 + (place + index) % 4]}
            rows.append(
                {
                    "idx": f"val_{subtask}_{index + 1}",
                    "question": "Which?",
                    "sub_task": subtask,
                    **pictures,
                    "choices": choices,
                    "answer": "(B)",
                    "prompt": f"Which?\nSelect from the following options.\n{lines(choices)}",
                    "explanation": "",
                }
            )
        (folder / subtask).mkdir(parents=True, exist_ok=True)
        file = folder / subtask / "val-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=BLINK_SCHEMA), file)
    return folder


VSR = [
    {
        "image": f"00000000{number // 2}.jpg",
        "image_link": f"http://images.example/train2017/00000000{number // 2}.jpg",
        "caption": f"The cat is {relation} the bed.",
        "label": label,
        "relation": relation,
        "annotator_id": 3,
        "vote_true_validator_id": [1],
        "vote_false_validator_id": [],
    }
    for number, (relation, label) in enumerate([("under", 1), ("on", 0), ("facing", 1)])
]


def write_vsr(folder: Path, rows: list[dict[str, Any]] = VSR) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in {row["image"] for row in VSR}:
        (folder / "images" / name).write_bytes(picture("green", kind="JPEG"))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
