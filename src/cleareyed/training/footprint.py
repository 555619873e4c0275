"""What a training step takes, worked out from the model's shapes alone: memory by part, and arithmetic.

The forwards and backwards are the engine's own, run on a ghost (`cleareyed.models.ghost`); the rest is a sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cleareyed.models import decode
from cleareyed.models.forward import (
    continuation_logprobs,
    cut,
    image_features,
    join,
    run_prefix,
    trains_vision,
)
from cleareyed.models.ghost import Ledger, Outline, ghost_tensor, ghost_vlm
from cleareyed.models.kept import Kept, Replayed, is_kept, room_for
from cleareyed.models.vlm import VLM, EncodedPrompt
from cleareyed.recipe import GrpoRecipe, SftRecipe
from cleareyed.training.sft import Example, target_logprobs

FP32 = 4
CHOICE = 4 + 4 + 4 + 8
"""Bytes for each token that sampling could choose: its logit, log-probability, probability, and their running sum."""
HEAP = 200_000_000
"""Bytes that the C library keeps of freed tensors, at most, and no more than was in use: pieces that do not fit what
comes next. Tensors above 32 MB go back at once, so that this does not grow with the model. Measured with tiny-base in
four settings (benchmarks/preflight.py): 41 to 252 MB."""
TrainingRecipe = GrpoRecipe | SftRecipe


@dataclass(frozen=True)
class PromptShape:
    """The size of a prompt, whatever it says."""

    text_tokens: int
    """Chat roles included, the tokens around images not."""
    grids: tuple[tuple[int, int], ...]
    """Height and width of each image in patches."""
    answer_tokens: int = 0
    """SFT: the target, its ending token included."""

    def tokens(self, merge: int) -> int:
        """The length of the prompt, where an image token stands for merge * merge patches."""
        return self.text_tokens + sum(high * wide // merge**2 + 2 for high, wide in self.grids)


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes."""

    held: dict[str, int]
    """What is there throughout: `process` (CPU only), `weights`, `gradients`, `moments`, `reference`, `pictures`."""
    phases: dict[str, int]
    """What each phase of a step takes besides, at its highest."""

    @property
    def peak(self) -> int:
        return sum(self.held.values()) + max(self.phases.values())

    @property
    def busiest(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: self.phases[phase])


@dataclass(frozen=True)
class Parameters:
    """How many there are; tied ones count once."""

    total: int
    trained: int
    vision: int
    decoder: int
    """In the language model's layers."""
    head: int
    largest: int
    """In the largest trained tensor."""


def count_parameters(vlm: VLM) -> Parameters:
    every = list(vlm.model.parameters())
    trained = [parameter.numel() for parameter in every if parameter.requires_grad]
    model: Any = vlm.model
    return Parameters(
        total=sum(parameter.numel() for parameter in every),
        trained=sum(trained),
        vision=sum(parameter.numel() for parameter in model.model.visual.parameters()),
        decoder=sum(parameter.numel() for parameter in model.model.language_model.layers.parameters()),
        head=model.lm_head.weight.numel(),
        largest=max(trained, default=0),
    )


