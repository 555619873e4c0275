"""One GRPO step of a model with the sizes of Qwen2-VL-2B on one GPU: seconds by phase, memory, utilisation.

    python benchmarks/h100.py --json benchmarks/results/h100.json

The weights are random, which changes nothing about speed or memory, and every completion has the full length. With
`--trl-python` TRL's GRPOTrainer does the same step, once with each `--trl` setting; the fastest counts.
`--tiny` runs all of it in seconds on a CPU, with a small model.

FLOPs of one forward: 2 for each weight of a linear layer and each token that passes it; for attention 4 A for each
pair of a query and a key that it sees, A = heads * head size. A trained step counts 3 forwards; what checkpointing
runs again does not count. The utilisation is that share of the GPU's dense bf16 peak: `mfu` counts the work that this
engine has to do, every image and prompt once; `mfu_unshared` counts the work of a trainer that runs them again for
each completion, over the same seconds. Decoding is bound by memory: its utilisation counts, of each step, the language
model's weights and the keys and values behind it (a prompt's once), over the peak bandwidth.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cell import STYLE, Cell, SideFailed, write_cell
from grpo_step import run_trl, save
from own_side import open_picture, run_shared
from PIL import Image
from torch import nn
from transformers import AutoTokenizer

from cleareyed.commands import set_up
from cleareyed.models.build import MERGE, new_vlm
from cleareyed.models.encode import encode
from cleareyed.models.forward import checkpoint_blocks
from cleareyed.models.load import TINY_BASE
from cleareyed.models.sample import sample
from cleareyed.models.save import save_vlm
from cleareyed.models.vlm import VLM, EncodedPrompt, SamplingParams
from cleareyed.recipe import ShapeSpec
from cleareyed.records.environment import describe_environment
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.scenes.task import scenes_task

QWEN2_VL_2B = ShapeSpec(
    vocab=151936,
    hidden=1536,
    layers=28,
    heads=12,
    kv_heads=2,
    intermediate=8960,
    vision_hidden=1280,
    vision_layers=32,
    vision_heads=16,
    patch=14,
)
TINY = ShapeSpec(
    vocab=1024,
    hidden=64,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate=96,
    vision_hidden=32,
    vision_layers=2,
    vision_heads=2,
)


@dataclass(frozen=True)
class Work:
    """FLOPs of the forwards of a step, each prompt and image run once."""

    vision: float
    prompts: float
    completions: float
    head: float

    def trained(self, times: int = 1) -> float:
        """Forward and backward, with prompts and images run `times` times."""
        return 3 * (times * (self.vision + self.prompts) + self.completions + self.head)


def work_of(model: Any, prompts: list[EncodedPrompt], group: int, tokens: int) -> Work:
    """The work of `group` completions of `tokens` tokens each behind every prompt."""
    tower, text, config = model.model.visual, model.model.language_model, model.config
    depth, width = config.vision_config.depth, config.vision_config.embed_dim
    layers, inner = config.text_config.num_hidden_layers, attention_width(config)
    per_patch = _weights(tower.blocks) + _weights(tower.patch_embed)
    vision = completions = through = 0.0
    for prompt in prompts:
        for grid in [] if prompt.grid is None else prompt.grid.tolist():
            patches = math.prod(grid)
            vision += 2 * patches * (per_patch + _weights(tower.merger) / MERGE**2)
            vision += depth * 4 * width * patches**2
        length, later = len(prompt.ids), tokens - 1  # the prompt's last state predicts the first token
        through += 2 * length * _weights(text.layers) + layers * 4 * inner * length**2 / 2
        pairs = later * length + later**2 / 2
        completions += group * (2 * later * _weights(text.layers) + layers * 4 * inner * pairs)
    return Work(vision, through, completions, 2 * len(prompts) * group * tokens * model.lm_head.weight.numel())


def attention_width(config: Any) -> int:
    """Query heads times head size."""
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_attention_heads * head)


def _weights(module: nn.Module) -> int:
    """How many weights its matrix products have."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear | nn.Conv3d))


def decode_bytes(model: Any, prompts: list[EncodedPrompt], group: int, tokens: int, size: int) -> float:
    """Bytes that a decoding step has to read at least, on average over a rollout, at `size` bytes a number."""
    text = model.config.text_config
    pair = 2 * text.num_hidden_layers * text.num_key_value_heads * attention_width(model.config)
    pair //= text.num_attention_heads
    held = sum(len(prompt.ids) for prompt in prompts) + len(prompts) * group * tokens / 2
    weights = _weights(model.model.language_model.layers) + model.lm_head.weight.numel()
    return size * (weights + pair * held)


