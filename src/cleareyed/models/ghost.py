"""Models without weights: the shapes of a checkpoint, for working out what a run will need before there is one.

A ghost's tensors know shape, type and device and hold no numbers. The engine's own functions run on them as on any
others, and `Ledger` counts the memory that they would have taken.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cleareyed.errors import InputError
from cleareyed.models import attention
from cleareyed.models.forward import checkpoint_blocks
from cleareyed.models.load import FAMILIES, TINY_BASE
from cleareyed.models.lora import add_adapters
from cleareyed.models.vlm import VLM
from cleareyed.recipe import ModelSpec

aten = torch.ops.aten
FROM_NOTHING = {aten.arange, aten.empty, aten.full, aten.ones, aten.rand, aten.zeros}
MASKABLE = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
QWEN_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
"""The limits in the `preprocessor_config.json` of Qwen2-VL and Qwen2.5-VL."""


def _qwen(
    config: Any,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    tied: bool,
) -> Any:
    newer = config is Qwen2_5_VLConfig
    tower = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if newer:
        tower |= {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": hidden, "window_size": 112}
    else:
        tower |= {"embed_dim": 1280, "hidden_size": hidden, "mlp_ratio": 4}
    return config(
        text_config={
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": tied,
        },
        vision_config=tower | ({"fullatt_block_indexes": [7, 15, 23, 31]} if newer else {}),
        tie_word_embeddings=tied,
    )


KNOWN: Mapping[str, Callable[[], Any]] = {
    "Qwen/Qwen2-VL-2B": lambda: _qwen(Qwen2VLConfig, 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen/Qwen2-VL-7B": lambda: _qwen(Qwen2VLConfig, 3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-VL-3B": lambda: _qwen(Qwen2_5_VLConfig, 2048, 11008, 36, 16, 2, 151936, True),
    "Qwen/Qwen2.5-VL-7B": lambda: _qwen(Qwen2_5_VLConfig, 3584, 18944, 28, 28, 4, 152064, False),
}
"""The sizes of the models that recipes most often name, with and without `-Instruct`: they need no file at all."""


@dataclass(frozen=True)
class Outline:
    """What can be known of a checkpoint without its weights."""

    spec: ModelSpec
    config: Any
    tokenizer: PreTrainedTokenizerBase | None
    """None where its files are not there."""
    image_processor: Any
    """With the recipe's pixel limits."""
    has_weights: bool
    """Whether the weights are on this machine."""


def outline(spec: ModelSpec) -> Outline:
    """Read a checkpoint's files, or those it has: `config.json` alone will do, and for `KNOWN` names not even that.

    Raises:
        InputError: no configuration can be read, or it is not of a known family.
    """
    folder = TINY_BASE if spec.path == "tiny-base" else Path(spec.path).expanduser()
    name = spec.path.removesuffix("-Instruct")
    if folder.is_dir():
        where, found = str(folder), {file.name for file in folder.iterdir()}
    else:
        where, found = spec.path, _cached(spec)
    if name in KNOWN and "config.json" not in found:
        config: Any = KNOWN[name]()
    else:
        try:
            config = AutoConfig.from_pretrained(where, revision=spec.revision, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            known = ", ".join(KNOWN)
            raise InputError(
                f"model.path {spec.path}: no config.json can be read; name a folder that holds one, or one of {known}"
            ) from error
    if config.model_type not in FAMILIES:
        raise InputError(f"{where}: config.json has model_type {config.model_type}; known are {', '.join(FAMILIES)}")
    files: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **files) if "tokenizer.json" in found else None
        processor = (
            AutoImageProcessor.from_pretrained(where, backend="pil", **files)
            if "preprocessor_config.json" in found
            else _processor(config)
        )
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{where}: tokenizer or image processor cannot be read; download them again") from error
    limits = processor.size
    processor.size = type(limits)(
        shortest_edge=spec.min_pixels or limits["shortest_edge"],
        longest_edge=spec.max_pixels or limits["longest_edge"],
    )
    return Outline(spec, config, tokenizer, processor, any(file in found for file in WEIGHTS))


def _cached(spec: ModelSpec) -> set[str]:
    """Which files of a hub id have been downloaded."""
    wanted = (*WEIGHTS, "config.json", "tokenizer.json", "preprocessor_config.json")
    try:
        return {
            file for file in wanted if isinstance(try_to_load_from_cache(spec.path, file, revision=spec.revision), str)
        }
    except ValueError as error:  # no hub id either
        raise InputError(f"model.path {spec.path}: no such folder; name one, a hub id or tiny-base") from error


