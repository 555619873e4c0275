"""Fault drills of the evaluation core, against a real server on this machine that misbehaves.

`python benchmarks/eval_faults.py --json FILE` kills an evaluation 20 times at random moments and drives it through
429 bursts, failing, resetting, half-answering, garbled and silent servers, a full disk and a second process. A drill
passes if no answered sample was asked again, none is missing, and the final table is that of an undisturbed run.

A response that the server has written and the journal does not hold yet when the process dies is not an answer anyone
has: its sample is asked again. Such cases are counted beside the result, with their age at the kill.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "evaluation")]

from stub import Config, Stub, serving  # noqa: E402

from cleareyed.errors import InputError  # noqa: E402
from cleareyed.evaluation.ask import Limits, ask_all  # noqa: E402
from cleareyed.evaluation.journal import Journal, read_answers  # noqa: E402
from cleareyed.evaluation.providers.openai import OpenAIAnswerer  # noqa: E402
from cleareyed.evaluation.request import AskParams, Request  # noqa: E402

Found = dict[str, Any]
Row = tuple[str, str, str, str, str, int | None]
PARAMS = AskParams(max_tokens=64)
QUICK = {"backoff": 0.05}


def requests(count: int) -> Iterator[Request]:
    for number in range(count):
        yield Request(f"s{number}", f"Which letter? sample s{number}", "", (), True, PARAMS)


async def evaluation(url: str, journal: Path, count: int, limits: Limits) -> Found:
    """One evaluation to its end; its summary as plain data."""
    answerer = OpenAIAnswerer("stub", url)
    try:
        with Journal.open(journal) as held:
            summary = await ask_all(requests(count), answerer, held, limits=limits, total=count)
            return {
                "asked": summary.asked,
                "reused": summary.reused,
                "torn": held.torn,
                "errors": {kind: number for kind, number in summary.errors.items() if number},
                "failed": summary.states["failed"],
                "concurrency": summary.concurrency,
                "seconds": round(summary.seconds, 3),
                "stopped": summary.stopped,
            }
    finally:
        await answerer.close()


def start(url: str, journal: Path, count: int, limits: dict[str, float], file_bytes: int = 0) -> subprocess.Popen[str]:
    """An evaluation in a process of its own, which may write files of `file_bytes` at most."""
    arguments = [url, str(journal), str(count), json.dumps(limits), str(file_bytes)]
    command = [sys.executable, str(Path(__file__).resolve()), "client", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def client(url: str, journal: str, count: str, limits: str, file_bytes: str) -> int:
    """What `start` starts."""
    if int(file_bytes):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), int(file_bytes)))
    try:
        print(json.dumps(asyncio.run(evaluation(url, Path(journal), int(count), Limits(**json.loads(limits))))))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def table(journal: Path) -> list[Row]:
    """What is reported of an evaluation, whatever happened on the way."""
    return sorted(
        (row.sample_id, row.key, row.state, row.text, row.finish, row.completion_tokens)
        for row in read_answers(journal)
    )


def asked_again(stub: Stub, held: dict[str, float]) -> list[str]:
    """Samples of which a request came after the moment at which their answer was known to be in the journal."""
    return [name for name, since in held.items() if any(seen > since for seen in stub.seen.get(name, ()))]


def kills(folder: Path, times: int, count: int, latency: float = 0.05, most: int = 50, seed: int = 0) -> Found:
    """`times` x SIGKILL at random moments of an evaluation, then to its end, beside an undisturbed one."""
    limits = {"most": most, "start": most, **QUICK}
    draw = random.Random(seed)
    with serving(Config(latency=latency, faults={"error": 0.02}, states=True)) as stub:
        began = time.monotonic()
        undisturbed = start(stub.url, folder / "undisturbed.jsonl", count, limits)
        if undisturbed.wait() != 0:
            raise RuntimeError(f"the undisturbed run ended with {undisturbed.communicate()}")
        first = min(seen[0] for seen in stub.seen.values()) - began
        work = max(sent[-1] for sent in stub.sent.values()) - began - first
        expected = table(folder / "undisturbed.jsonl")
        stub.reset()
        journal = folder / "killed.jsonl"
        held: dict[str, float] = {}
        torn, idle = 0, 0
        ages: list[float] = []
        on_the_wire: Counter[str] = Counter()
        before = 0.0
        for _ in range(times):
            process = start(stub.url, journal, count, limits)
            time.sleep(draw.uniform(0.5 * first, first + 2 * work / times))
            ended = process.poll() is not None
            process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            process.communicate()
            idle += ended
            content = journal.read_bytes() if journal.exists() else b""
            torn += not content.endswith(b"\n") and content != b""
            names = {row.sample_id for row in read_answers(journal) if row.state != "failed"} if content else set()
            gone = held.keys() - names
            if gone:
                return {"passed": False, "why": f"{len(gone)} journalled answers are gone"}
            for name in names:
                held.setdefault(name, killed)
            time.sleep(3 * latency)  # what was on its way to the server has come
            written = {name: sent[-1] for name, sent in stub.sent.items() if name not in names and sent[-1] > before}
            on_the_wire.update(written.keys())
            ages += [max(0.0, killed - sent) for sent in written.values()]
            before = time.monotonic()
        last = start(stub.url, journal, count, limits)
        output, errors = last.communicate()
        again = asked_again(stub, held)
        twice = [name for name, sent in stub.sent.items() if len(sent) > 1 + on_the_wire[name]]
        same = table(journal) == expected
        return {
            "passed": last.returncode == 0 and not again and not twice and same and len(expected) == count,
            "kills": times,
            "kills_after_the_end": idle,
            "samples": count,
            "answered_and_asked_again": len(again),
            "answered_twice_without_a_kill_between": len(twice),
            "missing": count - len(table(journal)),
            "same_table": same,
            "reused_by_the_last_run": json.loads(output)["reused"] if not errors else None,
            "torn_lines": torn,
            "responses_on_the_wire_at_a_kill": len(ages),
            "oldest_of_them_ms": round(max(ages, default=0.0) * 1000, 1),
        }


def survived(folder: Path, config: Config, count: int, judge: Callable[[Found, Stub], bool], **limits: float) -> Found:
    """An evaluation against a server with faults: all samples answered, the table that of a good server."""
    with serving(Config(states=config.states)) as stub:
        asyncio.run(evaluation(stub.url, folder / "good.jsonl", count, Limits(**QUICK)))
    with serving(config) as stub:
        found = asyncio.run(evaluation(stub.url, folder / "bad.jsonl", count, Limits(**{**QUICK, **limits})))
        same = table(folder / "bad.jsonl") == table(folder / "good.jsonl")
        repeated = sum(len(sent) > 1 for sent in stub.sent.values())
        passed = same and not repeated and not found["failed"] and found["stopped"] is None and judge(found, stub)
        return {
            "passed": passed,
            "samples": count,
            "same_table": same,
            "answered_and_asked_again": repeated,
            "requests": stub.requests,
            "peak": stub.peak,
            "throttled": stub.throttled,
            "sent_into_a_pause": stub.early,
            **found,
        }


def never_answers(folder: Path) -> Found:
    """A server that takes requests and never answers: the model is given up, with the reason, in bounded time."""
    limits = Limits(timeout=0.3, attempts=2, first=5, start=10, **QUICK)
    with serving(Config(silent=True)) as stub:
        found = asyncio.run(evaluation(stub.url, folder / "silent.jsonl", 1000, limits))
    stopped = found["stopped"] or ""
    return {"passed": "no answer within 0.3 s" in stopped and found["failed"] <= 30, **found}


def hopeless(folder: Path, status: int, body: str) -> Found:
    """A server that turns every request away for good."""
    with serving(Config(always=(status, body))) as stub:
        found = asyncio.run(evaluation(stub.url, folder / f"{status}.jsonl", 1000, Limits(**QUICK)))
        return {"passed": bool(found["stopped"]) and stub.requests <= 60, "requests": stub.requests, **found}


def full_disk(folder: Path, count: int) -> Found:
    """The disk takes no more in the middle: a plain error, no half line, and the rest is asked when there is room."""
    journal = folder / "full.jsonl"
    with serving(Config(latency=0.01)) as stub:
        first = start(stub.url, journal, count, QUICK, file_bytes=count * 200)
        _, said = first.communicate()
        whole = journal.read_bytes().endswith(b"\n")
        held = dict.fromkeys((row.sample_id for row in read_answers(journal)), time.monotonic())
        second = start(stub.url, journal, count, QUICK)
        output, _ = second.communicate()
        again = asked_again(stub, held)
        complete = len(table(journal)) == count
    plain = first.returncode == 2 and "the disk is full" in said and said.count("\n") == 1
    reused = json.loads(output)["reused"] if second.returncode == 0 else None
    return {
        "passed": plain and whole and not again and complete and reused == len(held) and 0 < len(held) < count,
        "kept": len(held),
        "answered_and_asked_again": len(again),
        "complete_after_room": complete,
    }


def two_processes(folder: Path) -> Found:
    """A second process on one journal is told so, at once, and disturbs nothing."""
    journal = folder / "two.jsonl"
    with serving(Config(latency=0.2)) as stub:
        first = start(stub.url, journal, 100_000, {"start": 1, "most": 1})
        while not stub.seen and first.poll() is None:
            time.sleep(0.01)
        second = start(stub.url, journal, 10, QUICK)
        _, said = second.communicate()
        alive = first.poll() is None
        first.kill()
        first.communicate()
        third = start(stub.url, journal, 10, QUICK)
        third.communicate()
        asked = len(table(journal))
    told = second.returncode == 2 and f"process {first.pid}" in said and said.count("\n") == 1
    return {"passed": told and alive and third.returncode == 0 and asked >= 10, "told": told, "first_went_on": alive}


def drills(folder: Path, times: int, count: int) -> Iterator[tuple[str, Found]]:
    """Every drill, each in a folder of its own."""

    def place(name: str) -> Path:
        made = folder / name
        made.mkdir()
        return made

    def met(fault: str) -> Callable[[Found, Stub], bool]:
        return lambda found, stub: found["errors"].get(fault, 0) > 0

    yield "kill -9", kills(place("kills"), times, count)
    yield (
        "429 bursts",
        survived(
            place("bursts"),
            Config(latency=0.02, burst=(count // 4, 1.0)),
            count,
            lambda found, stub: stub.throttled > 0 and not stub.early,
        ),
    )
    yield (
        "20 at once, else 429",
        survived(place("capacity"), Config(latency=0.05, capacity=20), count, met("throttled"), throttles=100),
    )
    for fault, share in (("error", 0.05), ("unavailable", 0.05), ("reset", 0.05), ("half", 0.05), ("garbage", 0.05)):
        yield (
            f"{share:.0%} {fault}",
            survived(place(fault), Config(latency=0.02, faults={fault: share}, states=True), count, met("transient")),
        )
    some = Config(latency=0.02, faults={"silent": 0.02})
    yield "2% silent", survived(place("some-silent"), some, count, met("transient"), timeout=5.0)
    yield "never answers", never_answers(place("silent"))
    yield (
        "wrong key",
        hopeless(place("key"), 401, '{"error":{"message":"Incorrect API key provided: sk-abcdef123456"}}'),
    )
    yield "no quota", hopeless(place("quota"), 429, '{"error":{"message":"no money","code":"insufficient_quota"}}')
    yield "full disk", full_disk(place("full"), max(200, count // 4))
    yield "two processes", two_processes(place("two"))


def main() -> None:
    if sys.argv[1:2] == ["client"]:
        sys.exit(client(*sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=4000)
    arguments = parser.parse_args()
    os.environ.pop("OPENAI_API_KEY", None)
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, result in drills(Path(folder), arguments.kills, arguments.samples):
            found[name] = result
            print(f"{'passed' if result['passed'] else 'FAILED'}  {name}: {json.dumps(result)}", flush=True)
    if arguments.json:
        from cleareyed.records.environment import describe_environment

        text = json.dumps({"eval_faults": found, "environment": describe_environment(None)}, indent=2)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(not all(result["passed"] for result in found.values()))


if __name__ == "__main__":
    main()