def footprint(
    recipe: TrainingRecipe, of: Outline, prompt: PromptShape, device: torch.device, process: int
) -> Footprint:
    """The memory of a step in which every prompt is `prompt` and every completion as long as it may be.

    `device` is where the training would run; `process` is the memory, in bytes, of Python with its libraries, which
    counts on a CPU.

    Raises:
        InputError: adapters without peft.
    """
    vlm = ghost_vlm(of, device, recipe.model)
    numbers = count_parameters(vlm)
    for parameter in vlm.model.parameters():
        if parameter.requires_grad:
            parameter.grad = ghost_tensor(vlm, *parameter.shape)
    on_cpu = device.type == "cpu"
    count = recipe.prompts_per_step if isinstance(recipe, GrpoRecipe) else recipe.batch
    prompts = [_prompt(vlm, prompt) for _ in range(count)]
    pictures = sum(part.pixels.numel() for part in prompts if part.pixels is not None) * FP32
    needs_copy = isinstance(recipe, GrpoRecipe) and recipe.beta > 0 and recipe.model.lora is None
    held = {
        "process": process if on_cpu else 0,
        "weights": numbers.total * FP32,
        "gradients": numbers.trained * FP32,
        "moments": numbers.trained * FP32 * 2,
        "reference": numbers.total * FP32 if needs_copy else 0,
        # This step's and, made meanwhile, the next one's.
        "pictures": pictures * (2 if isinstance(recipe, GrpoRecipe) else 1) if on_cpu else 0,
    }
    ledger = Ledger(vlm)
    with ledger:
        if isinstance(recipe, GrpoRecipe):
            kept = room_for(vlm, count * recipe.sampling.group, recipe.sampling.max_tokens)  # there throughout
            phases = _grpo_phases(recipe, vlm, prompts, kept, ledger, numbers)
        else:
            phases = {"update": _sft_phase(recipe, vlm, prompts, prompt.answer_tokens, ledger)}
        if recipe.validate_on is not None and recipe.eval_every:
            phases["validation"] = _validation(recipe, vlm, prompts[0], ledger, numbers)
    if on_cpu:
        phases = {name: size + min(size, HEAP) for name, size in phases.items()}
    # AdamW works through one tensor at a time on a CPU, through all at once elsewhere.
    phases["optimizer"] = 2 * numbers.largest * FP32 if on_cpu else numbers.trained * FP32
    return Footprint(held, phases)


