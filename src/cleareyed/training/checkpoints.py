"""The training state on disk: weights, optimizer and counters, as safetensors and JSON.

Of a model with adapters only these are kept: its other weights are those it was loaded with.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cleareyed.errors import InputError
from cleareyed.models.lora import adapted_layers
from cleareyed.models.save import replace_folder

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state for one parameter, under torch's names."""


@dataclass(frozen=True)
class TrainState:
    """What a run carries from step to step besides tensors."""

    step: int = 0
    """The last step that is done."""
    samples: int = 0
    """Prompts seen so far, repetitions counted."""
    tokens: int = 0
    """GRPO: completion tokens sampled so far. SFT: tokens learnt from so far."""
    unusable: int = 0
    """Steps in a row, up to now, whose loss or gradient was not finite."""
    best_step: int | None = None
    best_accuracy: float | None = None


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, state: TrainState) -> None:
    """Replace the checkpoint in `folder`; the earlier one survives if this one cannot be written.

    Raises:
        InputError: the disk is full or not writable.
    """
    parameters = _kept(model)
    weights = {name: parameter.detach().contiguous() for name, parameter in parameters.items()}
    moments = {
        f"{moment}/{name}": optimizer.state[parameter][moment].contiguous()
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for moment in MOMENTS
    }

    def write(aside: Path) -> None:
        save_file(weights, aside / WEIGHTS, metadata=_base(model, parameters))
        save_file(moments, aside / OPTIMIZER)
        (aside / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")

    replace_folder(write, folder)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW) -> TrainState:
    """Copy a checkpoint's tensors into `model` and `optimizer`, in place.

    Raises:
        InputError: a file is missing or damaged, or belongs to another model.
    """
    try:
        weights = load_file(folder / WEIGHTS)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            base = file.metadata()
        moments = load_file(folder / OPTIMIZER)
        state = TrainState(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: the checkpoint cannot be read ({error}); start a new run") from error
    parameters = _kept(model)
    _check_shapes(folder, weights, parameters)
    if base != _base(model, parameters):
        raise InputError(
            f"{folder}: its adapters were trained on other weights than those of the model; "
            "put back the model that the run began with"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for name, parameter in parameters.items():
        if f"step/{name}" in moments:
            optimizer.state[parameter] = {
                "step": moments[f"step/{name}"].clone(),
                **{moment: torch.empty_like(parameter).copy_(moments[f"{moment}/{name}"]) for moment in MOMENTS[1:]},
            }
    return state


def _kept(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a checkpoint holds: the trained ones if there are adapters, else all."""
    adapted = bool(adapted_layers(model))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad or not adapted}


def _base(model: nn.Module, kept: Mapping[str, nn.Parameter]) -> dict[str, str] | None:
    """What tells the weights left out of a checkpoint from others: a hash of about 64 numbers of each.

    None if all are in it.
    """
    digest = hashlib.sha256()
    left_out = [(name, parameter) for name, parameter in model.named_parameters() if name not in kept]
    for name, parameter in left_out:
        some = parameter.detach().flatten()[:: max(1, parameter.numel() // 64)]
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(some.float().cpu().numpy().tobytes())
    return {"base": digest.hexdigest()} if left_out else None


def _check_shapes(folder: Path, weights: Mapping[str, torch.Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name in sorted(weights.keys() ^ parameters.keys()):
        raise InputError(f"{folder}: {name} is only in one of checkpoint and model; resume with the run's own recipe")
    for name, parameter in parameters.items():
        if weights[name].shape != parameter.shape:
            raise InputError(f"{folder}: {name} has another shape in the model; resume with the run's own recipe")
