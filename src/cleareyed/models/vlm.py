"""The records that the model station hands around."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel


@dataclass(frozen=True)
class VLM:
    """A loaded vision-language model of the Qwen2-VL family with its tokenizer and image processor."""

    name: str
    """As the user named it: a path, a hub id or `tiny-base`."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    eos_ids: tuple[int, ...]
    """Token ids that end a completion."""
    banned_ids: tuple[int, ...]
    """Token ids that sampling must never draw: vision tokens and padding."""
    image_token_id: int
    autocast: bool = False
    """Run forwards under bf16 autocast (weights stay fp32)."""

    @property
    def device(self) -> torch.device:
        return self.model.device


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as tokens and pixels."""

    ids: torch.Tensor  # (P,) int64, image tokens expanded
    positions: torch.Tensor  # (3, P) int64: temporal, height, width
    next_position: int
    """The position, on all three axes, of the first completion token."""
    pixels: torch.Tensor | None  # (patches, channels * temporal * patch * patch) fp32
    grid: torch.Tensor | None  # (images, 3) int64: temporal, height, width in patches


@dataclass(frozen=True)
class SamplingParams:
    max_tokens: int
    temperature: float = 1.0
    """0 means greedy."""
    group: int = 1
    """Completions per prompt."""


@dataclass(frozen=True)
class Completion:
    """What the model said to one prompt."""

    ids: tuple[int, ...]
    """Sampled token ids, the ending token included where there is one."""
    logprobs: tuple[float, ...]
    """Natural-log probability of each id at the sampling temperature (greedy: at temperature 1)."""
    finish: str
    """`stop` if an ending token was drawn, `length` if the limit cut it off."""
    text: str
    """Decoded, without the ending token."""


def padded(completions: Sequence[Completion]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (N, T) int64 of N completions, padded at the end with 0, and what is not padding, (N, T) bool."""
    lengths = torch.tensor([len(completion.ids) for completion in completions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([token for completion in completions for token in completion.ids])
    return ids, mask


Progress = Callable[[int, int], None]
"""Called with (done, total)."""
