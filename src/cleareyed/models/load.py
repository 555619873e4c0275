"""Loading a vision-language model from a folder, from the hub, or the one shipped with the package."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)
from transformers.modeling_utils import PreTrainedModel

from cleareyed.errors import InputError
from cleareyed.models import attention
from cleareyed.models.forward import checkpoint_blocks
from cleareyed.models.lora import add_adapters, require_peft
from cleareyed.models.save import settle_folder
from cleareyed.models.vlm import VLM
from cleareyed.recipe import ModelSpec

FAMILIES: dict[str, Any] = {
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
"""The transformers class of each `model_type` that can be loaded."""
NOT_YET = {"qwen3_vl": "its deepstack features are not supported yet"}
TINY_BASE = Path(__file__).parent.parent / "assets" / "tiny-base"
ENDINGS = ("<|endoftext|>", "<|im_end|>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def load_vlm(spec: ModelSpec) -> VLM:
    """Load model, tokenizer and image processor.

    The weights are fp32 whatever the file holds, the attention is torch's scaled-dot-product, and the model is in
    evaluation mode (the family has no dropout, so training needs no other). On a GPU where there is one. With
    `spec.lora` the weights are frozen and adapters put beside them.
    Raises InputError for a missing or unreadable checkpoint, one that is not of a known vision-language family,
    weights in pickled files, and settings that contradict each other.
    """
    _check_trained(spec)
    source = _source(spec)
    where = str(source)
    family = _family(source, spec)
    model = _model(family, source, spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=spec.revision, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(
            where, revision=spec.revision, backend="pil", trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
        raise InputError(
            f"{where}: tokenizer or image processor cannot be read ({_first_line(error)}); "
            "put tokenizer.json, tokenizer_config.json and preprocessor_config.json beside the weights"
        ) from error
    _limit_pixels(processor, spec)
    _freeze(model, spec)
    if spec.lora is not None:
        add_adapters(model, spec.lora, spec.path)
    checkpoint_blocks(model, spec.gradient_checkpointing)
    eos_ids, banned_ids = special_ids(model, tokenizer)
    return VLM(
        name=spec.path,
        model=model.eval().to("cuda" if torch.cuda.is_available() else "cpu"),
        tokenizer=tokenizer,
        image_processor=processor,
        eos_ids=eos_ids,
        banned_ids=banned_ids,
        image_token_id=model.config.image_token_id,
        autocast=spec.dtype == "bf16",
    )


def _check_trained(spec: ModelSpec) -> None:
    """Whether what is to be trained and what is to be frozen go together."""
    if spec.freeze_vision and spec.freeze_language:
        raise InputError("model.freeze_vision and model.freeze_language leave nothing to train; set one to false")
    if spec.lora is None:
        return
    if spec.freeze_language:
        raise InputError(
            "model.lora adapts the language model that model.freeze_language keeps; leave one of them out"
        )
    if spec.freeze_vision and any(target.startswith("visual.") for target in spec.lora.targets):
        raise InputError("model.lora.targets names layers that model.freeze_vision keeps; leave one of them out")
    require_peft()


def special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that end a completion, and those that must never be drawn.

    Banned are the vision tokens, the padding token unless it ends completions, and ids that the model has but the
    tokenizer does not (Qwen2-VL pads its vocabulary).
    """
    known: dict[str, int] = tokenizer.get_vocab()
    config = model.config
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = _present(*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id, *map(known.get, ENDINGS))
    vision = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    banned = _present(*map(known.get, VISION), *(getattr(config, name, None) for name in vision))
    banned |= _present(tokenizer.pad_token_id) - ends
    banned |= set(range(config.get_text_config().vocab_size)) - set(known.values())
    if not ends - banned:
        raise InputError(f"{config.name_or_path}: no ending token; name one as eos_token in tokenizer_config.json")
    return tuple(sorted(ends)), tuple(sorted(banned))


def _present(*ids: Any) -> set[int]:
    return {int(token) for token in ids if token is not None}


