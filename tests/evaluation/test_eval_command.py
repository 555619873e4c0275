"""`cleareyed eval` from task to table: over HTTP, from a recording, through kills, and by engines in memory."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from conftest import ROOT, Result
from evaluation.stub import Config, serving
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from tiny import tiny_qwen2_vl

from cleareyed.errors import InputError
from cleareyed.eval_command import judge_journal
from cleareyed.eval_plan import EvalRecipe, asked_task, asking_of, eval_recipe
from cleareyed.eval_text import coverage_text
from cleareyed.evaluation.evaluate import AskedHashes, Asking, check_pictures, requests
from cleareyed.evaluation.journal import MARK, Journal, read_answers
from cleareyed.evaluation.local import LocalAnswerer, weights_hash
from cleareyed.evaluation.models import AskedModel
from cleareyed.evaluation.request import AskParams
from cleareyed.evaluation.rows import judges_of
from cleareyed.models.encode import encode
from cleareyed.models.load import load_vlm
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, SamplingParams
from cleareyed.recipe import ModelSpec, TaskSpec
from cleareyed.records.parts import read_answers as read_rows
from cleareyed.records.run import RunFolder
from cleareyed.serve import endpoint_app, listen
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.images import FileImage
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import Sample, Task

Command = Callable[..., Result]
LONGEST = 40
WORDS = ["left", "right", "above", "below"]
NEAR = 1e-3
"""Two logits closer than this are a near-tie: either token may be the greedy one."""
PROGRAM = (sys.executable, "-c", "from cleareyed.cli import main; main()")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def endpoint(vlm: VLM) -> Iterator[str]:
    """`cleareyed serve` in a thread; its base URL."""
    ready, stop, found = threading.Event(), threading.Event(), []

    async def run() -> None:
        runner, port = await listen(endpoint_app(vlm, name="tiny"), "127.0.0.1", 0)
        found.append(port)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.02)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    assert ready.wait(60)
    try:
        yield f"http://127.0.0.1:{found[0]}/v1"
    finally:
        stop.set()
        thread.join()


def closest(vlm: VLM, question: str, images: Any) -> float:
    """The smallest lead of a greedy token over the next best one, in logits, along a completion."""
    prompt = encode(vlm, prompt_text(prompt_style("base"), question), images)
    params = SamplingParams(max_tokens=LONGEST, temperature=0.0)
    ((own,),) = sample(vlm, [prompt], params, torch.Generator())
    ids = torch.cat([prompt.ids, torch.tensor(own.ids)])[None]
    pixels = {"pixel_values": prompt.pixels, "image_grid_thw": prompt.grid}
    with torch.no_grad():
        kinds = (ids == vlm.image_token_id).int()
        logits = vlm.model(input_ids=ids, mm_token_type_ids=kinds, use_cache=False, **pixels).logits[0]
    logits[:, list(vlm.banned_ids)] = -torch.inf
    first, second = logits[len(prompt.ids) - 1 : -1].topk(2).values.T
    return float((first - second).min())


def test_over_http_the_answers_are_those_of_the_local_model_but_for_near_ties(
    command: Command, tmp_path: Path
) -> None:
    vlm = load_vlm(ModelSpec(path="tiny-base"))
    asked = ("eval", "scenes-bench", "--limit", 8, "--max-tokens", LONGEST, "--rule", "strict")
    local = command(*asked, "--model", "local:tiny-base", "--batch", 3, "--out", "local")
    with endpoint(vlm) as url:
        served = command(*asked, "--model", "openai:tiny", "--base-url", url, "--raw", "--out", "served")
    assert (local.exit_code, served.exit_code) == (0, 0), local.output + served.output
    said = {
        name: {answer.sample_id: answer for answer in read_answers(tmp_path / name / "journal.jsonl")}
        for name in ("local", "served")
    }
    assert len(said["local"]) == len(said["served"]) == 8
    assert len({answer.text for answer in said["local"].values()}) > 3
    task, near_ties = load_task(TaskSpec(name="scenes-bench", limit=8), None), 0
    for one in task.samples:
        ours, theirs = said["local"][one.id], said["served"][one.id]
        assert ours.prompt_tokens == theirs.prompt_tokens
        if (ours.text, ours.state, ours.completion_tokens) != (theirs.text, theirs.state, theirs.completion_tokens):
            assert closest(vlm, one.question, [load() for load in one.images]) < NEAR
            near_ties += 1
    assert near_ties <= 1
    rows = [read_rows(RunFolder(tmp_path / name)) for name in ("local", "served")]
    assert [row.prompt_hash for row in rows[0]] == [row.prompt_hash for row in rows[1]]
    assert [row.images_hash for row in rows[0]] == [row.images_hash for row in rows[1]]
    assert len({row.images_hash for row in rows[0]}) == 8


def table_file(folder: Path, count: int = 40) -> Path:
    """Questions about "sample s0", "sample s1", ..., which the stub answers with a letter."""
    Image.new("RGB", (8, 8)).save(folder / "one.png")
    rows = [
        {
            "id": f"s{number}",
            "image": "one.png",
            "question": f"Which? sample s{number}",
            "answer": "left",
            "choices": WORDS,
        }
        for number in range(count)
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_state_counts_as_what_it_is_and_a_recording_gives_the_same_figures(
    command: Command, tmp_path: Path
) -> None:
    path = table_file(tmp_path, 60)
    with serving(Config(states=True)) as stub:
        result = command("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--out", "asked")
    assert result.exit_code == 1, result.output  # coverage
    rows = read_rows(RunFolder(tmp_path / "asked"))
    states = {state: sum(row.state == state for row in rows) for state in ("answered", "cut-off", "empty")}
    unjudged = [row for row in rows if row.state in ("filtered", "refused-by-api")]
    assert len(rows) == 60 and sum(states.values()) + len(unjudged) == 60 and len(unjudged) > 2
    assert all(states.values())
    judged = [row for row in rows if row not in unjudged]
    assert all(not row.correct["any-form"] for row in judged if row.state == "empty")
    accuracy = sum(row.correct["any-form"] for row in judged) / len(judged)
    assert 0 < accuracy < 1
    assert f"{len(judged)} of 60" in result.stdout and f"{100 * accuracy:.1f}" in result.stdout
    assert f"Coverage {100 * len(judged) / 60:.1f} %" in result.stdout
    page = (tmp_path / "asked/report.html").read_text()
    assert "left out of every figure" in page and f"{len(judged)} of 60 samples judged" in page

    again = command(
        *("eval", path, "--model", "replay:asked/journal.jsonl", "--min-coverage", 0.5, "--out", "replayed")
    )
    assert again.exit_code == 0, again.output
    other = read_rows(RunFolder(tmp_path / "replayed"))
    told = [(row.sample_id, row.completion, row.state, row.correct, row.tokens) for row in rows]
    assert [(row.sample_id, row.completion, row.state, row.correct, row.tokens) for row in other] == told


def test_a_hosted_model_is_asked_without_torch_and_its_key_is_nowhere(tmp_path: Path) -> None:
    path, key = table_file(tmp_path, 5), "sk-never-written-0123456789"
    code = (
        "import sys\nfrom cleareyed.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as ended: print(ended.code, [n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    with serving(Config()) as stub:
        arguments = ("eval", str(path), "--model", "openai:stub", "--base-url", stub.url, "--out", "asked")
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment() | {"OPENAI_API_KEY": key},
            capture_output=True,
            text=True,
        )
        assert key.encode() in stub.last
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 6
    assert not any(key[:12].encode() in content for content in [*written, done.stdout.encode(), done.stderr.encode()])


def test_a_killed_evaluation_goes_on_where_it_was(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 30)
    with serving(Config(latency=0.1)) as stub:
        arguments = ("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--concurrency", 2, "--out", "k")
        process = subprocess.Popen([*PROGRAM, *map(str, arguments)], cwd=tmp_path, env=environment())
        journal = tmp_path / "k/journal.jsonl"
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if journal.is_file() and journal.read_bytes().count(b"\n") >= 4:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {answer.sample_id for answer in read_answers(journal)}
        assert 4 <= len(kept) < 30
        stub.reset()
        result = command(*arguments, "--resume")
        assert result.exit_code == 0, result.output
        assert not kept & set(stub.seen)
        assert len(stub.seen) == 30 - len(kept)
        with Journal.open(journal):
            second = command(*arguments, "--resume")
        assert second.exit_code == 2 and f"process {os.getpid()}" in second.stderr
    assert [row.sample_id for row in read_rows(RunFolder(tmp_path / "k"))] == [f"s{number}" for number in range(30)]


def test_a_hopeless_model_is_given_up_and_what_was_not_asked_is_counted(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 30)
    with serving(Config(always=(401, '{"error": {"message": "no such key"}}'))) as stub:
        result = command("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--concurrency", 3)
    assert result.exit_code == 1
    assert "Coverage 0.0 %: 0 of 30 samples judged" in result.stdout
    assert "not asked" in result.stdout and "given up: " in result.stdout and "no such key" in result.stdout


def test_a_model_without_hope_stops_no_other_and_those_that_answered_are_ranked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table_file(tmp_path, 40)
    gold = {row["id"]: row["answer"] for row in map(json.loads, path.read_text().splitlines())}
    for name, texts in (("good", gold), ("poor", dict.fromkeys(gold, "no idea"))):
        lines = [json.dumps({"sample_id": one, "text": text}) for one, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    models = ("--model", "openai:stub", "--model", "replay:poor.jsonl", "--model", "replay:good.jsonl")
    with serving(Config(always=(401, "no"))) as stub:
        monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
        result = command("eval", path, *models, "--rule", "any-form", "--out", "all")
    assert result.exit_code == 1, result.output  # the one without hope has no coverage
    assert "given up: HTTP 401" in result.stdout and "none can be judged" not in result.output
    folders = sorted(folder.name for folder in (tmp_path / "all").iterdir())
    assert folders == [
        f"eval-{path.stem}-{name}" for name in ("openai-stub", "replay-good.jsonl", "replay-poor.jsonl")
    ]
    for name in folders[1:]:
        assert {row.state for row in read_rows(RunFolder(tmp_path / "all" / name))} == {"answered"}
    ranks = result.stdout[result.stdout.index("on 40 items") :]
    assert ranks.index(folders[1]) < ranks.index(folders[2]) and folders[0] not in ranks

    again = command("eval", path, *models[2:], "--rule", "any-form", "--out", "all", "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("Asked: 0") == 2
    assert "named twice" in command("eval", path, *models[2:4], *models[2:4]).stderr


def test_scoring_again_asks_nobody_and_refuses_other_questions(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 8)
    recorded = [{"sample_id": f"s{number}", "text": "The answer is (B)"} for number in range(8)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in recorded))
    first = command("eval", path, "--model", "replay:said.jsonl", "--rule", "strict", "--out", "r")
    assert first.exit_code == 0, first.output
    journal = (tmp_path / "r/journal.jsonl").read_bytes()
    path.write_text(path.read_text().replace('"answer": "left"', '"answer": "right"'))  # the gold answers were wrong
    for file in (tmp_path / "r/answers").iterdir():
        hidden = file.rename(tmp_path / "rows.parquet")  # as an interrupted run leaves it
    again = command("score", "r", "--rule", "any-form", "--rule", "lmms-eval")
    assert again.exit_code == 0, again.output
    for row in read_rows(RunFolder(tmp_path / "r")):
        assert row.answer == "right"
        assert row.correct == {"strict": False, "any-form": True, "lmms-eval": False}
    assert (tmp_path / "r/journal.jsonl").read_bytes() == journal
    assert hidden.exists()
    path.write_text(path.read_text().replace("Which?", "What?"))
    other = command("score", "r")
    assert other.exit_code == 2 and "8 answers are to other prompts" in other.stderr
    assert "--resume" in other.stderr and (tmp_path / "r/answers").is_dir()


def test_answers_to_data_that_changed_since_do_not_count_and_are_asked_anew(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 6)
    first, again = path.read_text(), path.read_text().replace("Which? sample s3", "Which one? sample s3")

    with serving(Config()) as stub:
        asked = ("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--rule", "strict", "--out", "r")
        assert command(*asked).exit_code == 0
        path.write_text(again)
        refused = command("score", "r")
        assert refused.exit_code == 2 and "1 answers are to other prompts or pictures" in refused.stderr
        assert "(s3 first)" in refused.stderr and "--resume" in refused.stderr
        stub.reset()
        assert command(*asked, "--resume").exit_code == 0
        assert set(stub.seen) == {"s3"}
        path.write_text(first)  # and back: the first answer is there, though its line is not the last
        stub.reset()
        resumed = command(*asked, "--resume")
        assert (resumed.exit_code, set(stub.seen)) == (0, set())
        assert "6 of 6 samples judged" in resumed.stdout
    assert command("score", "r").exit_code == 0
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    other = command("score", "r")
    assert other.exit_code == 2 and "6 answers are to other prompts or pictures" in other.stderr


def test_a_model_that_is_given_up_leaves_no_old_answer_to_new_questions(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 6)
    said = tmp_path / "said.jsonl"
    lines = [{"sample_id": f"s{number}", "text": "left"} for number in range(6)]
    said.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ("eval", path, "--model", f"replay:{said}", "--rule", "strict", "--out", "r")
    assert command(*asked).exit_code == 0
    journal = tmp_path / "r/journal.jsonl"
    whole = journal.read_bytes()
    path.write_text(path.read_text().replace("Which?", "What?"))
    assert command(*asked, "--resume").exit_code == 0  # recorded answers are read anew
    assert journal.read_bytes().count(b"\n") == 12
    journal.write_bytes(whole)
    (tmp_path / "r/answers").rename(tmp_path / "hidden")
    shown = coverage_text(judge_journal(*opened(tmp_path / "r"), judges_of(("strict",))))
    assert "0 of 6 samples judged (6 not asked)" in shown and "as the data changed: 6" in shown
    assert not any((tmp_path / "r/answers").glob("*.parquet"))


def opened(folder: Path) -> tuple[RunFolder, EvalRecipe, Task, AskedHashes]:
    run = RunFolder(folder)
    recipe = eval_recipe(run)
    assert recipe is not None
    task = asked_task(recipe.measure[0], None)
    return run, recipe, task, AskedHashes(task, asking_of(recipe.measure[0]))


def test_journals_from_before_hashes_were_kept_are_read(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 3)
    with serving(Config()) as stub:
        asked = ("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--rule", "strict", "--out", "r")
        assert command(*asked).exit_code == 0
        journal = tmp_path / "r/journal.jsonl"
        lines = []
        for line in journal.read_bytes().splitlines():
            body = line[: line.index(b',"prompt_hash"')]
            lines.append(body + MARK + b'%08x"}\n' % crc32(body))
        journal.write_bytes(b"".join(lines))
        stub.reset()
        resumed = command(*asked, "--resume")
        assert resumed.exit_code == 0 and not stub.seen
    assert "does not say to what: 3" in resumed.stdout
    assert command("score", "r").exit_code == 0
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")  # the rows know what the answers were to
    assert "3 answers are to other prompts or pictures" in command("score", "r").stderr
    (tmp_path / "r/answers").rename(tmp_path / "hidden")
    assert command("score", "r").exit_code == 0  # nothing does


def test_diff_tells_prompts_from_pictures(command: Command, tmp_path: Path) -> None:
    path = table_file(tmp_path, 6)
    with serving(Config()) as stub:
        asked = ("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--rule", "strict")
        runs = [command(*asked, "--out", "a"), command(*asked, "--prompt", "instruct", "--out", "b")]
        Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
        runs.append(command(*asked, "--out", "c"))
    assert [run.exit_code for run in runs] == [0, 0, 0]
    differing = {}
    for other in ("b", "c"):
        assert command("diff", "a", other, "--json", "found.json").exit_code == 0
        (found,) = json.loads((tmp_path / "found.json").read_text())["tasks"]
        differing[other] = {source["cause"]: source["items"] for source in found["explanation"]["sources"]}
    (model,) = [source for source in found["explanation"]["sources"] if source["cause"] == "model"]
    assert model["not_recorded"] == ["revision", "dtype"]
    assert (differing["b"]["prompt"], differing["b"]["pixels"]) == (6, 0)
    assert (differing["c"]["prompt"], differing["c"]["pixels"]) == (0, 6)


def ask_all_at_once(answerer: LocalAnswerer, params: AskParams, count: int) -> list[str]:
    task = load_task(TaskSpec(name="scenes-bench", limit=count), None)

    async def work() -> list[str]:
        asked = [answerer.prepare(one) for one in requests(task, Asking(prompt_style("base"), params))]
        try:
            return [reply.text for reply in await asyncio.gather(*map(answerer.send, asked))]
        finally:
            await answerer.close()

    return asyncio.run(work())


def test_requests_that_wait_are_answered_in_batches_and_seeded_draws_do_not_depend_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vlm, sizes = tiny_qwen2_vl(), []
    monkeypatch.setattr(
        "cleareyed.evaluation.local.sample",
        lambda vlm, prompts, *rest, **named: sizes.append(len(prompts)) or sample(vlm, prompts, *rest, **named),
    )
    ask_all_at_once(LocalAnswerer(vlm, None, 4), AskParams(max_tokens=3), 10)
    assert sizes == [4, 4, 2]
    drawn = AskParams(max_tokens=6, temperature=1.0, seed=3)
    texts = [ask_all_at_once(LocalAnswerer(vlm, None, batch), drawn, 5) for batch in (1, 5)]
    assert texts[0] == texts[1]
    assert ask_all_at_once(LocalAnswerer(vlm, None, 5), replace(drawn, seed=4), 5) != texts[0]


def test_what_decides_a_local_answer_decides_its_hash(tmp_path: Path) -> None:
    vlm = tiny_qwen2_vl()
    (request,) = requests(
        load_task(TaskSpec(name="scenes-bench", limit=1), None), Asking(prompt_style("base"), AskParams(max_tokens=4))
    )
    others = [
        replace(request, prompt=request.prompt + " "),
        replace(request, images=(request.images[0] + b"x",)),
        replace(request, images=request.images * 2),
        replace(request, chat=True),
    ]
    hashes = {LocalAnswerer(vlm, None, 1).prepare(one).sent_hash for one in (request, *others)}
    hashes.add(LocalAnswerer(replace(vlm, autocast=True), None, 1).prepare(request).sent_hash)
    assert len(hashes) == 6
    with pytest.raises(InputError, match="takes no top_p"):
        LocalAnswerer(vlm, None, 1).prepare(replace(request, params=AskParams(max_tokens=4, top_p=0.5)))


def test_a_checkpoint_is_told_from_another_by_any_byte_of_small_weights_and_by_the_header_of_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    whole = bytearray((8).to_bytes(8, "little") + b'{"a":1} ' + bytes(range(256)) * 40)
    seen = set()
    for place in (None, 9, 5000, len(whole) - 1):
        content = bytearray(whole)
        if place is not None:
            content[place] ^= 1
        weights.write_bytes(content)
        seen.add(weights_hash(tmp_path))
    monkeypatch.setattr("cleareyed.evaluation.local.WHOLE", 1000)
    monkeypatch.setattr("cleareyed.evaluation.local.PIECES", 3)
    monkeypatch.setattr("cleareyed.evaluation.local.PIECE", 100)
    for place in (9, 5070, len(whole) - 1):
        content = bytearray(whole)
        content[place] ^= 1
        weights.write_bytes(content)
        seen.add(weights_hash(tmp_path))
    assert len(seen) == 7
    assert weights_hash(tmp_path / "absent") is None


def test_the_kind_of_a_model_is_its_prefix() -> None:
    kinds = {"tiny-base": "local", "local:a/b": "local", "./a:b": "local", "/x/y:z": "local", "openai:a:b": "openai"}
    assert {path: AskedModel(path=path).kind for path in kinds} == kinds
    assert AskedModel(path="openai:a:b").name == "a:b"


def environment() -> dict[str, str]:
    """This process's environment, with the checkout importable and one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def test_pictures_that_do_not_decode_are_named_before_anything_is_asked(command: Command, tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90)
    for name in ("whole", "cut", "again", "deep"):
        noise.save(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "again.png").write_bytes((tmp_path / "cut.png").read_bytes())
    Image.new("I;16", (8, 8), 40_000).save(tmp_path / "deep.png")  # theirs to read
    lines = [
        {"id": f"s{n}", "image": f"{name}.png", "question": "This is sample s0?", "answer": "a", "choices": ["a", "b"]}
        for n, name in enumerate(("whole", "cut", "again", "deep"))
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(Config()) as stub:
        asked = ("eval", path, "--model", "openai:stub", "--base-url", stub.url, "--out", "r", "--rule", "strict")
        result = command(*asked)
        assert result.exit_code == 2 and not stub.seen and not (tmp_path / "r").exists()
        assert "sample s1: " in result.output and "cut.png): image cannot be decoded, truncated" in result.output
        assert "save it anew" in result.output and "(2 such pictures: sample s2: " in result.output
        for name in ("cut", "again"):
            noise.save(tmp_path / f"{name}.png")
        assert command(*asked).exit_code == 0 and stub.seen


def test_stored_pictures_are_decoded_once_and_bombs_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("1", (10_000, 5_001)).save(tmp_path / "bomb.png")
    samples = [
        Sample(id=str(n), question="?", answer="a", images=(FileImage(tmp_path / "a.png", "t"),)) for n in (1, 2)
    ]
    decoded, load = [], PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: decoded.append(self.size) or load(self))
    seen: list[tuple[int, int]] = []
    check_pictures(Task("t", samples), lambda done, total: seen.append((done, total)))
    assert set(decoded) == {(8, 8)} and len(decoded) == 1 and seen == [(1, 2), (2, 2)]
    bomb = replace(samples[0], images=(FileImage(tmp_path / "bomb.png", "t"),))
    with pytest.raises(InputError, match=r"sample 1: t \(.*bomb.png\): image has 10000 x 5001 pixels, the limit is 5"):
        check_pictures(Task("t", [bomb]), lambda done, total: None)
    assert len(decoded) == 1
