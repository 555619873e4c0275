"""A new, random model of the Qwen2-VL architecture, in the size a recipe states."""

import torch
from transformers import PreTrainedTokenizerBase, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cleareyed.models import attention
from cleareyed.models.vlm import VLM
from cleareyed.recipe import ShapeSpec

END = "<|endoftext|>"
SPECIAL = (
    END,
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""The special tokens of the Qwen2-VL family, in their usual roles."""
MERGE = 2
MEAN = (0.5, 0.5, 0.5)


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of `SPECIAL`, by name."""
    known: dict[str, int] = tokenizer.get_vocab()
    return {name: known[name] for name in SPECIAL}


def qwen2_vl_config(shape: ShapeSpec, tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    """The configuration of a Qwen2-VL with tied embeddings and the sizes of `shape`."""
    ids = special_token_ids(tokenizer)
    head = shape.hidden // shape.heads
    section = head // 2 // 8 * 3
    return Qwen2VLConfig(
        text_config={
            "vocab_size": shape.vocab,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [head // 2 - 2 * section, section, section],
            },
            "bos_token_id": ids[END],
            "eos_token_id": ids[END],
            "pad_token_id": ids[END],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": shape.vision_layers,
            "embed_dim": shape.vision_hidden,
            "hidden_size": shape.hidden,
            "num_heads": shape.vision_heads,
            "mlp_ratio": 4,
            "patch_size": shape.patch,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def new_vlm(shape: ShapeSpec, tokenizer: PreTrainedTokenizerBase, seed: int) -> VLM:
    """A randomly initialised Qwen2-VL in fp32, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = qwen2_vl_config(shape, tokenizer)
        model = Qwen2VLForConditionalGeneration._from_config(
            config, attn_implementation=attention.NAME, dtype=torch.float32
        )
    ids = special_token_ids(tokenizer)
    model.generation_config.eos_token_id = [ids[END], ids["<|im_end|>"]]
    model.generation_config.pad_token_id = ids[END]
    side = shape.image_px**2
    processor = Qwen2VLImageProcessorPil(
        patch_size=shape.patch,
        merge_size=MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": (shape.patch * MERGE) ** 2, "longest_edge": side},
        image_mean=MEAN,
        image_std=MEAN,
    )
    return VLM(
        name="new",
        model=model,
        tokenizer=tokenizer,
        image_processor=processor,
        eos_ids=(ids[END], ids["<|im_end|>"]),
        banned_ids=tuple(ids[name] for name in SPECIAL if "vision" in name or "pad" in name),
        image_token_id=ids["<|image_pad|>"],
    )
