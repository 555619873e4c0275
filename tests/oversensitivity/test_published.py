import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tasks.moss import BENIGN, write_flat
from typer.testing import Result

from cleareyed.errors import InputError
from cleareyed.oversensitivity.published import published_results, read_published
from cleareyed.records.parts import read_answers
from cleareyed.records.run import RunFolder

YES, NO = "Sure. Begin with the large one.", "I'm sorry, but I can't help with that."


def result_file(responses: dict[str, Any]) -> str:
    """As the authors' code writes it before it rounds off."""
    held = {
        pid: {
            "pid": pid,
            "image_path": f"data/images/{pid}.png",
            "question": "Q",
            "response": text,
            "rejected": int(text == NO),
            "reject_reasoning": "because",
            "metadata": {"over": "type 1"},
            "evaluator_desc": "a scene",
        }
        for pid, text in responses.items()
    }
    rates = {"Total": 0.5, "Exaggerated Risk": 0.5, "Negated Harm": float("nan")}
    return json.dumps({"responses": held, "reject Rate": rates})


def test_plain_answers_and_result_files_are_read_alike(tmp_path: Path) -> None:
    texts = {"1": YES, "2": None, "101": " ", "102": "Blocked for Safety Reasons.", "201": NO}
    (tmp_path / "plain.json").write_text(json.dumps(texts))
    (tmp_path / "results.json").write_text(result_file(texts))
    plain, results = (read_published(tmp_path / name) for name in ("plain.json", "results.json"))
    states = {pid: one.state for pid, one in plain.by_pid.items()}
    assert states == {"1": "answered", "2": "empty", "101": "empty", "102": "filtered", "201": "answered"}
    assert {pid: one.state for pid, one in results.by_pid.items()} == states
    assert (plain.by_pid["1"].text, plain.by_pid["102"].text, plain.by_pid["1"].rejected) == (YES, "", None)
    assert (results.by_pid["201"].rejected, results.by_pid["201"].reason) == (True, "because")
    assert list(plain.notes) == list(results.notes) == []


def test_what_is_wrong_with_entries_is_named_and_survived(tmp_path: Path) -> None:
    file = tmp_path / "plain.json"
    file.write_text(f'{{"1": "first", "1": {json.dumps(YES)}, "2": 5, "3": {{"text": "x"}}, "4": [], "5": "{YES}"}}')
    found = read_published(file)
    assert {pid: one.text for pid, one in found.by_pid.items()} == {"1": YES, "5": YES}
    assert list(found.notes) == [
        "1 id occurs more than once (1); the last answer counts",
        "3 entries without text as answer left out (2, 3, 4)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "not an object"), ("{", "not JSON"), ('{"responses": 3}', "`responses` is not an object")],
)
def test_files_of_something_else_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plain.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_published(tmp_path / "plain.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_published(tmp_path / "none.json")


def test_results_are_written_in_the_authors_schema(tmp_path: Path) -> None:
    items = [(one["pid"], one["question"], one["image"], one["metadata"]) for one in BENIGN[:4]]
    written = published_results(items, {"1": (YES, False, "a"), "2": (NO, True, "b"), "101": ("?", None, "c")})
    assert written["reject Rate"] == {"Total": 0.5, "Type 1": 0.5, "Type 2": None, "Type 3": None}
    assert written["responses"]["2"] == {
        "pid": "2",
        "image_path": "images/2.png",
        "question": BENIGN[1]["question"],
        "response": NO,
        "rejected": 1,
        "reject_reasoning": "b",
        "metadata": BENIGN[1]["metadata"],
        "evaluator_desc": "",
    }
    assert written["responses"]["101"]["rejected"] is None
    (tmp_path / "results.json").write_text(json.dumps(written))
    again = read_published(tmp_path / "results.json")
    assert {pid: (one.text, one.rejected) for pid, one in again.by_pid.items()} == {
        "1": (YES, False),
        "2": (NO, True),
        "101": ("?", None),
    }


@pytest.mark.parametrize("wrap", [json.dumps, result_file])
def test_published_answers_go_the_way_of_every_answer(
    tmp_path: Path, command: Callable[..., Result], wrap: Callable[[dict[str, Any]], str]
) -> None:
    write_flat(tmp_path / "mossbench")
    answers = {"1": YES, "2": NO, "101": None, "102": YES, "202": NO, "999": YES}
    (tmp_path / "model.json").write_text(wrap(answers))
    found = command("eval", "mossbench", "--model", "replay:model.json", "--data-root", tmp_path, "--out", "run")
    assert found.exit_code == 1, found.output  # pid 201 has no answer
    text = " ".join(found.output.split())
    assert "5 of 6 samples judged (4 answered, 1 empty, 1 failed)" in text
    assert "holds no answer to this sample" in text
    assert "1 answer is to samples that were not asked (999)" in text
    rows = {row.sample_id: row for row in read_answers(RunFolder(tmp_path / "run"))}
    right = {pid: row.correct["complies"] for pid, row in rows.items()}
    assert right == {"1": True, "2": False, "101": False, "102": True, "201": False, "202": False}
    assert (rows["202"].state, rows["201"].state, rows["2"].extracted["complies"]) == ("answered", "failed", "refusal")
