"""Attention in fp32 under bf16 autocast.

On CPUs the fused attention kernel is several times slower in bf16 than in fp32 for short sequences, while the
matrix products around it are faster in bf16. `sdpa_fp32` keeps each where it is fast, and more exact.
"""

from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SDPA_FP32 = "sdpa_fp32"


def _sdpa_fp32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    with torch.autocast(query.device.type, enabled=False):
        output, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.to(query.dtype), weights


ALL_ATTENTION_FUNCTIONS.register(SDPA_FP32, _sdpa_fp32)
