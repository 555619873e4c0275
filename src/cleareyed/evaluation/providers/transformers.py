"""Any image-text model of transformers through its plain `generate`, for families that our engine does not have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply, State
from cleareyed.evaluation.local import Batches, Give, engine_hash, prompt_of, refuse, revision_of, sample_seed
from cleareyed.evaluation.request import Prepared, Request

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TransformersAnswerer:
    """An `Answerer` for a folder or hub id, on a GPU where there is one. Use it within one event loop.

    One sample at a time: how prompts of several lengths are padded differs between families. No code that comes
    with a checkpoint is run, and weights are read from safetensors only.
    """

    def __init__(self, path: str, revision: str | None = None, dtype: str = "fp32") -> None:
        """InputError: a model or processor that cannot be loaded."""
        self.name = f"transformers:{path}"
        self._dtype = dtype
        where = str(Path(path).expanduser())
        self._processor = _processor(where, revision)
        self._model = _model(where, revision, DTYPES[dtype])
        self.revision = revision_of(path, self._model)
        ends = self._model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._batches = Batches(self._answer, 1)

    def prepare(self, request: Request) -> Prepared:
        """The request itself; its hash covers text, pictures and precision.

        InputError: a chat prompt for a model without a chat template.
        """
        refuse(self.name, request, "stop")
        if request.chat and not _has_template(self._processor):
            raise InputError(f"{self.name}: has no chat template; ask it as a base model: --no-chat")
        if request.params.system and not request.chat:
            raise InputError(f"{self.name}: a system message needs chat roles; leave it out or add --chat")
        return Prepared(request, engine_hash(request, [self._dtype]))

    async def send(self, prepared: Prepared) -> Reply:
        return await self._batches.ask(prepared.sent)

    async def close(self) -> None:
        self._batches.close()

    def _answer(self, asked: Sequence[Request], give: Give) -> None:
        for place, request in enumerate(asked):
            try:
                give(place, self._generated(request))
            except InputError as error:
                give(place, AskError("permanent", str(error)))
            except torch.OutOfMemoryError:
                raise AskError("permanent", "out of memory; choose --dtype bf16", hopeless=True) from None

    @torch.inference_mode()
    def _generated(self, request: Request) -> Reply:
        params = request.params
        images = [load() for load in prompt_of(request).images]
        inputs = self._inputs(request, images)
        drawing: dict[str, Any] = {"do_sample": False}
        if params.temperature > 0:
            drawing = {"do_sample": True, "temperature": params.temperature, "top_p": params.top_p or 1.0, "top_k": 0}
            torch.manual_seed(sample_seed(request)) if params.seed is not None else torch.seed()
        given = inputs["input_ids"].shape[1]
        try:
            ids = self._model.generate(**inputs, max_new_tokens=params.max_tokens, **drawing)[0, given:].tolist()
        except ValueError as error:  # as models raise where pictures and their tokens do not match
            raise InputError(f"the model does not take this prompt: {_line(error)}") from error
        text = str(self._processor.decode(ids, skip_special_tokens=True))
        ended = bool(ids) and ids[-1] in self._ends
        state: State = "answered" if text.strip() else "empty"
        if not ended and len(ids) >= params.max_tokens:
            state = "cut-off"
        return Reply(state, text, "stop" if ended else "length", given, len(ids))

    def _inputs(self, request: Request, images: list[Any]) -> Any:
        """Ids, mask and pixels, where the model is."""
        try:
            if request.chat:
                content = [*({"type": "image"} for _ in images), {"type": "text", "text": request.prompt}]
                turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
                if request.params.system:
                    system = {"role": "system", "content": [{"type": "text", "text": request.params.system}]}
                    turns.insert(0, system)
                text = self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            else:
                text = str(getattr(self._processor, "image_token", "")) * len(images) + request.prompt
            inputs = self._processor(text=[text], images=images or None, return_tensors="pt")
        except (ValueError, TypeError, IndexError) as error:
            # What processors raise on a text that holds their image token, or on more pictures than they take.
            raise InputError(
                f"the processor does not take this prompt: {' '.join(str(error).split())[:200]}"
            ) from error
        return inputs.to(self._model.device, self._model.dtype)


def _processor(where: str, revision: str | None) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(where, revision=revision, trust_remote_code=False)
    except ImportError as error:
        raise InputError(f"{where}: its processor needs more than is installed ({_line(error)})") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{where}: its processor cannot be read ({_line(error)}); check the folder or id") from error
    if getattr(processor, "image_processor", None) is None:
        raise InputError(f"{where}: has a tokenizer but no processor for images; choose an image-text model")
    return processor


def _model(where: str, revision: str | None, dtype: torch.dtype) -> Any:
    loaded: Any
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(
            where,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(
            f"{where}: the model cannot be loaded ({_line(error)}); it must be an image-text model that transformers "
            "knows, with weights in safetensors"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise InputError(f"{where}: {len(names)} weights are missing, {names[0]} first; save the checkpoint again")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _has_template(processor: Any) -> bool:
    return bool(getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None))


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