def _processor(config: Any) -> Any:
    tower = config.vision_config
    return Qwen2VLImageProcessorPil(
        patch_size=tower.patch_size,
        merge_size=tower.spatial_merge_size,
        temporal_patch_size=tower.temporal_patch_size,
        size=dict(QWEN_PIXELS),
    )


def ghost_vlm(of: Outline, device: torch.device, spec: ModelSpec | None = None) -> VLM:
    """The model as `load_vlm` would give it, without weights, on `device` as far as it tells.

    `spec` replaces the outline's own in what is frozen, adapted, checkpointed and in its precision. There are
    no special tokens, and no tokenizer where its files are not there.

    Raises:
        InputError: adapters without peft, or with unknown targets.
    """
    spec = spec or of.spec
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.device("meta"):
        model: Any = FAMILIES[of.config.model_type]._from_config(
            of.config, attn_implementation=attention.NAME, dtype=torch.float32
        )
    if spec.lora is not None:
        add_adapters(model, spec.lora, spec.path)
    visual = {id(parameter) for parameter in model.model.visual.parameters()}
    fake: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in fake:
                frozen = spec.freeze_vision if id(parameter) in visual else spec.freeze_language
                trained = parameter.requires_grad and not frozen
                fake[id(parameter)] = torch.nn.Parameter(_fake(fakes, parameter, device), requires_grad=trained)
            setattr(module, name, fake[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, _fake(fakes, buffer, device), persistent=False)
    checkpoint_blocks(model, spec.gradient_checkpointing)
    return VLM(
        name=spec.path,
        model=model.eval(),
        tokenizer=cast(PreTrainedTokenizerBase, of.tokenizer),
        image_processor=of.image_processor,
        eos_ids=(),
        banned_ids=(),
        image_token_id=of.config.image_token_id,
        autocast=spec.dtype == "bf16",
    )


def ghost_tensor(vlm: VLM, *shape: int) -> Tensor:
    """A fp32 tensor without numbers, for a ghost to read."""
    mode: FakeTensorMode = cast(FakeTensor, next(vlm.model.parameters())).fake_mode
    return _fake(mode, torch.empty(shape, device="meta"), vlm.device)


def _fake(fakes: FakeTensorMode, tensor: Tensor, device: torch.device) -> Tensor:
    with fakes:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


class Ledger(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, and forgets those that are let go. The model's own
    tensors and gradients are not counted.

    Whole numbers and truth values (token ids, positions, masks) are real tensors even beside a ghost, since the
    engine looks at them; floating-point tensors made from nothing become ghosts.
    """

    def __init__(self, vlm: VLM) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._fakes: FakeTensorMode = cast(FakeTensor, next(vlm.model.parameters())).fake_mode
        parameters = list(vlm.model.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        held = (*parameters, *gradients, *vlm.model.buffers())
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    @contextmanager
    def phase(self) -> Iterator["Phase"]:
        """The peak within a `with` statement, in `Phase.peak` afterwards."""
        outer, self.peak = self.peak, self.live
        phase = Phase()
        yield phase
        phase.peak = self.peak
        self.peak = max(outer, self.peak)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if FakeTensor in types:
            if func.overloadpacket in MASKABLE:
                args = (args[0], _chosen(args[1]), *args[2:])
            result = func(*args, **kwargs)
        elif _makes_floats(func, args, kwargs):
            with self._fakes:
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass
class Phase:
    peak: int = 0
    """Bytes."""


def _makes_floats(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function makes a tensor of floating-point numbers from nothing."""
    if func.overloadpacket not in FROM_NOTHING:
        return False
    if (dtype := kwargs.get("dtype")) is not None:
        return bool(dtype.is_floating_point)
    name = func.overloadpacket.__name__
    numbers = args if name == "arange" else args[1:2] if name == "full" else (1.0,)
    return any(isinstance(number, float) for number in numbers)


def _chosen(index: list[Any]) -> list[Any]:
    """An index without masks, each replaced by the places that it chooses: masks are real, and so these are known."""
    places: list[Any] = []
    for item in index:
        if isinstance(item, Tensor) and item.dtype == torch.bool and not isinstance(item, FakeTensor):
            places += item.nonzero().unbind(1)
        else:
            places.append(item)
    return places
