"""Prompts as tokens, positions and pixels."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.models.vlm import VLM, EncodedPrompt

CHAT_OPEN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
CHAT_CLOSE = "<|im_end|>\n<|im_start|>assistant\n"
"""The roles of Qwen2-VL's own chat template, around one user turn."""

_TURN = Lock()

Pictures = tuple[torch.Tensor | None, torch.Tensor | None]
"""`EncodedPrompt.pixels` and `EncodedPrompt.grid` of a prompt's images."""


def encode(vlm: VLM, text: str, images: Sequence[Image.Image], chat: bool = False) -> EncodedPrompt:
    """Encode images (first) and text as one prompt.

    `text` is ordinary text throughout: a `<|image_pad|>` written in it does not become an image token. With `chat`
    the prompt is wrapped in the system, user and assistant roles. Raises InputError for an image that cannot be
    fitted (its longer side more than 200 times the shorter).
    """
    return encode_behind(vlm, text, image_pixels(vlm, images), chat)


def encode_behind(vlm: VLM, text: str, pictures: Pictures, chat: bool = False) -> EncodedPrompt:
    """`encode` with pictures that are made ready: prompts that share them share one run of the vision tower."""
    config = vlm.model.config
    pixels, grid = pictures
    head = token_ids(vlm.tokenizer, CHAT_OPEN, special=True) if chat else []
    tail = token_ids(vlm.tokenizer, CHAT_CLOSE, special=True) if chat else []
    body = token_ids(vlm.tokenizer, text)

    merge: int = config.vision_config.spatial_merge_size
    ids = list(head)
    positions = [_line(0, len(head))]  # each (3, n)
    here = len(head)
    for times, high, wide in [] if grid is None else (grid // torch.tensor([1, merge, merge])).tolist():
        ids += [
            config.vision_start_token_id,
            *[vlm.image_token_id] * (times * high * wide),
            config.vision_end_token_id,
        ]
        positions += [_line(here, 1), _box(here + 1, times, high, wide)]
        here += 1 + max(high, wide)
        positions.append(_line(here, 1))
        here += 1
    ids += body + tail
    positions.append(_line(here, len(body) + len(tail)))
    return EncodedPrompt(
        ids=torch.tensor(ids, dtype=torch.int64),
        positions=torch.cat(positions, dim=1),
        next_position=here + len(body) + len(tail),
        pixels=pixels,
        grid=grid,
    )


def image_pixels(vlm: VLM, images: Sequence[Image.Image]) -> Pictures:
    """Images as the model takes them; InputError as `encode` raises it."""
    if not images:
        return None, None
    for image in images:
        width, height = image.size
        if max(width, height) > 200 * min(width, height):
            raise InputError(f"image of {width}x{height} pixels: more than 200 times longer than wide; crop it")
    features = vlm.image_processor(
        images=[image.convert("RGB") for image in images], input_data_format="channels_last", return_tensors="pt"
    )
    return features["pixel_values"], features["image_grid_thw"]


def token_ids(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """The tokens of a text; only if `special`, what is written like a special token becomes one.

    The library keeps that choice in the tokenizer between calls, so that threads take turns: one that reads roles
    must not turn what another reads of a question into an image token.
    """
    with _TURN:
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
    return ids


def _line(start: int, length: int) -> torch.Tensor:
    """Text positions: the same on the three axes."""
    return torch.arange(start, start + length).expand(3, length)  # (3, length)


def _box(start: int, times: int, high: int, wide: int) -> torch.Tensor:
    """Image positions: one axis each for time, row and column (M-RoPE, Qwen2-VL, section 2.1)."""
    axes = torch.meshgrid(torch.arange(times), torch.arange(high), torch.arange(wide), indexing="ij")
    return start + torch.stack(axes).reshape(3, -1)  # (3, times * high * wide)
