"""Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685, section 4.1): W x + (alpha / rank) B A x, where W stays.

They come from the peft library, without dropout, and sit inside the model, which keeps its own class. Only they are
trained; B starts at 0, so that an adapted model begins as the base model.
"""

import copy
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from cleareyed.errors import InputError
from cleareyed.models.vlm import VLM
from cleareyed.recipe import LoraSpec

NAME = "default"
"""The adapters' name within peft, which its files leave out."""
PARTS = {"": "model.language_model.layers", "visual.": "model.visual.blocks"}
"""Where the linear layers are that a target can name, by the target's prefix."""


def require_peft() -> Any:
    """The peft library. Raises InputError where it is not installed."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise InputError(
            "model.lora: needs the peft library; pip install 'cleareyed[lora]', or leave model.lora out"
        ) from error


def add_adapters(model: PreTrainedModel, lora: LoraSpec, base_name: str) -> None:
    """Freeze `model` and put adapters (fp32) into it, in place.

    A target is the last name of linear layers in the language model's blocks (`q_proj`), or, after `visual.`, in the
    vision tower's (`visual.qkv`). The first values of A are always the same and do not touch the global random
    state. `base_name` goes into the saved adapters. Raises InputError for an unknown target, and without peft.
    """
    peft = require_peft()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=_pattern(model, lora.targets),
        base_model_name_or_path=base_name,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        peft.inject_adapter_in_model(config, model, adapter_name=NAME)


def _pattern(model: PreTrainedModel, targets: tuple[str, ...]) -> str:
    """What peft matches against the whole names of modules."""
    known = {
        prefix + name.rpartition(".")[2]: part
        for prefix, part in PARTS.items()
        for name, module in model.get_submodule(part).named_modules()
        if isinstance(module, nn.Linear)
    }
    for target in targets or ("",):
        if target not in known:
            raise InputError(
                f"model.lora.targets: {target!r} names no linear layer; known are {', '.join(sorted(known))}"
            )
    choices = []
    for prefix, part in PARTS.items():
        names = sorted({target.removeprefix(prefix) for target in targets if known[target] == part})
        if names:
            choices.append(rf"{re.escape(part)}\..+\.({'|'.join(map(re.escape, names))})")
    return "|".join(choices)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that hold an adapter, by name; none in a model without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@contextmanager
def adapters_off(vlm: VLM) -> Iterator[None]:
    """Inside, the model is the base model: the reference of the KL penalty without a second copy.

    May be nested, in itself and in `torch.no_grad`; afterwards all is as before, also after an error. The backward
    of a graph with checkpointed blocks, which runs them again, belongs outside. Raises ValueError if there are no
    adapters, since the policy would then be its own reference.
    """
    layers = list(adapted_layers(vlm.model).values())
    if not layers:
        raise ValueError(f"{vlm.name} has no adapters to switch off")
    on = [layer for layer in layers if not layer.disable_adapters]
    try:
        for layer in on:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in on:
            layer.enable_adapters(True)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the same model without adapters: their products added to the weights, under plain names.

    Of a model without adapters it is the state dict. `model` is not touched: adapted weights are new tensors, all
    others are the model's own. It does not matter whether the adapters are switched off.
    """
    layers = adapted_layers(model)
    merged = {}
    for name, tensor in model.state_dict().items():
        owner, _, last = name.rpartition(".")
        plain = owner.removesuffix(".base_layer")
        if plain != owner and last == "weight":
            layer = layers[plain]
            b, a = layer.lora_B[NAME].weight.detach(), layer.lora_A[NAME].weight.detach()  # (out, rank), (rank, in)
            tensor = tensor + layer.scaling[NAME] * (b @ a)  # (out, in)
        if not {"lora_A", "lora_B"} & set(owner.split(".")):
            merged[f"{plain}.{last}"] = tensor
    return merged


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters alone to the new folder `folder` as peft does, for `PeftModel.from_pretrained(base, folder)`.

    Raises OSError or SafetensorError if that fails.
    """
    folder.mkdir()
    weights = {
        f"base_model.model.{name}.{matrix}.weight": getattr(layer, matrix)[NAME].weight.detach().contiguous()
        for name, layer in adapted_layers(model).items()
        for matrix in ("lora_A", "lora_B")
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    peft_configs: Any = model.peft_config
    config = copy.copy(peft_configs[NAME])
    config.inference_mode = True
    family = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    config.save_pretrained(str(folder), auto_mapping_dict=family)
