"""A very small random model, a task it can be trained on, and recipes: what the training tests share."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from cleareyed.models.build import new_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import GrpoRecipe, SftRecipe, ShapeSpec
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.tokenizer import train_tokenizer

SHAPE = ShapeSpec(
    vocab=300,
    hidden=64,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate=64,
    vision_hidden=32,
    vision_layers=1,
    vision_heads=2,
    patch=8,
    image_px=32,
)
COLOURS = ("red", "green", "blue")


def small_vlm(seed: int = 0) -> VLM:
    tokenizer = train_tokenizer(["Which colour is the square: red, green or blue?"] * 4, SHAPE.vocab)
    vlm = new_vlm(SHAPE, tokenizer, seed)
    vlm.model.eval()
    return vlm


def colour_task(count: int = 7) -> Task:
    def picture(index: int) -> Image.Image:
        return Image.new("RGB", (32, 16 if index % 2 else 32), COLOURS[index % 3])

    samples = [
        Sample(
            id=f"square-{index}",
            question="Which colour" + " is" * (index % 4) + "?",
            answer=COLOURS[index % 3],
            choices=COLOURS,
            images=() if index == 5 else ((lambda index=index: picture(index)),),
        )
        for index in range(count)
    ]
    return Task(name="colours", samples=samples)


def some_reward(completion_ids: Sequence[Sequence[int]], id: Sequence[str], **columns: Any) -> list[float | None]:
    """Differs between completions, apart from one sample whose groups have no signal."""
    return [1.0 if name == "square-2" else sum(ids) % 7 / 3 for ids, name in zip(completion_ids, id, strict=True)]


REWARDS = (RewardFunction("some", 1.0, some_reward),)


def grpo_recipe(**changes: Any) -> GrpoRecipe:
    fields = {
        "method": "grpo",
        "seed": 3,
        "optimizer": {"lr": 1e-3},
        "steps": 6,
        "save_every": 2,
        "task": {"name": "colours"},
        "prompt": "plain",
        "prompts_per_step": 4,
        "sampling": {"group": 3, "max_tokens": 6},
        "beta": 0.0,
    }
    return GrpoRecipe.model_validate(fields | changes)


def sft_recipe(**changes: Any) -> SftRecipe:
    fields = {
        "method": "sft",
        "seed": 3,
        "optimizer": {"lr": 1e-3},
        "steps": 6,
        "save_every": 2,
        "task": {"name": "colours"},
        "prompt": "plain",
        "batch": 4,
    }
    return SftRecipe.model_validate(fields | changes)


def weights(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in vlm.model.named_parameters()}


def gradients(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


def relative_gap(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest norm of a difference, relative to the norm of all of `expected`."""
    assert found.keys() == expected.keys()
    whole = torch.stack([tensor.norm() for tensor in expected.values()]).norm()
    assert whole > 0
    return max((found[name] - expected[name]).norm() / whole for name in expected).item()
