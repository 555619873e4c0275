"""The embedded model: a linear reading of sentences and a forest over answers, in one safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cleareyed.errors import InputError
from cleareyed.oversensitivity.judges.cues import CUES
from cleareyed.oversensitivity.judges.features import KINDS, WIDTH, Floats, Parsed, document
from cleareyed.oversensitivity.outcomes import Outcome

STATES: tuple[Outcome, ...] = ("complied", "partial", "refusal", "capability", "clarification")
"""The columns of every probability table; off topic is a rule (`local.py`)."""
FORMAT = "cleareyed-judge-1"
_FLOOR = 1e-3


@dataclass(frozen=True)
class Forest:
    """T trees of N nodes in all. A node without children has `left` -1."""

    roots: npt.NDArray[np.int32]
    """(T,)"""
    left: npt.NDArray[np.int32]
    """(N,); the right child stands at `right`."""
    right: npt.NDArray[np.int32]
    feature: npt.NDArray[np.uint8]
    threshold: Floats
    values: Floats
    """(N, C): probabilities, of leaves."""

    def probabilities(self, features: Floats) -> Floats:
        """(B, F) to (B, C): the mean over trees."""
        at = np.broadcast_to(self.roots, (len(features), len(self.roots))).copy()  # (B, T)
        rows = np.arange(len(features))[:, None]
        while (inner := self.left[at] >= 0).any():
            goes_left = features[rows, self.feature[at]] <= self.threshold[at]
            at = np.where(inner, np.where(goes_left, self.left[at], self.right[at]), at)
        found: Floats = self.values[at].mean(1, dtype=np.float32)
        return found


@dataclass(frozen=True)
class JudgeModel:
    weights: Floats
    """(WIDTH, K): of a sentence's row."""
    bias: Floats
    """(K,)"""
    forest: Forest
    temperature: float
    """The forest's probabilities go to the power of 1 / temperature."""

    def sentence_logits(self, parsed: Parsed) -> Floats:
        """(S, K)"""
        return np.stack(
            [
                weights @ self.weights[places] + self.bias
                for places, weights in zip(parsed.places, parsed.weights, strict=True)
            ]
        )

    def features(self, parsed: Parsed) -> Floats:
        """(F,)"""
        return document(parsed.lengths, softmax(self.sentence_logits(parsed)))

    def probabilities(self, features: Floats) -> Floats:
        """(B, F) to (B, C), calibrated."""
        return temper(self.forest.probabilities(features), self.temperature)


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    made: Floats = raised / raised.sum(-1, keepdims=True)
    return made


def temper(probabilities: Floats, temperature: float) -> Floats:
    return softmax(np.log(probabilities + _FLOOR) / temperature)


def save_model(model: JudgeModel, path: Path) -> None:
    forest = model.forest
    tensors: dict[str, npt.NDArray[Any]] = {
        "weights": model.weights.astype(np.float16),
        "bias": model.bias,
        "roots": forest.roots,
        "left": forest.left,
        "right": forest.right,
        "feature": forest.feature,
        "threshold": forest.threshold,
        "values": forest.values.astype(np.float16),
    }
    about = {"format": FORMAT, "kinds": KINDS, "states": STATES, "cues": list(CUES), "temperature": model.temperature}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"about": json.dumps(about)})


def load_model(path: Path) -> JudgeModel:
    """InputError: no such file, no model of a judge, or one that was fitted for other features."""
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make it anew with `cleareyed judge train`") from error
    fits = [about.get("format"), about.get("kinds"), about.get("states"), about.get("cues")]
    if fits != [FORMAT, list(KINDS), list(STATES), list(CUES)] or held["weights"].shape != (WIDTH, len(KINDS)):
        raise InputError(f"{path}: fitted for another version; make it anew with `cleareyed judge train`")
    forest = Forest(
        held["roots"],
        held["left"],
        held["right"],
        held["feature"],
        held["threshold"],
        held["values"].astype(np.float32),
    )
    return JudgeModel(held["weights"].astype(np.float32), held["bias"], forest, float(about["temperature"]))