def _prompt(vlm: VLM, shape: PromptShape) -> EncodedPrompt:
    config: Any = vlm.model.config
    merge, tower = config.vision_config.spatial_merge_size, config.vision_config
    ids: list[int] = []
    for high, wide in shape.grids:
        ids += [0, *[vlm.image_token_id] * (high * wide // merge**2), 0]
    ids += [0] * shape.text_tokens
    depth = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    return EncodedPrompt(
        ids=torch.tensor(ids),
        positions=torch.arange(len(ids)).expand(3, -1),
        next_position=len(ids),
        pixels=ghost_tensor(vlm, sum(high * wide for high, wide in shape.grids), depth) if shape.grids else None,
        grid=torch.tensor([(1, high, wide) for high, wide in shape.grids]) if shape.grids else None,
    )


def _grpo_phases(
    recipe: GrpoRecipe,
    vlm: VLM,
    prompts: Sequence[EncodedPrompt],
    kept: Kept | None,
    ledger: Ledger,
    numbers: Parameters,
) -> dict[str, int]:
    """The phases of `training.grpo`, each at its peak."""
    group, longest = recipe.sampling.group, recipe.sampling.max_tokens
    whole = recipe.micro_prompts is None
    unit = prompts if recipe.micro_prompts is None else prompts[: recipe.micro_prompts]
    at_once = max(1, min(recipe.micro_tokens // longest, len(unit) * group))  # completions

    with ledger.phase() as running, torch.set_grad_enabled(whole):
        features = None if trains_vision(vlm) else image_features(vlm, prompts)
        prefix = run_prefix(vlm, prompts, features)
    phases = {"prompts": running.peak}
    phases["rollouts"] = ledger.live + _decoding(vlm, len(prompts), group, longest, prefix.mask.shape[1], numbers)
    if not whole:
        del prefix
    if recipe.beta > 0:
        with ledger.phase() as reference, torch.no_grad():
            other = run_prefix(vlm, unit, features)
            _completions(vlm, other, at_once, group, longest)
            del other
        phases["reference"] = reference.peak
    with ledger.phase() as update:
        if not whole:
            prefix = run_prefix(vlm, unit, features)
        leaves = cut(prefix)
        for _ in range(min(2, math.ceil(len(unit) * group / at_once))):  # from the second on, gradients are there
            _completions(vlm, leaves, at_once, group, longest, kept if recipe.updates == 1 else None).backward()
        join(prefix, leaves)
    phases["update"] = update.peak
    return phases


def _completions(vlm: VLM, prefix: Any, count: int, group: int, longest: int, kept: Kept | None = None) -> Tensor:
    rows = torch.arange(count, device=vlm.device) // group  # (N,)
    ids = torch.zeros(count, longest, dtype=torch.int64, device=vlm.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    replayed = None if kept is None else Replayed(kept, torch.arange(count))
    logprobs, _ = continuation_logprobs(vlm, prefix, rows, ids, mask, replayed=replayed)
    return logprobs.sum()


def _decoding(vlm: VLM, prompts: int, group: int, longest: int, length: int, numbers: Parameters) -> int:
    """Bytes that `models.decode` holds: its weights, keys and values, and what choosing the next tokens takes."""
    text: Any = vlm.model.config.get_text_config()
    size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    slot: int = 2 * text.num_hidden_layers * text.num_key_value_heads * size * FP32  # of one token
    weights = (numbers.decoder + numbers.head) * 2 if vlm.autocast else numbers.decoder * FP32
    if vlm.device.type == "cuda":  # all of the room at once, in the precision of the weights
        own = prompts * group * longest * (slot // 2 if vlm.autocast else slot)
    else:  # room is made by copying: the old is there until the new is
        before = room = 0
        while room < longest:
            before, room = room, decode.grown(room, longest)
        own = prompts * group * slot * (before + room)
    choosing: int = prompts * group * text.vocab_size * CHOICE
    return weights + prompts * length * slot + own + choosing


def _validation(recipe: TrainingRecipe, vlm: VLM, prompt: EncodedPrompt, ledger: Ledger, numbers: Parameters) -> int:
    """As many questions as are asked at a time, each taken to be as long as the longest of the training."""
    spec = recipe.validate_on
    assert spec is not None
    longest = recipe.sampling.max_tokens if isinstance(recipe, GrpoRecipe) else recipe.max_tokens
    with ledger.phase() as running, torch.no_grad():
        pixels = [None if prompt.pixels is None else prompt.pixels.clone() for _ in range(spec.batch)]
        prefix = run_prefix(vlm, [replace(prompt, pixels=own) for own in pixels])
        decoding = _decoding(vlm, spec.batch, 1, spec.max_tokens or longest, prefix.mask.shape[1], numbers)
        held = ledger.live + decoding
    return max(running.peak, held)


def _sft_phase(recipe: SftRecipe, vlm: VLM, prompts: Sequence[EncodedPrompt], answer: int, ledger: Ledger) -> int:
    examples = []
    for prompt in prompts[: recipe.micro_batch or len(prompts)]:
        ids = torch.cat([prompt.ids, torch.zeros(answer, dtype=torch.int64)])  # (L,)
        learnt = torch.arange(len(ids)) >= len(prompt.ids)
        if recipe.train_on_prompt:
            learnt |= ids != vlm.image_token_id
            learnt[0] = False
        whole = EncodedPrompt(ids, torch.arange(len(ids)).expand(3, -1), len(ids), prompt.pixels, prompt.grid)
        examples.append(Example(whole, learnt))
    with ledger.phase() as update:
        logprobs, targets = target_logprobs(vlm, examples)
        functional.nll_loss(logprobs, targets, reduction="sum").backward()
    return update.peak


def step_flops(recipe: TrainingRecipe, vlm: VLM, prompt: PromptShape) -> float:
    """Floating-point operations of one step at full length: two for each weight a token meets (attention itself left
    out), twice that again for the backward, and once more for what checkpointing runs again."""
    numbers = count_parameters(vlm)
    merge: int = vlm.model.config.vision_config.spatial_merge_size
    patches = sum(high * wide for high, wide in prompt.grids)
    backward = 3.0 if recipe.model.gradient_checkpointing is True else 2.0
    if isinstance(recipe, SftRecipe):
        length = prompt.tokens(merge) + prompt.answer_tokens
        once = numbers.decoder * length + numbers.vision * patches + numbers.head * prompt.answer_tokens
        return 2.0 * recipe.batch * once * (1 + backward)
    prompts = recipe.prompts_per_step * (numbers.decoder * prompt.tokens(merge) + numbers.vision * patches)
    completions = recipe.prompts_per_step * recipe.sampling.group * recipe.sampling.max_tokens
    completions *= numbers.decoder + numbers.head
    forwards = (1 if recipe.micro_prompts is None else 2) + (recipe.updates - 1) + (recipe.beta > 0)
    kept = is_kept(vlm, recipe.prompts_per_step * recipe.sampling.group, recipe.sampling.max_tokens)
    passes = (1 + recipe.updates - kept) + (recipe.beta > 0)  # sampled, then run for each update
    return 2.0 * (
        prompts * (forwards + backward * recipe.updates) + completions * (passes + backward * recipe.updates)
    )
