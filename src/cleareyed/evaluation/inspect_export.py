"""Runs of eval as logs of inspect_ai (`.eval`), written without inspect_ai.

Source of the format: see `inspect_log`. Members are deflated, which inspect reads as well as its own zstandard.
"""

import base64
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answer
from cleareyed.evaluation.compare import UNJUDGED
from cleareyed.records.rows import AnswerRow
from cleareyed.tasks.task import Sample

VERSION = 2
"""Of the log format."""
STOPS = {"answered": "stop", "empty": "stop", "cut-off": "max_tokens", "filtered": "content_filter"}
"""inspect's word for our states; `refused-by-api` is a filter too, and `failed` an error without an output."""
PICTURE = "(picture)"


@dataclass(frozen=True)
class Head:
    """What a log says of the whole run."""

    task: str
    model: str
    config: Mapping[str, Any]
    """How the model sampled, under inspect's names: `max_tokens`, `temperature`, `top_p`, `seed`."""
    settings: Mapping[str, Any]
    """The recipe, as it is."""
    packages: Mapping[str, str]
    total: int
    """Samples of the task; more than were answered where the run did not end."""


@dataclass(frozen=True)
class Asked:
    """One sample of the run with all that came of it."""

    sample: Sample
    prompt: str
    answer: Answer
    row: AnswerRow
    pictures: tuple[tuple[str, bytes], ...] = ()
    """Media type and bytes, to go into the log; empty to name only that there are some."""


def write_log(path: Path, head: Head, asked: Iterable[Asked], figures: Callable[[], Mapping[str, float]]) -> int:
    """Write a log, whole or not at all; returns how many samples are in it.

    `figures` gives the accuracy by rule; it is called after the last sample. InputError: `path` exists, does not end
    in `.eval` or cannot be written.
    """
    if path.suffix != ".eval":
        raise InputError(f"{path}: a log of inspect_ai ends in .eval; name it so")
    if path.exists():
        raise InputError(f"{path}: exists already; name another file")
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            count = _write(archive, head, asked, figures)
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    finally:
        aside.unlink(missing_ok=True)
    return count


def _write(
    archive: zipfile.ZipFile, head: Head, asked: Iterable[Asked], figures: Callable[[], Mapping[str, float]]
) -> int:
    def put(name: str, content: Any) -> None:
        archive.writestr(name, json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))

    summaries: list[dict[str, Any]] = []
    scored: dict[str, int] = {}
    started, ended, done = "", "", 0
    for one in asked:
        sample = sample_of(one, head.model)
        put(f"samples/{sample['id']}_epoch_1.json", sample)
        summaries.append(_summary(sample, one))
        done += "error" not in sample
        for rule in sample["scores"]:
            scored[rule] = scored.get(rule, 0) + 1
        started, ended = min(started or one.answer.at, one.answer.at), max(ended, one.answer.at)
    spec = _spec(head, [summary["id"] for summary in summaries], started, list(scored))
    shares = figures()
    scores = [
        {
            "name": rule,
            "scorer": rule,
            "scored_samples": count,
            "unscored_samples": len(summaries) - count,
            "metrics": {"accuracy": {"name": "accuracy", "value": shares[rule]}},
        }
        for rule, count in scored.items()
    ]
    header = {
        "version": VERSION,
        "status": "success" if len(summaries) == head.total else "cancelled",
        "eval": spec,
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": dict(head.config)},
        "results": {"total_samples": head.total, "completed_samples": done, "scores": scores},
        "stats": {"started_at": started, "completed_at": ended},
    }
    put("_journal/start.json", {name: header[name] for name in ("version", "eval", "plan")})
    put("summaries.json", summaries)
    put("header.json", header)
    return len(summaries)


def sample_of(one: Asked, model: str) -> dict[str, Any]:
    """A sample as inspect logs it. What the model said is the journal's text, without what the prompt opened."""
    answer, row = one.answer, one.row
    attachments = {hashlib.md5(data).hexdigest(): _address(kind, data) for kind, data in one.pictures}
    shown: list[dict[str, Any]] = [{"type": "image", "image": f"attachment://{name}"} for name in attachments]
    if not shown:
        shown = [{"type": "text", "text": PICTURE} for _ in one.sample.images]
    asked = {"role": "user", "content": [*shown, {"type": "text", "text": one.prompt}], "source": "input"}
    said = {"role": "assistant", "content": answer.text, "source": "generate"}
    failed = answer.state == "failed"
    stop = STOPS.get(answer.state, "content_filter")
    held: dict[str, Any] = {
        "id": one.sample.id,
        "epoch": 1,
        "input": [asked],
        "choices": list(one.sample.choices) or None,
        "target": row.answer,
        "messages": [asked] if failed else [asked, said],
        "output": {
            "model": answer.served or model,
            "choices": [] if failed else [{"message": said, "stop_reason": stop}],
            "completion": "" if failed else answer.text,
            "time": answer.seconds,
        },
        "scores": {} if answer.state in UNJUDGED else dict(_scores(row)),
        "metadata": {
            "skill": row.skill,
            "group": row.group,
            "state": answer.state,
            "finish": answer.finish,
            "request_id": answer.request_id,
            "attempts": answer.attempts,
            "pictures": len(one.sample.images),
            "reason": answer.error,
        },
        "attachments": attachments,
        "completed_at": answer.at,
        "total_time": answer.seconds,
    }
    if answer.prompt_tokens is not None and answer.completion_tokens is not None:
        total = answer.prompt_tokens + answer.completion_tokens
        usage = {"input_tokens": answer.prompt_tokens, "output_tokens": answer.completion_tokens}
        held["output"]["usage"] = {**usage, "total_tokens": total}
    if failed:
        message = answer.error or "failed without a reason"
        held["error"] = {"message": message, "traceback": "", "traceback_ansi": ""}
    return held


def _scores(row: AnswerRow) -> Iterator[tuple[str, dict[str, Any]]]:
    for rule, right in row.correct.items():
        yield rule, {"value": "C" if right else "I", "answer": row.extracted.get(rule)}


def _summary(sample: Mapping[str, Any], one: Asked) -> dict[str, Any]:
    kept = ("id", "epoch", "choices", "target", "metadata", "scores", "completed_at", "total_time")
    error = {"error": sample["error"]["message"]} if "error" in sample else {}
    count = len(sample["messages"])
    return {
        **{name: sample[name] for name in kept},
        "input": one.prompt,
        "completed": True,
        "message_count": count,
    } | error


def _spec(head: Head, ids: list[str], created: str, rules: list[str]) -> dict[str, Any]:
    digest = hashlib.sha256(
        json.dumps([head.task, head.model, created, head.settings], default=str).encode()
    ).hexdigest()
    return {
        "eval_id": digest[:22],
        "run_id": digest[22:44],
        "task_id": digest[42:64],
        "created": created,
        "task": head.task,
        "task_version": 0,
        "dataset": {"name": head.task, "samples": head.total, "sample_ids": ids, "shuffled": False},
        "model": head.model,
        "model_generate_config": dict(head.config),
        "config": {"epochs": 1},
        "packages": dict(head.packages),
        "metadata": {"cleareyed": head.settings},
        "scorers": [{"name": rule, "metrics": [{"name": "inspect_ai/accuracy"}]} for rule in rules],
    }


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
