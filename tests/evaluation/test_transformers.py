"""Models of other families through transformers' own generate: a random LLaVA of a few thousand parameters."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from tiny import picture, tiny_tokenizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply
from cleareyed.evaluation.providers.transformers import TransformersAnswerer
from cleareyed.evaluation.request import AskParams, Request

TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'] }}: {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}answer:"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llava")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>", "additional_special_tokens": ["<image>"]})
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    images = CLIPImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=image_token,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def png(seed: int) -> bytes:
    out = BytesIO()
    picture(20, 20, seed).save(out, "PNG")
    return out.getvalue()


def asked(count: int, text: str = "How many?", **params: object) -> Request:
    images = tuple(png(seed) for seed in range(count))
    return Request(f"s{count}", text, "", images, True, AskParams(**{"max_tokens": 6, **params}))  # type: ignore[arg-type]


def answers(folder: Path, requests: Sequence[Request]) -> list[Reply | BaseException]:
    answerer = TransformersAnswerer(str(folder))

    async def work() -> list[Reply | BaseException]:
        try:
            sent = [answerer.send(answerer.prepare(request)) for request in requests]
            return await asyncio.gather(*sent, return_exceptions=True)
        finally:
            await answerer.close()

    return asyncio.run(work())


def test_pictures_and_text_reach_the_model(folder: Path) -> None:
    base = replace(asked(1), chat=False)
    shown = replace(asked(1), images=(png(7),))
    requests = [asked(1), asked(1), asked(2), asked(0), shown, base, asked(1, temperature=1.0, seed=5)]
    replies = answers(folder, [*requests, requests[-1]])
    assert all(isinstance(reply, Reply) for reply in replies), replies
    first, again, *others = [(reply.text, reply.prompt_tokens) for reply in replies]  # type: ignore[union-attr]
    assert first == again
    assert others[-1] == others[-2]  # the same seed
    assert len({first, *others}) == 6
    tokens = [tokens for _, tokens in (*others[:2],)]
    assert tokens[0] - first[1] == first[1] - tokens[1] == 5  # 4 patches and the class token a picture
    for reply in replies:
        assert isinstance(reply, Reply)
        assert reply.state in ("answered", "cut-off", "empty")
        assert (reply.state == "cut-off") == (reply.finish == "length") == (reply.completion_tokens == 6)


def test_what_cannot_be_asked_fails_alone(folder: Path) -> None:
    broken = replace(asked(1), images=(png(0)[:60],))
    replies = answers(folder, [broken, asked(1, "an <image> too many"), asked(1)])
    for reply, says in ((replies[0], "sample s1, image 1: image cannot be decoded"), (replies[1], "this prompt")):
        assert isinstance(reply, AskError)
        assert says in str(reply)
    assert isinstance(replies[2], Reply)


def test_what_is_no_image_text_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="processor cannot be read"):
        TransformersAnswerer(str(tmp_path))
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="weights in safetensors"):
        TransformersAnswerer(str(tmp_path))
