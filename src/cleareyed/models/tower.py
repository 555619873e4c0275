"""The vision tower over its own weights, with fewer passes over memory than the library's.

Of Qwen2-VL (arXiv 2409.12191, section 2.1), without adapters; other towers run the library's blocks. Two entries of a
head that turn by one angle stand side by side, as in `layers`; quick GELU is SiLU between scaled weights; patches go
through one matrix product. On a GPU under bf16 autocast the blocks are those of `fused`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.activations import QuickGELUActivation
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLVisionBlock

from cleareyed.models import fused
from cleareyed.models.attention import attend
from cleareyed.models.fused import plain
from cleareyed.models.layers import product, turned, turning_order
from cleareyed.models.vlm import VLM

QUICK = 1.702
"""Quick GELU of x is x sigmoid(1.702 x) = silu(1.702 x) / 1.702 (Hendrycks and Gimpel, arXiv 1606.08415)."""


@contextmanager
def own_blocks(vlm: VLM, grids: Tensor) -> Iterator[None]:
    """Run the vision tower's blocks as ours where they can be, and under checkpointing where they ask for it.

    grids (images, 3): frames, rows and columns of each, in patches.
    """
    model: Any = vlm.model
    tower = model.model.visual
    ours: Callable[..., Tensor] | None = None
    if fused.wanted(vlm.device):
        ours = fused.vision_block if _has_blocks(tower) else None
    elif _has_blocks(tower, bare=True):
        ours = _block
    lengths = torch.repeat_interleave(grids[:, 1] * grids[:, 2], grids[:, 0]).tolist()

    def our_block(block: Any, x: Tensor, *, position_embeddings: Any, **_: Any) -> Tensor:
        assert ours is not None
        return ours(block, x, position_embeddings, lengths)

    changed = []
    for block in tower.blocks:
        saving = block.gradient_checkpointing and torch.is_grad_enabled()
        if not (saving or ours):
            continue
        forward = partial(our_block, block) if ours else block.forward
        changed.append((block, block.gradient_checkpointing))
        block.gradient_checkpointing = False
        block.forward = partial(checkpoint, forward, use_reentrant=False) if saving else forward
    embed = tower.patch_embed
    if type(embed.proj) is nn.Conv3d:
        embed.forward = partial(_embedded, embed)
    try:
        yield
    finally:
        vars(embed).pop("forward", None)
        for block, asked in changed:
            del block.forward
            block.gradient_checkpointing = asked


def _has_blocks(tower: Any, bare: bool = False) -> bool:
    """Whether the blocks of a vision tower are Qwen2-VL's, with quick GELU, and if `bare`, without adapters."""
    return all(
        type(block) is Qwen2VLVisionBlock
        and isinstance(block.mlp.act, QuickGELUActivation)
        and not (bare and any(not plain(part) for part in (block.attn.qkv, block.mlp.fc1, block.mlp.fc2)))
        for block in tower.blocks
    )


def _block(block: Any, x: Tensor, position_embeddings: tuple[Tensor, Tensor], lengths: Sequence[int]) -> Tensor:
    """A block of Qwen2-VL's vision tower (arXiv 2409.12191, section 2.1): x (S, D) of images in a row.

    position_embeddings: cosines and sines (S, d) each; lengths: the patches of each image.
    """
    own, mlp = block.attn, block.mlp
    half = own.head_dim // 2
    angles = torch.complex(*(part[:, :half].float() for part in position_embeddings))[:, None]  # (S, 1, d / 2)
    order = turning_order(3 * own.num_heads, 2 * own.num_heads, own.head_dim).to(x.device)
    heads = product(block.norm1(x), own.qkv.weight[order], own.qkv.bias[order]).unflatten(1, (3 * own.num_heads, -1))
    query, key, value = turned(heads, angles, 2 * own.num_heads, (own.num_heads,) * 3)  # (S, H, d) each
    x = x + own.proj(fused.each_image(partial(attend, own), query, key, value, lengths).flatten(1))
    h = F.silu(product(block.norm2(x), QUICK * mlp.fc1.weight, QUICK * mlp.fc1.bias))
    result: Tensor = x + F.linear(h, mlp.fc2.weight / QUICK, mlp.fc2.bias)
    return result


def _embedded(embed: Any, pixels: Tensor) -> Tensor:
    """pixels (S, C T P P) of patches through a convolution that takes each as one: (S, D)."""
    return F.linear(pixels.to(embed.proj.weight.dtype), embed.proj.weight.flatten(1))
