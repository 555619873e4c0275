"""Logs of inspect_ai, read without it."""

import json
import zipfile
from pathlib import Path

import pytest
from evaluation.inspect_files import header, members, sample, zip_of

from cleareyed.errors import InputError
from cleareyed.evaluation import inspect_log
from cleareyed.evaluation.inspect_log import read_header, read_samples


def test_samples_and_their_states(tmp_path: Path) -> None:
    log = zip_of(
        tmp_path / "log.eval",
        members(
            sample("s1", "The answer is (B)."),
            sample(2, "(A) becau", "max_tokens"),
            sample("s3", "", "content_filter"),
            sample("s4", "  "),
            sample("s5", None, error={"message": "Connection error", "traceback": "..."}),
            sample("s6", "half", error={"message": "the scorer broke"}),
            sample("s7", None, limit={"type": "time", "limit": 3}),
            sample("s8", "whole", limit={"type": "token", "limit": 3}),
            sample("s9", "", "model_length"),
        ),
    )
    found = list(read_samples(log))
    assert [(one.id, one.state, one.error) for one in found] == [
        ("s1", "answered", None),
        ("2", "cut-off", None),
        ("s3", "filtered", None),
        ("s4", "empty", None),
        ("s5", "failed", "Connection error"),
        ("s6", "failed", "the scorer broke"),
        ("s7", "failed", "no output before the time limit"),
        ("s8", "answered", None),
        ("s9", "cut-off", None),
    ]
    first = found[0]
    assert (first.input, first.output, first.images) == (
        "What is s1?",
        "The answer is (B).",
        ("data:image/png;base64,AAAA",),
    )
    assert (first.target, first.choices, first.scores, first.metadata) == (
        "A",
        ("x", "y"),
        {"match": "C"},
        {"skill": "depth"},
    )
    assert (first.input_tokens, first.output_tokens, first.seconds, first.model) == (7, 3, 0.5, "m")
    head = read_header(log)
    assert (head.task, head.model, head.config) == (
        "cleareyed/table",
        "openai/m",
        {"max_tokens": 16, "temperature": 0},
    )


def test_texts_of_several_parts_and_attachments(tmp_path: Path) -> None:
    asked = [
        {"type": "text", "text": "attachment://1"},
        {"type": "text", "text": "b"},
        {"type": "audio", "audio": "x"},
    ]
    said = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "C"}, {"type": "text", "text": "D"}]
    one = sample("a", "x", input=[{"role": "user", "content": asked}], attachments={"1": "long text"})
    one["output"] = {"choices": [{"message": {"content": said}, "stop_reason": "stop"}]}
    two = sample("b", "x", input="plain \U0001f600", target=["A", "B"], choices=None, scores=None)
    first, second = read_samples(zip_of(tmp_path / "log.eval", members(one, two), 0))
    assert (first.input, first.output, first.input_tokens) == ("long text\nb", "CD", None)
    assert (second.input, second.target, second.choices, second.scores) == ("plain \U0001f600", "A\nB", (), {})


def test_deflated_logs_and_those_that_did_not_end(tmp_path: Path) -> None:
    started = {"version": 2, "eval": header()["eval"], "plan": {}}
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as log:
        log.writestr("_journal/start.json", json.dumps(started))
        log.writestr("samples/1_epoch_1.json", json.dumps(sample(1, "A" * 1000)))
    assert read_header(tmp_path / "log.eval").status == "started"
    assert [len(one.output) for one in read_samples(tmp_path / "log.eval")] == [1000]


def test_what_is_no_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *words: str) -> None:
        with pytest.raises(InputError) as caught:
            read_header(path)
            list(read_samples(path))
        assert all(word in str(caught.value) for word in (str(path), *words)), caught.value

    refused(tmp_path / "none.eval", "cannot be read")
    (tmp_path / "text.eval").write_text("no zip")
    refused(tmp_path / "text.eval", "not a log of inspect_ai")
    refused(zip_of(tmp_path / "other.eval", {"a.txt": b"x" * 99}), "header.json")
    whole = members(sample("a", "said"))
    for name in ("header.json", "samples/a_epoch_1.json"):
        refused(zip_of(tmp_path / "turned.eval", whole, broken=name), name, "damaged")
        refused(zip_of(tmp_path / "stored.eval", whole, 0, broken=name), name, "checksum")
    refused(zip_of(tmp_path / "bzip.eval", whole, 12), "method 12")
    refused(zip_of(tmp_path / "shape.eval", members(sample("a", "x", input=3))), "a_epoch_1.json", "input")
    cut = zip_of(tmp_path / "cut.eval", whole).read_bytes()
    (tmp_path / "cut.eval").write_bytes(cut[:-40])
    refused(tmp_path / "cut.eval", "not a log")
    monkeypatch.setattr(inspect_log, "LARGEST_MEMBER", 100)
    refused(zip_of(tmp_path / "huge.eval", whole), "more than 100")
