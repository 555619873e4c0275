"""Any image-text or text model of transformers through its plain `generate`, for families our engine does not have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply, State
from cleareyed.evaluation.local import Batches, Give, engine_hash, prompt_of, refuse, revision_of, sample_seed
from cleareyed.evaluation.request import Prepared, Request

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TransformersAnswerer:
    """An `Answerer` for a folder or hub id, on a GPU where there is one. Use it within one event loop.

    An image-text model gets one sample at a time: how its prompts are padded differs between families. A text model
    gets `batch`, padded on the left, and no pictures. No code that comes with a checkpoint is run, and weights are
    read from safetensors only.
    """

    def __init__(self, path: str, revision: str | None = None, dtype: str = "fp32", batch: int = 1) -> None:
        """InputError: a model, processor or tokenizer that cannot be loaded."""
        self.name = f"transformers:{path}"
        self._dtype = dtype
        where = str(Path(path).expanduser())
        self._processor = _processor(where, revision)
        self.sees = _sees(where, revision)
        """Whether it takes pictures."""
        if self.sees and getattr(self._processor, "image_processor", None) is None:
            raise InputError(f"{where}: has a tokenizer but no processor for its images; save the checkpoint again")
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = _model(where, revision, DTYPES[dtype], self.sees)
        self.revision = revision_of(path, self._model)
        ends = self._model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._batches = Batches(self._answer, 1 if self.sees else batch)

    def prepare(self, request: Request) -> Prepared:
        """The request itself; its hash covers text, pictures and precision.

        InputError: a chat prompt for a model without a chat template. AskError: a picture for a text model.
        """
        refuse(self.name, request, "stop")
        if request.images and not self.sees:
            message = "is a text model and takes no pictures; ask with --pictures description or --pictures none"
            raise AskError("permanent", message, hopeless=True)
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
        params = asked[0].params
        together = len(asked) if params.temperature == 0 or params.seed is None else 1  # a seed is a sample's own
        for start in range(0, len(asked), together):
            batch = asked[start : start + together]
            try:
                replies: Sequence[Reply | AskError] = self._generated(batch)
            except InputError as error:
                replies = [AskError("permanent", str(error))] * len(batch)
            except torch.OutOfMemoryError:
                remedy = "choose --dtype bf16 or a smaller --batch"
                raise AskError("permanent", f"out of memory; {remedy}", hopeless=True) from None
            for place, reply in enumerate(replies, start):
                give(place, reply)

    @torch.inference_mode()
    def _generated(self, asked: Sequence[Request]) -> list[Reply]:
        """One reply a request; all of the same parameters."""
        params = asked[0].params
        inputs = self._inputs(asked)
        drawing: dict[str, Any] = {"do_sample": False}
        if params.temperature > 0:
            drawing = {"do_sample": True, "temperature": params.temperature, "top_p": params.top_p or 1.0, "top_k": 0}
            torch.manual_seed(sample_seed(asked[0])) if params.seed is not None else torch.seed()
        width = inputs["input_ids"].shape[1]
        pad = self._tokenizer.pad_token_id
        try:
            made = self._model.generate(**inputs, max_new_tokens=params.max_tokens, pad_token_id=pad, **drawing)
        except ValueError as error:  # as models raise where pictures and their tokens do not match
            raise InputError(f"the model does not take this prompt: {_line(error)}") from error
        given = inputs["attention_mask"].sum(dim=1).tolist()  # (B,)
        return [
            self._reply(ids, length, params.max_tokens)
            for ids, length in zip(made[:, width:].tolist(), given, strict=True)
        ]

    def _reply(self, ids: list[int], given: int, longest: int) -> Reply:
        """What a row of new tokens says, up to its end."""
        stops = [place for place, token in enumerate(ids) if token in self._ends]
        ended = bool(stops)
        ids = ids[: stops[0] + 1] if ended else ids
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        state: State = "answered" if text.strip() else "empty"
        if not ended and len(ids) >= longest:
            state = "cut-off"
        return Reply(state, text, "stop" if ended else "length", given, len(ids))

    def _inputs(self, asked: Sequence[Request]) -> Any:
        """Ids, mask and pixels, where the model is. Only text models get several requests."""
        images = [load() for request in asked for load in prompt_of(request).images]
        try:
            texts = [self._text(request, len(images)) for request in asked]
            if self.sees:
                inputs = self._processor(text=texts, images=images or None, return_tensors="pt")
            else:  # a chat template writes the special tokens itself
                special = not asked[0].chat
                inputs = self._tokenizer(texts, padding=True, add_special_tokens=special, return_tensors="pt")
                inputs.pop("token_type_ids", None)
        except (ValueError, TypeError, IndexError) as error:
            # What processors raise on a text that holds their image token, or on more pictures than they take.
            raise InputError(
                f"the processor does not take this prompt: {' '.join(str(error).split())[:200]}"
            ) from error
        return inputs.to(self._model.device, self._model.dtype) if self.sees else inputs.to(self._model.device)

    def _text(self, request: Request, images: int) -> str:
        """The prompt with chat roles and places for pictures."""
        if not request.chat:
            return str(getattr(self._processor, "image_token", "")) * images + request.prompt
        content: Any = request.prompt
        system: Any = request.params.system
        if self.sees:
            content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": content}]
            system = [{"type": "text", "text": system}] if system else None
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": content})
        return str(self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def _processor(where: str, revision: str | None) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(where, revision=revision, trust_remote_code=False)
    except ImportError as error:
        raise InputError(f"{where}: its processor needs more than is installed ({_line(error)})") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{where}: its processor cannot be read ({_line(error)}); check the folder or id") from error
    return processor


def _sees(where: str, revision: str | None) -> bool:
    """Whether the checkpoint is of an image-text model."""
    try:
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{where}: its config cannot be read ({_line(error)}); check the folder or id") from error
    return config.model_type in SEEING


def _model(where: str, revision: str | None, dtype: torch.dtype, sees: bool) -> Any:
    loaded: Any
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    try:
        loaded = kind.from_pretrained(
            where,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(
            f"{where}: the model cannot be loaded ({_line(error)}); it must be an image-text or text model that "
            "transformers knows, with weights in safetensors"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise InputError(f"{where}: {len(names)} weights are missing, {names[0]} first; save the checkpoint again")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _has_template(processor: Any) -> bool:
    tokenizer = getattr(processor, "tokenizer", None)
    return bool(getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None))


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