def _source(spec: ModelSpec) -> Path | str:
    """The folder to read, or a hub id."""
    path = spec.path
    folder = TINY_BASE if path == "tiny-base" else Path(path).expanduser()
    settle_folder(folder)
    if folder.is_dir():
        return folder
    if path == "tiny-base":
        raise InputError(f"model.path tiny-base: {folder} is missing; reinstall the package or name a folder")
    if folder.exists():
        raise InputError(f"model.path {path}: a file; name the folder that holds config.json and the weights")
    is_hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) and not folder.parent.exists()
    if not is_hub_id:
        raise InputError(f"model.path {path}: no such folder; name a checkpoint folder, a hub id or tiny-base")
    return path


def _family(source: Path | str, spec: ModelSpec) -> str:
    """The checkpoint's model_type, after a look at the files."""
    if isinstance(source, Path):
        _check_files(source)
    try:
        config = AutoConfig.from_pretrained(str(source), revision=spec.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        model_type = _raw_model_type(source)
        if model_type is not None and model_type not in FAMILIES:
            raise InputError(f"{source}: {_not_ours(model_type)}") from error
        raise InputError(f"{source}: config.json cannot be read ({_first_line(error)}); check model.path") from error
    model_type = str(config.model_type)
    if model_type not in FAMILIES:
        raise InputError(f"{source}: {_not_ours(model_type)}")
    layer_types = getattr(config.get_text_config(), "layer_types", None) or []
    if any(kind != "full_attention" for kind in layer_types):
        raise InputError(f"{source}: text_config.use_sliding_window is not supported; set it to false")
    return model_type


def _check_files(folder: Path) -> None:
    """A clear word on what a folder lacks, before the library tries."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; name a folder in the transformers format")
    model_type = _raw_model_type(folder)
    if model_type is not None and model_type not in FAMILIES:
        raise InputError(f"{folder}: {_not_ours(model_type)}")
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index}: cannot be read; download the checkpoint again") from error
        missing = sorted(name for name in shards if not (folder / str(name)).is_file())
        if missing:
            raise InputError(f"{folder}: {missing[0]} is missing; download the checkpoint again")
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth"})
    if pickled:
        raise InputError(
            f"{folder}: {pickled[0]} is a pickled file, which can run code when read; convert it to model.safetensors"
        )
    raise InputError(f"{folder}: no model.safetensors; name a folder that holds the weights")


def _raw_model_type(source: Path | str) -> str | None:
    if isinstance(source, str):
        return None
    try:
        config = json.loads((source / "config.json").read_text())
    except (OSError, ValueError):
        return None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    return None if model_type is None else str(model_type)


def _not_ours(model_type: str) -> str:
    why = NOT_YET.get(model_type, "not a vision-language model that can be used here")
    return f"config.json has model_type {model_type}: {why}; known are {', '.join(FAMILIES)}"


def _model(family: str, source: Path | str, spec: ModelSpec) -> PreTrainedModel:
    # The library prints a report on missing weights; here they are an error. A raised level instead of the filter
    # would make it print more: a check of how the model would be split over several devices.
    reporter = logging.getLogger("transformers.modeling_utils")
    reporter.addFilter(_only_errors)
    try:
        model, report = FAMILIES[family].from_pretrained(
            str(source),
            revision=spec.revision,
            dtype=torch.float32,
            attn_implementation=attention.NAME,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{source}: weights cannot be read ({_first_line(error)}); download or save the checkpoint again"
        ) from error
    finally:
        reporter.removeFilter(_only_errors)
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise InputError(f"{source}: {len(names)} weights are missing, {names[0]} first; save the checkpoint again")
    assert isinstance(model, PreTrainedModel)
    return model


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _limit_pixels(processor: Any, spec: ModelSpec) -> None:
    size = {"shortest_edge": processor.size["shortest_edge"], "longest_edge": processor.size["longest_edge"]}
    size["shortest_edge"] = spec.min_pixels or size["shortest_edge"]
    size["longest_edge"] = spec.max_pixels or size["longest_edge"]
    if size["shortest_edge"] > size["longest_edge"]:
        raise InputError(
            f"model.min_pixels {size['shortest_edge']} is above model.max_pixels {size['longest_edge']}; lower it"
        )
    processor.size = type(processor.size)(**size)


def _freeze(model: PreTrainedModel, spec: ModelSpec) -> None:
    """Vision is the tower with its merger; language is everything else, tied embeddings and head included."""
    visual = {id(parameter) for parameter in model.model.visual.parameters()}
    for parameter in model.parameters():
        if spec.freeze_vision if id(parameter) in visual else spec.freeze_language:
            parameter.requires_grad_(False)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
