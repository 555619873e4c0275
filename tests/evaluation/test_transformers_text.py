"""Text models through transformers' own generate: a random Llama of a few thousand parameters."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Result
from PIL import Image
from tiny import save_text_model

from cleareyed.evaluation.answers import AskError, Reply
from cleareyed.evaluation.providers.transformers import TransformersAnswerer
from cleareyed.evaluation.request import AskParams, Request
from cleareyed.records.parts import read_answers
from cleareyed.records.run import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    save_text_model(path)
    return path


def asked(text: str, **params: object) -> Request:
    return Request(text, text, "", (), True, AskParams(**{"max_tokens": 8, **params}))  # type: ignore[arg-type]


def answers(folder: Path, requests: Sequence[Request], batch: int) -> list[Reply]:
    answerer = TransformersAnswerer(str(folder), batch=batch)

    async def work() -> list[Reply]:
        try:
            return await asyncio.gather(*(answerer.send(answerer.prepare(request)) for request in requests))
        finally:
            await answerer.close()

    return asyncio.run(work())


def test_prompts_of_several_lengths_are_answered_together_as_they_are_alone(folder: Path) -> None:
    texts = ["How many?", "How many circles are in the image, and what colour are they?", "Red", "Is it left?"]
    requests = [*(asked(text) for text in texts), asked("Red", system="Be brief."), replace(asked("Red"), chat=False)]
    alone, together = (answers(folder, requests, batch) for batch in (1, 4))
    assert alone == together
    assert len({reply.text for reply in alone}) > 3
    assert [reply.prompt_tokens for reply in alone] == [reply.prompt_tokens for reply in together]
    assert alone[4].prompt_tokens > alone[2].prompt_tokens > alone[5].prompt_tokens  # type: ignore[operator]
    for reply in alone:
        assert (reply.state == "cut-off") == (reply.finish == "length") == (reply.completion_tokens == 8)


def test_seeded_draws_do_not_depend_on_who_is_asked_with_them(folder: Path) -> None:
    requests = [asked(text, temperature=1.0, seed=3) for text in ("Red", "How many circles?")]
    assert answers(folder, requests, 1) == answers(folder, requests, 2)


def test_a_picture_is_turned_away(folder: Path) -> None:
    with pytest.raises(AskError, match="takes no pictures; ask with --pictures description") as found:
        TransformersAnswerer(str(folder)).prepare(replace(asked("What?"), images=(b"png",)))
    assert found.value.hopeless


def test_eval_asks_a_text_model_by_description_and_refuses_to_show_it_pictures(
    command: Callable[..., Result], folder: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    row = {"id": "a", "image": "one.png", "question": "How many?", "answer": "2", "description": "Two red circles."}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    asked = ("eval", "mine.jsonl", "--model", f"transformers:{folder}", "--max-tokens", 8, "--out", "run")
    refused = command(*asked)
    assert refused.exit_code == 2 and "--pictures description" in refused.stderr and not (tmp_path / "run").exists()
    found = command(*asked, "--pictures", "description")
    assert found.exit_code == 0, found.output
    (answered,) = read_answers(RunFolder(tmp_path / "run"))
    assert answered.question == "Two red circles. How many?"
    assert command("score", "run").exit_code == 0
