"""Tokens per second of our sampler against transformers' `generate` and, where there is one, vLLM on the same machine.

    python benchmarks/rollout.py --json benchmarks/results/rollout.json --vllm-python PATH/TO/python

Eight pictures with the paper's prompt, eight completions each, at temperature 1. Two cases: `fixed`, 48 tokens of each
(no ending token is drawn), and `real`, as long as the model makes them, at most 96; tokens behind an ending are not
counted. `generate` gets each prompt once for every completion, as trainers call it, with the dynamic and with the
static cache; it gives no log-probabilities, the others do. Every side's time includes the vision tower, and vLLM's
the processing of the pictures. Each side has a process of its own, and they take turns; a first run of each case is
dropped. bf16 means autocast over fp32 weights for us, and weights in bf16 for the others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from vllm_side import SHIM, serve

from cleareyed.models.encode import encode
from cleareyed.models.load import load_vlm
from cleareyed.models.sample import sample
from cleareyed.models.save import save_vlm
from cleareyed.models.vlm import VLM, EncodedPrompt, SamplingParams
from cleareyed.recipe import ModelSpec
from cleareyed.records.environment import describe_environment
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.scenes.task import scenes_task

SIDES = ("cleareyed", "generate-dynamic", "generate-static")
CASES = {"fixed": {"fixed": True, "max_tokens": 48}, "real": {"fixed": False, "max_tokens": 96}}
STYLE = prompt_style("base")


class Side:
    """A process that draws completions when it is asked to."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: IO[str]) -> None:
        self.name, self.log = name, log
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self._answer()

    def ask(self, request: dict[str, Any]) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended without an answer:\n{self.log.read()[-4000:]}")
        values: dict[str, float] = json.loads(line)
        return values


def prompts_of(vlm: VLM, count: int) -> tuple[list[str], list[Any], list[EncodedPrompt]]:
    """Texts, pictures, and both encoded, of the first samples."""
    samples = scenes_task("train").samples[:count]
    texts = [prompt_text(STYLE, one.question) for one in samples]
    pictures = [one.images[0]() for one in samples]
    prompts = [encode(vlm, text, [picture]) for text, picture in zip(texts, pictures, strict=True)]
    return texts, pictures, prompts


def prepare(folder: Path, model: str, count: int, group: int) -> None:
    """The checkpoint, the pictures and what else vLLM's side has to know."""
    vlm = load_vlm(ModelSpec(path=model))
    save_vlm(vlm, folder / "model")
    texts, pictures, prompts = prompts_of(vlm, count)
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    config = vlm.model.config
    work = {
        "prompts": [vlm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        "lengths": [len(prompt.ids) for prompt in prompts],
        "image_ids": [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id],
        "eos_ids": list(vlm.eos_ids),
        "group": group,
    }
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")


def ours(vlm: VLM, prompts: list[EncodedPrompt], group: int) -> Callable[[dict[str, Any]], int]:
    unending = replace(vlm, banned_ids=tuple(sorted({*vlm.banned_ids, *vlm.eos_ids})))

    def run(request: dict[str, Any]) -> int:
        generator = torch.Generator().manual_seed(request["seed"])
        params = SamplingParams(request["max_tokens"], 1.0, group)
        groups = sample(unending if request["fixed"] else vlm, prompts, params, generator)
        return sum(len(completion.ids) for group in groups for completion in group)

    return run


def generates(vlm: VLM, prompts: list[EncodedPrompt], group: int, cache: str) -> Callable[[dict[str, Any]], int]:
    model: Any = vlm.model.to(torch.bfloat16) if vlm.autocast else vlm.model
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), length), vlm.eos_ids[0])  # (B, P), padded on the left
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt.ids) :], mask[row, -len(prompt.ids) :] = prompt.ids, 1
    inputs = {
        "input_ids": ids.repeat_interleave(group, 0),
        "attention_mask": mask.repeat_interleave(group, 0),
        "mm_token_type_ids": (ids == vlm.image_token_id).int().repeat_interleave(group, 0),
        "pixel_values": torch.cat([part for prompt in prompts for part in [prompt.pixels] * group]),
        "image_grid_thw": torch.cat([part for prompt in prompts for part in [prompt.grid] * group]),
    }
    ends = torch.tensor(vlm.eos_ids)

    def run(request: dict[str, Any]) -> int:
        torch.manual_seed(request["seed"])
        extra = {"cache_implementation": "static"} if cache == "static" else {}
        suppressed = {*vlm.banned_ids, *(vlm.eos_ids if request["fixed"] else ())}
        out = model.generate(
            **inputs,
            max_new_tokens=request["max_tokens"],
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            suppress_tokens=sorted(suppressed),
            eos_token_id=None if request["fixed"] else list(vlm.eos_ids),
            pad_token_id=vlm.eos_ids[0],
            disable_compile=True,
            **extra,
        )[:, length:]
        if request["fixed"]:
            return out.numel()
        behind = torch.isin(out, ends).long().cumsum(1) - torch.isin(out, ends).long()  # endings before each token
        return int((behind == 0).sum())

    return run


