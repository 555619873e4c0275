"""What asking costs, against a server on this machine that answers after a fixed time.

`python benchmarks/eval_overhead.py --json FILE` measures CPU milliseconds a sample (text, and a 0.7 MB picture), the
share of what is possible at 200 ms and 100 at once, 500 at once, memory at 1,000, 10,000 and 100,000 samples, and the
cold start of `cleareyed --help`; with `--memory-only`, memory alone. `--peer openai=PYTHON` and `--peer
inspect_ai=PYTHON` put others beside it in one run; PYTHON is an interpreter that has them (or `this`). `--core N`
keeps the asking processes on one core; start the whole with `taskset` on another, so that the server is there (Linux).

CPU a sample is (CPU of 2N samples - CPU of N) / N, user and system time of the asking process, which cancels its
start; each is the least of three rounds, the sides taking turns. What our side does includes the journal on disk.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LATENCY = 0.2
PICTURE_SIDE = 480
"""Noise of this side, as PNG, is 0.69 MB."""
PICTURES = 24
GOALS = {"text_cpu_ms": 0.5, "image_cpu_ms": 2.5, "share": 0.9, "cold_start_s": 0.5}

Found = dict[str, Any]


def ours(url: str, count: int, most: int, pictures: list[Path], folder: Path) -> Found:
    """cleareyed: `ask_all` with the OpenAI provider and a journal, from 20 at once as a user has it."""
    sys.path.insert(0, str(ROOT / "src"))
    from cleareyed.evaluation.ask import Limits, ask_all
    from cleareyed.evaluation.journal import Journal
    from cleareyed.evaluation.providers.openai import OpenAIAnswerer
    from cleareyed.evaluation.request import AskParams, Request, asked_hashes

    params = AskParams(max_tokens=64)

    def requests() -> Iterator[Request]:
        for number in range(count):
            images = (pictures[number % len(pictures)].read_bytes(),) if pictures else ()
            hashes = asked_hashes(prompt(number), True, None, images)
            yield Request(f"s{number}", prompt(number), "", images, True, params, hashes)

    async def ask() -> Found:
        answerer = OpenAIAnswerer("stub", url)
        with Journal.open(folder / f"{time.monotonic_ns()}.jsonl") as journal:
            summary = await ask_all(requests(), answerer, journal, limits=Limits(most=most))
        await answerer.close()
        assert summary.states["answered"] == count, summary
        return {"seconds": summary.seconds, "peak": summary.peak}

    return asyncio.run(ask())


def openai_sdk(url: str, count: int, most: int, pictures: list[Path], folder: Path) -> Found:
    """The openai SDK, bare: its async client behind a semaphore; nothing is kept."""
    import base64

    from openai import AsyncOpenAI

    async def ask() -> Found:
        client = AsyncOpenAI(base_url=url, api_key="none", timeout=600.0)
        places = asyncio.Semaphore(most)
        began = time.monotonic()

        async def one(number: int) -> None:
            async with places:
                content: Any = prompt(number)
                if pictures:
                    data = base64.b64encode(pictures[number % len(pictures)].read_bytes()).decode()
                    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
                    content = [image, {"type": "text", "text": content}]
                answer = await client.chat.completions.create(
                    model="stub", messages=[{"role": "user", "content": content}], max_tokens=64, temperature=0.0
                )
                assert answer.choices[0].message.content

        await asyncio.gather(*map(one, range(count)))
        return {"seconds": time.monotonic() - began, "peak": None}

    return asyncio.run(ask())


def inspect_ai(url: str, count: int, most: int, pictures: list[Path], folder: Path) -> Found:
    """inspect_ai as it comes: `eval` of a task with `generate` and a scorer, its log written."""
    os.environ |= {"STUB_BASE_URL": url, "STUB_API_KEY": "none", "INSPECT_LOG_DIR": str(folder)}
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    def sample(number: int) -> Sample:
        if not pictures:
            return Sample(input=prompt(number), target="A", id=number)
        image = ContentImage(image=str(pictures[number % len(pictures)]))
        message = ChatMessageUser(content=[image, ContentText(text=prompt(number))])
        return Sample(input=[message], target="A", id=number)

    task = Task(dataset=[sample(number) for number in range(1, count + 1)], solver=generate(), scorer=includes())
    began = time.monotonic()
    (log,) = eval(
        task, model="openai-api/stub/stub", max_connections=most, max_samples=most, max_tokens=64, display="none"
    )
    assert log.status == "success", log.error
    return {"seconds": time.monotonic() - began, "peak": None}


def command(url: str, count: int, most: int, pictures: list[Path], folder: Path) -> Found:
    """`cleareyed eval` as a user gives it: own data of `count` rows, from reading the file to the report."""
    sys.path.insert(0, str(ROOT / "src"))
    from cleareyed.cli import app

    table = folder / f"rows-{count}.jsonl"
    with table.open("w", encoding="utf-8") as file:
        for number in range(count):
            image = os.path.relpath(pictures[number % len(pictures)], folder)
            row = {"id": f"s{number}", "image": image, "question": prompt(number), "answer": "A", "skill": "depth"}
            file.write(json.dumps(row) + "\n")
    asked = [str(table), "--model", "openai:stub", "--base-url", url, "--rule", "strict", "--out", str(folder / "run")]
    began = time.monotonic()
    app(["eval", *asked, "--concurrency", str(most)], standalone_mode=False)
    return {"seconds": time.monotonic() - began, "peak": None}


SIDES = {"cleareyed": ours, "openai": openai_sdk, "inspect_ai": inspect_ai, "command": command}
PEERS = ("openai", "inspect_ai")


def prompt(number: int) -> str:
    return f"Which of the boxes is nearer to the camera? (A) the red one (B) the blue one. sample s{number}"


def side(arguments: list[str]) -> None:
    """One measurement, in a process of its own."""
    name, url, count, most, pictures, folder, core = arguments
    if core:
        os.sched_setaffinity(0, {int(core)})
    files = sorted(Path(pictures).glob("*.png")) if pictures else []
    found = SIDES[name](url, int(count), int(most), files, Path(folder))
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({**found, "cpu": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss * unit / 1e6}))


class Bench:
    """The server, the pictures and the interpreters of a run."""

    def __init__(self, url: str, folder: Path, pythons: dict[str, str], core: int | None) -> None:
        self.url, self.folder, self.pythons = url, folder, pythons
        self.core = "" if core is None else str(core)
        self.pictures = folder / "pictures"

    def once(self, name: str, count: int, most: int, pictures: bool = False, url: str | None = None) -> Found:
        """What `side` measured of `count` samples."""
        where = Path(tempfile.mkdtemp(dir=self.folder))
        shown = str(self.pictures) if pictures else ""
        arguments = [name, url or self.url, str(count), str(most), shown, str(where), self.core]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
        called = [self.pythons.get(name, sys.executable), str(Path(__file__).resolve()), "side", *arguments]
        process = subprocess.run(called, env=environment, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"{name} with {count} samples failed:\n{process.stderr[-2000:]}")
        found: Found = json.loads(process.stdout.splitlines()[-1])
        return found

    def cpu(self, count: int, most: int, pictures: bool, rounds: int) -> dict[str, Found]:
        """CPU ms a sample and samples a second of every side."""
        few: dict[str, list[Found]] = {name: [] for name in self.pythons}
        many: dict[str, list[Found]] = {name: [] for name in self.pythons}
        for _ in range(rounds):
            for name in self.pythons:
                few[name].append(self.once(name, count, most, pictures))
                many[name].append(self.once(name, 2 * count, most, pictures))
        return {
            name: {
                "cpu_ms": round(1000 * (least(many[name], "cpu") - least(few[name], "cpu")) / count, 3),
                "samples_per_second": round(2 * count / least(many[name], "seconds"), 1),
                "rss_mb": round(least(many[name], "rss_mb"), 1),
            }
            for name in self.pythons
        }


def least(found: list[Found], name: str) -> float:
    return min(float(one[name]) for one in found)


def versions(pythons: dict[str, str]) -> dict[str, str]:
    """Of the peers, each as its own interpreter has it."""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    found = {}
    for name in pythons.keys() - {"cleareyed"}:
        done = subprocess.run([pythons[name], "-c", code, name], capture_output=True, text=True, check=True)
        found[name] = done.stdout.strip()
    return found


def draw_pictures(folder: Path, side: int) -> int:
    """Pictures of noise in place of those that are there; returns their mean size in bytes."""
    import numpy
    from PIL import Image

    folder.mkdir(exist_ok=True)
    draw = numpy.random.default_rng(0)
    for number in range(PICTURES):
        pixels = draw.integers(0, 256, (side, side, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png", compress_level=1)
    return sum(path.stat().st_size for path in folder.iterdir()) // PICTURES


def cold_start(times: int) -> Found:
    """Seconds of `cleareyed --help`, process start included, and whether it imported torch."""
    code = (
        "import sys; sys.argv = ['cleareyed', '--help']; from cleareyed.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    seconds, said = [], ""
    for _ in range(times):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        seconds.append(time.monotonic() - began)
        said = done.stderr.strip()
    return {"seconds": round(min(seconds), 3), "imports_torch": said != "False"}


def measure(bench: Bench, arguments: argparse.Namespace) -> Found:
    """All figures, each shown as soon as it is there."""
    found: Found = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)

    n = arguments.samples
    note("cold_start", cold_start(5))
    note("text", bench.cpu(n, 100, False, arguments.rounds))
    note("image", bench.cpu(max(10, n // 8), 50, True, arguments.rounds))
    walls = [bench.once("cleareyed", 2 * n, 100) for _ in range(arguments.rounds)]
    note("share_at_100", {"share": round(2 * n * LATENCY / 100 / least(walls, "seconds"), 3), "samples": 2 * n})
    wide = [bench.once("cleareyed", 4 * n, 500) for _ in range(arguments.rounds)]
    note(
        "wide",
        {
            "concurrency": max(int(one["peak"]) for one in wide),
            "samples_per_second": round(4 * n / least(wide, "seconds"), 1),
            "share": round(4 * n * LATENCY / 500 / least(wide, "seconds"), 3),
        },
    )
    return found


def memory(bench: Bench, counts: list[int], url: str) -> Found:
    """Most resident memory by number of samples, against a server without latency: of asking with a journal, and of
    `cleareyed eval` from reading the data to the report (each question about a picture of a few bytes)."""
    asking = {str(count): round(bench.once("cleareyed", count, 100, url=url)["rss_mb"], 1) for count in counts}
    whole = {str(count): round(bench.once("command", count, 100, True, url)["rss_mb"], 1) for count in counts}
    return {"asking": asking, "eval": whole}


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        side(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--samples", type=int, default=2000, help="N; pictures take an eighth of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", default=[1000, 10_000, 100_000], help="numbers of samples")
    parser.add_argument("--memory-only", action="store_true", help="measure nothing else")
    parser.add_argument("--core", type=int, help="the asking processes' core")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="openai or inspect_ai")
    arguments = parser.parse_args()
    pythons = {"cleareyed": sys.executable}
    for peer in arguments.peer:
        name, _, python = peer.partition("=")
        if name not in PEERS or not python:
            parser.error(f"--peer {peer}: give openai=PYTHON or inspect_ai=PYTHON")
        pythons[name] = sys.executable if python == "this" else python
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "evaluation")]
    from stub import Config, started

    with tempfile.TemporaryDirectory() as folder:
        bench, found, settings = Bench("", Path(folder), pythons, arguments.core), {}, {}
        if not arguments.memory_only:
            size = draw_pictures(bench.pictures, PICTURE_SIDE)
            with started(Config(latency=LATENCY, keep=False)) as url:
                bench.url = url
                found = measure(bench, arguments)
            settings = {
                "samples": arguments.samples,
                "rounds": arguments.rounds,
                "latency_s": LATENCY,
                "picture_bytes": size,
                "peers": versions(pythons),
            }
        draw_pictures(bench.pictures, 8)
        with started(Config(keep=False)) as url:
            found["memory_mb"] = memory(bench, arguments.memory, url)
            print(f"memory_mb: {json.dumps(found['memory_mb'])}", flush=True)
    report = found if arguments.memory_only else {**judged(found), **found}
    if arguments.json:
        from cleareyed.records.environment import describe_environment

        settings["core"] = arguments.core
        text = json.dumps(
            {"eval_overhead": report, "settings": settings, "environment": describe_environment(None)}, indent=2
        )
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")


def judged(found: Found) -> Found:
    """The goals, and which are met."""
    figures = {
        "text_cpu_ms": found["text"]["cleareyed"]["cpu_ms"],
        "image_cpu_ms": found["image"]["cleareyed"]["cpu_ms"],
        "share": found["share_at_100"]["share"],
        "cold_start_s": found["cold_start"]["seconds"],
    }
    met = {name: figures[name] >= goal if name == "share" else figures[name] <= goal for name, goal in GOALS.items()}
    for name, goal in GOALS.items():
        print(f"{name}: {figures[name]} (goal {goal}): {'met' if met[name] else 'MISSED'}")
    return {"goals": GOALS, "met": met}


if __name__ == "__main__":
    main()