def build(shape: ShapeSpec, cell: Cell, device: str) -> VLM:
    """The model with random weights, whose completions no token ends."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    with torch.device(device):
        vlm = new_vlm(shape, tokenizer, seed=0)
    size = vlm.image_processor.size
    vlm.image_processor.size = type(size)(shortest_edge=cell.pixels, longest_edge=cell.pixels)
    checkpoint_blocks(vlm.model, cell.checkpointing)
    suppressed = tuple(sorted({*vlm.banned_ids, *vlm.eos_ids}))
    ends = (vlm.image_token_id,)
    vlm = replace(vlm, eos_ids=ends, banned_ids=suppressed, autocast=cell.dtype == "bf16")
    vlm.model.eval()
    return vlm


def make_cell(folder: Path, shape: ShapeSpec, options: argparse.Namespace) -> Cell:
    """Scenes, stretched to the wanted number of image tokens."""
    high = max(n for n in range(1, math.isqrt(options.image_tokens) + 1) if options.image_tokens % n == 0)
    block = shape.patch * MERGE
    size = (options.image_tokens // high * block, high * block)
    samples = scenes_task("train").samples[: options.prompts]
    for number, one in enumerate(samples):
        [render] = one.images
        render().resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    questions = tuple(one.question for one in samples)
    cell = Cell(
        model=str(folder / "model"),
        texts=tuple(prompt_text(prompt_style(STYLE), question) for question in questions),
        questions=questions,
        pixels=size[0] * size[1],
        group=options.group,
        completion_tokens=options.completion_tokens,
        suppress=(),
        beta=options.beta,
        dtype=options.dtype,
        threads=options.threads,
        steps=options.steps,
        checkpointing={"none": False, "all": True}.get(options.checkpointing, options.checkpointing),
    )
    write_cell(folder, cell)
    return cell


def time_decoding(vlm: VLM, prompts: list[EncodedPrompt], cell: Cell) -> float | None:
    """Seconds of one decoding step: a whole rollout less one that ends after its first token, each the faster of two.

    None if that is lost in noise, as with few tokens on a busy machine.
    """

    def once(tokens: int) -> float:
        generator = torch.Generator(device=vlm.device).manual_seed(0)
        start = time.perf_counter()
        sample(vlm, prompts, SamplingParams(tokens, 1.0, cell.group), generator)
        return time.perf_counter() - start

    once(1)  # warm
    short, whole = (min(once(tokens), once(tokens)) for tokens in (1, cell.completion_tokens))
    return (whole - short) / (cell.completion_tokens - 1) if whole > short else None


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shape = TINY if options.tiny else QWEN2_VL_2B
    device = "cpu" if options.tiny else "cuda"
    cell = make_cell(folder, shape, options)
    beside = trl_beside(shape, cell, folder, options) if options.trl_python else None

    vlm = build(shape, cell, device)
    prompts = [encode(vlm, text, [open_picture(folder / f"{number}.png")]) for number, text in enumerate(cell.texts)]
    found = run_shared(cell, folder, vlm, micro_prompts=options.micro_prompts, micro_tokens=options.micro_tokens)
    on_gpu = device == "cuda"
    allocated = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    reserved = torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None

    work = work_of(vlm.model, prompts, cell.group, cell.completion_tokens)
    phases = found["phases"]
    # Where the rollouts' run of the prompts is the update's too, it has a phase of its own.
    updating = phases["update"] + (phases.get("prompt", 0.0) if options.micro_prompts is None else 0.0)
    step_bytes = decode_bytes(vlm.model, prompts, cell.group, cell.completion_tokens, 2 if vlm.autocast else 4)
    step_seconds = time_decoding(vlm, prompts, cell)
    read = step_bytes / step_seconds if step_seconds else None  # bytes a second
    peak = options.peak_tflops * 1e12
    seconds = statistics.median(found["seconds"])
    return {
        "parameters": sum(parameter.numel() for parameter in vlm.model.parameters()),
        "image_tokens": options.image_tokens,
        "prompt_tokens": [len(prompt.ids) for prompt in prompts],
        "seconds": seconds,
        "seconds_all": found["seconds"],
        "phases": phases,
        "peak_allocated_gb": allocated,
        "peak_reserved_gb": reserved,
        "fits_80_gb": reserved < 80 if reserved is not None else None,
        "forward_flops": asdict(work),
        "update_seconds": updating,
        "update_flops": work.trained(),
        "update_flops_unshared": work.trained(cell.group),
        "mfu": work.trained() / updating / peak if on_gpu else None,
        "mfu_unshared": work.trained(cell.group) / updating / peak if on_gpu else None,
        "decode_step_seconds": step_seconds,
        "decode_tokens_per_second": cell.rows / step_seconds if step_seconds else None,
        "decode_step_bytes": step_bytes,
        "decode_bandwidth_utilisation": read / (options.peak_tbps * 1e12) if on_gpu and read else None,
        "trl": beside,
        "trl_ratio": beside["seconds"] / seconds if beside and beside["seconds"] else None,
    }


def trl_beside(shape: ShapeSpec, cell: Cell, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """TRL's step on the same weights, in its own process and before ours takes any memory of the GPU."""
    vlm = build(shape, cell, "cpu")
    save_vlm(vlm, Path(cell.model), "fp32")
    cell = replace(cell, suppress=vlm.banned_ids, steps=options.trl_steps)
    del vlm
    tried: list[dict[str, Any]] = []
    for setting in options.trl:
        batch, _, extra = setting.partition("+")
        write_cell(folder, replace(cell, checkpointing=extra == "checkpointing"))
        try:
            chosen = {"batch": int(batch), "cache": "dynamic"}
            found = run_trl(cell, folder, options.trl_python, chosen, use_gpu=not options.tiny)
        except SideFailed as error:
            tried.append({"setting": setting, "failed": str(error).splitlines()[-1]})
            continue
        kept = {name: found[name] for name in ("phases", "peak_mb", "versions")}
        tried.append({"setting": setting, "seconds": statistics.median(found["seconds"]), **kept})
        print("TRL", json.dumps(tried[-1]), flush=True)  # not lost if what follows does not end in time
    worked = [one for one in tried if "seconds" in one]
    return {**(min(worked, key=lambda one: float(one["seconds"])) if worked else {"seconds": None}), "tried": tried}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--tiny", action="store_true", help="a small model and short texts, on the CPU")
    parser.add_argument("--prompts", type=int, help="default 8")
    parser.add_argument("--group", type=int, help="default 8")
    parser.add_argument("--image-tokens", type=int, help="default 512")
    parser.add_argument("--completion-tokens", type=int, help="default 700")
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--steps", type=int, help="steps measured, after one that is not (default 3)")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16", help="bf16: autocast over fp32 weights")
    parser.add_argument(
        "--checkpointing",
        choices=["none", "vision", "all"],
        default="vision",
        help="blocks run again (default vision)",
    )
    parser.add_argument("--micro-prompts", type=int, help="prompts whose graphs are held at a time (default all)")
    parser.add_argument("--micro-tokens", type=int, default=11200, help="most completion tokens in a forward")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 (default 989, an H100 SXM)")
    parser.add_argument("--peak-tbps", type=float, default=3.35, help="memory, 10**12 bytes a second (default 3.35)")
    parser.add_argument("--trl-python", help="a Python that has trl: measure its GRPOTrainer as well")
    parser.add_argument("--trl", nargs="+", metavar="BATCH[+checkpointing]", help="(default 8+checkpointing 2)")
    parser.add_argument("--trl-steps", type=int, default=1, help="TRL's steps measured, after one that is not")
    options = parser.parse_args()
    usual = {"prompts": 8, "group": 8, "image_tokens": 512, "completion_tokens": 700, "steps": 3}
    small = {"prompts": 2, "group": 2, "image_tokens": 8, "completion_tokens": 6, "steps": 1}
    usual["trl"], small["trl"] = ["8+checkpointing", "2"], ["4", "2+checkpointing"]
    for name, value in (small if options.tiny else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("no GPU here; --tiny runs a small model on the CPU")
    return options


def main() -> None:
    options = parse()
    set_up(options.threads)
    with tempfile.TemporaryDirectory() as place:
        found = measure(options, Path(place))
    left_out = ("json", "trl_python")
    settings = {name: value for name, value in vars(options).items() if name not in left_out}
    text = json.dumps({"h100": found, "settings": settings, "environment": describe_environment(None)}, indent=2)
    print(text)
    if options.json:
        save(options.json, text)


if __name__ == "__main__":
    main()
