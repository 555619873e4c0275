"""Small random models for tests: a Qwen2-VL and a Qwen2.5-VL with a tokenizer of a few hundred tokens."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from cleareyed.models import attention
from cleareyed.models.build import new_vlm
from cleareyed.models.encode import encode
from cleareyed.models.vlm import VLM
from cleareyed.recipe import ShapeSpec
from cleareyed.training.tokenizer import train_tokenizer

SHAPE = ShapeSpec(
    vocab=320,
    hidden=48,
    layers=2,
    heads=3,
    kv_heads=1,
    intermediate=64,
    vision_hidden=32,
    vision_layers=2,
    vision_heads=2,
    patch=8,
    image_px=64,
)
TEXT = "How many red cubes are left of the blue ball? There are two. <think> the first, the second </think> "


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([TEXT] * 8, SHAPE.vocab)


def tiny_qwen2_vl(seed: int = 0) -> VLM:
    """Random weights, spread widely enough that its answers differ from one another."""
    return _spread(new_vlm(SHAPE, tiny_tokenizer(), seed), seed)


def tiny_qwen2_5_vl(seed: int = 0) -> VLM:
    """The same sizes in the Qwen2.5-VL architecture: RMS norms, windows in the vision tower's first block."""
    vlm = new_vlm(SHAPE, tiny_tokenizer(), seed)
    old: Any = vlm.model.config
    config = Qwen2_5_VLConfig(
        text_config={
            name: value
            for name, value in old.text_config.to_dict().items()
            if name not in {"model_type", "dtype", "architectures", "transformers_version"}
        },
        vision_config={
            "depth": SHAPE.vision_layers,
            "hidden_size": SHAPE.vision_hidden,
            "out_hidden_size": SHAPE.hidden,
            "intermediate_size": 48,
            "num_heads": SHAPE.vision_heads,
            "patch_size": SHAPE.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=old.image_token_id,
        video_token_id=old.video_token_id,
        vision_start_token_id=old.vision_start_token_id,
        vision_end_token_id=old.vision_end_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            config, attn_implementation=attention.NAME, dtype=torch.float32
        )
    model.generation_config = vlm.model.generation_config
    return _spread(replace(vlm, model=model), seed)


def picture(width: int = 40, height: int = 40, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def save_plainly(vlm: VLM, folder: Any) -> None:
    """A checkpoint as any other tool would write it."""
    for part in (vlm.model, vlm.tokenizer, vlm.image_processor):
        part.save_pretrained(folder)


def save_text_model(folder: Any) -> None:
    """A random Llama of some thousand parameters with a chat template."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}answer:"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _spread(vlm: VLM, seed: int) -> VLM:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return replace(vlm, model=vlm.model.eval())


def batch(vlm):
    """Four prompts of different lengths with 1, 2, 0 and 1 images of different sizes; nine completions of 1 to 7."""
    shared = encode(vlm, "What is left?", [picture(40, 56, seed=1)])
    prompts = [
        encode(vlm, "How many red cubes are left of the blue ball?", [picture(32, 48)]),
        shared,
        encode(vlm, "Two?", [picture(64, 16, seed=2), picture(24, 24, seed=3)]),
        encode(vlm, "No picture here", []),
    ]
    rows = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 0])
    lengths = [7, 3, 1, 5, 4, 2, 6, 1, 2]
    ids = torch.randint(8, 300, (len(rows), max(lengths)), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    weights = torch.randn(ids.shape, generator=torch.Generator().manual_seed(6)) * mask
    return prompts, rows, ids, mask, weights


def gradients(vlm, loss):
    vlm.model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in vlm.model.named_parameters()}


def prompts_of(vlm):
    return [
        encode(vlm, "How many red cubes?", [picture(32, 48)]),
        encode(vlm, "Two of them are left of the blue ball?", [picture(64, 16, seed=2), picture(24, 24, seed=3)]),
        encode(vlm, "No picture here", []),
    ]
