"""Hashes of what was sent, and the keys under which answers are kept."""

import json
from dataclasses import replace
from hashlib import sha256

from cleareyed.evaluation.answers import clean_text, redact
from cleareyed.evaluation.request import AskParams, asked_hashes, cache_key, request_hash

PARAMS = AskParams(max_tokens=16)


def test_the_hash_is_of_the_bytes_and_not_of_their_cuts() -> None:
    assert request_hash([b"ab", b"", b"c"]) == request_hash([b"abc"])
    assert request_hash([b"abc"]) != request_hash([b"abd"])
    assert request_hash([b"abc"]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def test_every_thing_that_decides_an_answer_is_in_its_key() -> None:
    key = cache_key("openai:m", None, PARAMS, "00")
    others = [
        cache_key("openai:n", None, PARAMS, "00"),
        cache_key("openai:m", "r", PARAMS, "00"),
        cache_key("openai:m", None, PARAMS, "01"),
    ]
    for field, value in {
        "max_tokens": 17,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ("\n",),
        "seed": 1,
        "system": "Be brief.",
    }.items():
        others.append(cache_key("openai:m", None, replace(PARAMS, **{field: value}), "00"))
    assert key == cache_key("openai:m", None, AskParams(max_tokens=16), "00")
    assert len({key, *others}) == 10


def test_keys_and_hashes_stay_what_they_are_so_that_old_journals_are_gone_on_with() -> None:
    params = AskParams(max_tokens=16, stop=("\n",), system="Be brief.")
    fields = ["openai:m", None, 16, 0.0, None, ["\n"], None, "Be brief.", "00"]
    assert cache_key("openai:m", None, params, "00") == sha256(json.dumps(fields).encode()).hexdigest()
    prompt, pictures = asked_hashes('Wo "ü"?', True, None, [b"picture"])
    assert prompt == "1e0dd741234a9dbd4d8543d7077b9c82"
    assert pictures == "146a10b0edf8e1181cd4d7be0f04c82f"


def test_keys_and_pieces_of_keys_are_redacted() -> None:
    secret = "my0secret1key2of3no4form"
    for text in (f"key {secret}.", f"key {secret[:9]}... is wrong", f"ends in {secret[-8:]}"):
        assert not any(secret[at : at + 8] in redact(text, secret) for at in range(len(secret) - 7))
    said = redact("Incorrect API key provided: sk-proj-ab12****wxyz. Header: Bearer abc.def-123", "")
    assert "wxyz" not in said and "abc.def" not in said and said.startswith("Incorrect API key provided: [redacted]")
    assert redact("one\n two", "x") == "one two"
    assert len(redact("word " * 1000)) == 300
    assert redact("the task-specific risk-assessment failed") == "the task-specific risk-assessment failed"


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    assert clean_text("a\ud83db") == "a\ufffdb"
    assert clean_text("a\ud83d\ude00b") == "a\U0001f600b"
    assert clean_text("grün 😀") == "grün 😀"