def side(name: str, folder: Path, dtype: str, threads: int) -> None:
    """Be one side, until stdin ends."""

    def load() -> Callable[[dict[str, Any]], int]:
        torch.set_num_threads(threads)
        work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        vlm = load_vlm(ModelSpec(path=str(folder / "model"), dtype="bf16" if dtype == "bf16" else "fp32"))
        _, _, prompts = prompts_of(vlm, len(work["prompts"]))
        if name == "cleareyed":
            return ours(vlm, prompts, work["group"])
        return generates(vlm, prompts, work["group"], name.removeprefix("generate-"))

    serve(load)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each case and side."""
    seconds: dict[tuple[str, str], list[float]] = {}
    tokens: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(folder, options.model, options.prompts, options.group)
        (folder / "shim").mkdir()
        (folder / "shim" / "sitecustomize.py").write_text(SHIM, encoding="utf-8")
        base = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        base |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
        arguments = [str(folder), options.dtype]
        commands = {
            name: ([sys.executable, __file__, "--side", name, *arguments, "--threads", str(options.threads)], base)
            for name in SIDES
        }
        if options.vllm_python:
            script = str(Path(__file__).with_name("vllm_side.py"))
            settings = {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
            }
            settings |= {"PYTHONPATH": str(folder / "shim"), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
            commands["vllm-eager"] = ([options.vllm_python, script, *arguments], base | settings)
        sides = []
        for name, (command, environment) in commands.items():
            log = stack.enter_context((folder / f"{name}.log").open("w+", encoding="utf-8"))
            sides.append(Side(name, command, environment, log))
            stack.callback(sides[-1].close)
        for case, settings in CASES.items():
            for number in range(options.runs + 1):
                for one in sides:
                    answer = one.ask({**settings, "seed": number})
                    print(
                        f"{case} {number} {one.name}: {answer['tokens']} tokens in {answer['seconds']:.2f} s",
                        flush=True,
                    )
                    if number:
                        seconds.setdefault((case, one.name), []).append(answer["seconds"])
                        tokens.setdefault((case, one.name), []).append(answer["tokens"])
    rows = []
    for (case, name), times in seconds.items():
        rates = [count / time for count, time in zip(tokens[case, name], times, strict=True)]
        rows.append(
            {
                "case": case,
                "side": name,
                "dtype": options.dtype,
                "threads": options.threads,
                "prompts": options.prompts,
                "group": options.group,
                "max_tokens": CASES[case]["max_tokens"],
                "tokens": statistics.mean(tokens[case, name]),
                "tokens_per_second": round(statistics.median(rates), 1),
                "tokens_per_second_best": round(max(rates), 1),
                "seconds": [round(time, 4) for time in times],
            }
        )
    for row in rows:
        [own] = [other for other in rows if (other["case"], other["side"]) == (row["case"], "cleareyed")]
        for key in ("tokens_per_second", "tokens_per_second_best"):
            row[key.replace("tokens_per_second", "ratio")] = round(own[key] / row[key], 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-base")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8, help="completions of each prompt (default 8)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each case and side (default 5)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--vllm-python", help="a Python that has vLLM for CPUs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--side", nargs=3, metavar=("NAME", "FOLDER", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, folder, dtype = options.side
        side(name, Path(folder), dtype, options.threads)
        return
    torch.set_num_threads(options.threads)
    rows = measure(options)
    text = json.dumps({"rows": rows, "environment": describe_environment(None)}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
