"""What a program printed is shown without its secrets, in doubt without a word too many, and never slowly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.printed import one_line, shown

SECRETS = (
    "token hf_abcdefABCDEF123",
    "hf_abcdefABCDEF123",
    "using sk-proj-0123456789abcd",
    "OPENAI_API_KEY=swordfish",
    '{"api_key": "swordfish"}',
    "password: swordfish",
    "the token is swordfish",
    "token sw0rdfish",
    "Authorization: Bearer swordfish",
    "bearer swordfish",
    "--api-key swordfish",
    "https://user:swordfish@host/x",
    "https://swordfish@host/x",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.sw0rdfish",
    "ghp_0123456789abcdefgh",
    "pass\x1b[0mword: swordfish",
)


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_not_shown(text: str) -> None:
    said = shown(text)
    assert "***" in said
    assert not [part for part in ("fish", "sw0r", "abcd", "ABC", "eyJ", "ghp") if part in said]


@pytest.mark.parametrize(
    "text",
    [
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
        "error: unrecognized arguments: --max-num-seqs 256",
        "max tokens 32768, 151643 tokens in all",
        "error: the token limit was reached",
        "loading /models/qwen2.5-0.5b-instruct-q4_k_m.gguf",
        "basic usage: see https://github.com/ggml-org/llama.cpp",
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("char", ["-", "a", "_", " ", "token ", "://", "key=", "'", "eyJ."])
def test_a_long_text_takes_no_long_time(char: str) -> None:
    shown(char * (16 * 1024 // len(char)))


@given(st.text())
def test_it_is_always_one_printable_line(text: str) -> None:
    for said in (shown(text), one_line(text)):
        assert said == "" or said.isprintable()
