"""Logs as inspect_ai writes them, made without it."""

import json
from collections.abc import Mapping
from pathlib import Path
from struct import pack
from typing import Any
from zlib import crc32

import pyarrow as pa

ZSTANDARD = 93


def zip_of(path: Path, members: Mapping[str, bytes], method: int = ZSTANDARD, *, broken: str = "") -> Path:
    """A zip archive, its members packed by zstandard in two frames, or as they are (method 0).

    The member named `broken` has a byte turned over.
    """
    body, directory = b"", b""
    for name, content in members.items():
        half = len(content) // 2
        packed = _zstd(content[:half]) + _zstd(content[half:]) if method == ZSTANDARD else content
        if name == broken:
            packed = packed[:-9] + bytes([packed[-9] ^ 1]) + packed[-8:]
        head = pack("<HHHHHIII", 20, 0, method, 0, 33, crc32(content), len(packed), len(content))
        place = len(body)
        body += b"PK\x03\x04" + head + pack("<HH", len(name), 0) + name.encode() + packed
        directory += b"PK\x01\x02" + pack("<H", 20) + head
        directory += pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, place) + name.encode()
    end = pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    return path


def header(**more: Any) -> dict[str, Any]:
    spec = {"task": "cleareyed/table", "model": "openai/m", "model_generate_config": {"max_tokens": 16}}
    return {"version": 2, "status": "success", "eval": spec, "plan": {"config": {"temperature": 0.0}}, **more}


def sample(name: int | str, said: str | None, stop: str = "stop", **more: Any) -> dict[str, Any]:
    """One sample about a picture; `said` None is a sample without an output."""
    asked = [
        {"type": "image", "image": "attachment://0a", "detail": "auto"},
        {"type": "text", "text": f"What is {name}?"},
    ]
    choices = [{"message": {"role": "assistant", "content": said}, "stop_reason": stop}]
    output = {"model": "m", "choices": [] if said is None else choices, "completion": said or ""}
    return {
        "id": name,
        "epoch": 1,
        "input": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": asked}],
        "choices": ["x", "y"],
        "target": "A",
        "output": {**output, "usage": {"input_tokens": 7, "output_tokens": 3}, "time": 0.5},
        "scores": {"match": {"value": "C", "answer": said}},
        "metadata": {"skill": "depth"},
        "events": [{"event": "state", "changes": None}],
        "attachments": {"0a": "data:image/png;base64,AAAA"},
        "completed_at": "2026-01-01T00:00:00+00:00",
        **more,
    }


def members(*samples: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    named = {f"samples/{held['id']}_epoch_{held['epoch']}.json": json.dumps(held).encode() for held in samples}
    return {**named, "summaries.json": b"[]", "header.json": json.dumps(head or header()).encode()}


def _zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return packed
