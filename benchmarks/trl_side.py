"""TRL's side of a benchmark: GRPOTrainer on one cell, in any Python that has trl.

    python trl_side.py FOLDER --batch 64 --cache dynamic

Reads FOLDER/cell.json and its pictures, writes FOLDER/result.json. `grpo_step.py` calls it.
"""

import argparse
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from cell import Cell, Memory, alternate, gaps, medians, read_cell, touch_libraries, write_result
from datasets import Dataset, Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    ProcessorMixin,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    TrainerCallback,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
"""A chat without roles: picture, then text."""


class ImageOnlyProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without its video part, which needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


@dataclass
class Watch(TrainerCallback):
    """When each step ended."""

    moments: list[float] = field(default_factory=list)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.moments.append(time.perf_counter())


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer as it is, which notes how long each rollout took."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        completions, logprobs = super()._generate_single_turn(*args, **kwargs)
        self.rollouts.append(time.perf_counter() - start)
        assert {len(ids) for ids in completions} == {self.args.max_completion_length}
        return completions, logprobs


def constant_reward(completions: list[Any], **columns: Any) -> list[float]:
    return alternate(len(completions))


def settings(cell: Cell, batch: int, cache: str, folder: Path) -> GRPOConfig:
    """What the documentation of GRPOConfig offers for speed in this case; everything else keeps its default."""
    accumulate = cell.rows // batch
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=cell.steps + 1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate,  # one rollout for all rows of a step
        num_generations=cell.group,
        num_iterations=1,
        max_completion_length=cell.completion_tokens,
        generation_kwargs={"suppress_tokens": list(cell.suppress)},
        cache_implementation=None if cache == "dynamic" else cache,
        temperature=1.0,
        beta=cell.beta,
        loss_type="grpo",
        learning_rate=cell.lr,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=cell.dtype == "bf16",
        gradient_checkpointing=bool(cell.checkpointing),
        use_cpu=not torch.cuda.is_available(),
        use_vllm=False,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, required=True, help="completions in a forward and backward")
    parser.add_argument("--cache", choices=["dynamic", "static"], required=True)
    options = parser.parse_args()
    folder: Path = options.folder
    cell = read_cell(folder)
    torch.set_num_threads(cell.threads)

    model = Qwen2VLForConditionalGeneration.from_pretrained(
        cell.model, dtype=torch.float32, attn_implementation="sdpa"
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    edges = {"shortest_edge": cell.pixels, "longest_edge": cell.pixels}
    processor = ImageOnlyProcessor(
        image_processor=AutoImageProcessor.from_pretrained(cell.model, backend="pil", size=edges),
        tokenizer=AutoTokenizer.from_pretrained(cell.model, padding_side="left"),
        chat_template=TEMPLATE,
    )
    rows = [
        {"prompt": [{"role": "user", "content": text}], "image": str(folder / f"{number}.png")}
        for number, text in enumerate(cell.texts)
    ]
    # Every step takes all prompts; so many copies that one epoch is enough.
    data = Dataset.from_list(rows * (cell.steps + 1)).cast_column("image", Image())
    first = processor(
        images=[[row["image"]] for row in data.select(range(len(rows)))],
        text=[f"<|vision_start|><|image_pad|><|vision_end|>{text}" for text in cell.texts],
    )
    watch = Watch()
    touch_libraries(model)

    memory = Memory(model.device.type)
    trainer = TimedTrainer(
        model=model,
        reward_funcs=constant_reward,
        args=settings(cell, options.batch, options.cache, folder),
        train_dataset=data,
        processing_class=processor,
        callbacks=[watch],
    )
    trainer.rollouts = []
    trainer.train()
    peak = memory.peak_mb()

    seconds = gaps(watch.moments)
    phases = [
        {"generate": rollout, "rest": whole - rollout}
        for rollout, whole in zip(trainer.rollouts[1:], seconds, strict=True)
    ]
    write_result(
        folder,
        {
            "seconds": seconds,
            "peak_mb": peak,
            "phases": medians(phases),
            "ids": [list(map(int, ids)) for ids in first["input_ids"]],
            "pixels": [len(first["pixel_values"]), float(torch.as_tensor(first["pixel_values"]).double().mean())],
            "versions": {name: metadata.version(name) for name in ("trl", "transformers", "torch", "accelerate")},
        },
    )


if __name__ == "__main__":
    main()
