"""Saving a model so that plain transformers loads it, and so that a full disk never costs the last good one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from cleareyed.errors import InputError
from cleareyed.models.lora import adapted_layers, merged_state, save_adapters
from cleareyed.models.vlm import VLM


def save_vlm(vlm: VLM, folder: Path, dtype: Literal["fp32", "bf16"] = "fp32") -> None:
    """Write weights (safetensors), tokenizer and image processor to `folder`, replacing it as a whole.

    The folder loads with `from_pretrained` of the model's own transformers class, `AutoTokenizer` and
    `AutoImageProcessor`. Adapters are merged into the weights, and also written by themselves, in fp32 and in peft's
    format, to `folder/adapter`. Raises InputError if it cannot be written; what was there before then still is.
    """
    replace_folder(lambda target: _write(vlm, target, dtype), folder)


def replace_folder(write: Callable[[Path], None], target: Path) -> None:
    """Fill a new folder beside `target` by calling `write(new_folder)`, then put it in `target`'s place.

    Everything is flushed to the disk before the names change. `.NAME.partial` holds the unfinished folder and
    `.NAME.previous` the one being replaced; neither is left behind. If the machine stops between the two renames,
    `.NAME.previous` is all that is left: `settle_folder` puts it back. Raises InputError if writing fails; all
    who write here are runs that can be resumed.
    """
    partial, previous = _beside(target, "partial"), _beside(target, "previous")
    settle_folder(target)
    try:
        for leftover in (partial, previous):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        write(partial)
        _flush(partial)
        if target.exists():
            target.rename(previous)
        partial.rename(target)
        _flush_entry(target.parent)
    except (OSError, SafetensorError) as error:
        settle_folder(target)
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        kept = "the earlier one is kept" if target.exists() else "nothing was left behind"
        raise InputError(
            f"{target}: could not be saved ({reason}); {kept}; free some disk space, then go on with --resume"
        ) from error
    except BaseException:
        settle_folder(target)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)


def settle_folder(target: Path) -> None:
    """Put the last good folder back in `target`'s place if its replacement was cut short between the two renames."""
    previous = _beside(target, "previous")
    if previous.exists() and not target.exists():
        previous.rename(target)


def _beside(target: Path, role: str) -> Path:
    return target.parent / f".{target.name}.{role}"


def _write(vlm: VLM, folder: Path, dtype: Literal["fp32", "bf16"]) -> None:
    state = merged_state(vlm.model)
    vlm.model.save_pretrained(folder, state_dict=state if dtype == "fp32" else _halved(state))
    if dtype == "bf16":
        config_file = folder / "config.json"
        config = json.loads(config_file.read_text())
        for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
            if "dtype" in part:
                part["dtype"] = "bfloat16"
        config_file.write_text(json.dumps(config, indent=2) + "\n")
    vlm.tokenizer.save_pretrained(folder)
    vlm.image_processor.save_pretrained(folder)
    if adapted_layers(vlm.model):
        save_adapters(vlm.model, folder / "adapter")


def _halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in bf16; tensors that were tied stay tied."""
    seen: dict[tuple[int, torch.Size], torch.Tensor] = {}
    halved = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in seen:
            seen[key] = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        halved[name] = seen[key]
    return halved


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
