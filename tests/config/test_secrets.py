"""No secret of a file is repeated: whatever shape the mistake beside it has, and wherever a message, a cure or a quoted line comes from."""

from __future__ import annotations

import dataclasses

import pytest

from reconciler.backends import discover
from reconciler.config.load import load_text
from reconciler.config.report import render
from reconciler.core.errors import Problem, Rejected

SECRET = "sk-9Zq4vBxW7LmTt2Yp"  # long enough to be a key
WRONG = "nonsense: 1\n"
INSTANCE = "instances:\n  a:\n    backend_type: "


def told(text: str, environ: dict[str, str] | None = None) -> tuple[Problem, ...]:
    """Everything said about the text, which must be something."""
    try:
        found = load_text(text.encode(), name="f.yaml", backends=discover(), environ=environ or {}).warnings
    except Rejected as refusal:
        found = refusal.problems
    assert found
    return found


def everything(found: tuple[Problem, ...]) -> str:
    fields = [str(getattr(problem, one.name)) for problem in found for one in dataclasses.fields(problem)]
    return "\n".join([*fields, render(found), render(found, color=True), str(Rejected(*found))])


@pytest.mark.parametrize(
    "text",
    [
        f"auth: {{management_keys: [{SECRET}]}}\n",
        f"auth:\n  management_keys:\n    - {SECRET}\n",
        f"auth:\n  management_keys: {SECRET}\n",
        f"auth:\n  management_keys: [{{key: {SECRET}}}]\n",
        f"auth:\n  management_keys: [{{vlaue: {SECRET}}}]\n",
        f"auth:\n  management_keys:\n    - value: {SECRET}\n      nmae: x\n",
        f"auth:\n  management_keys: [{{value: {SECRET}, nmae: x}}]\n",
        f'{{"auth": {{"management_keys": [{{"value":"{SECRET}","nmae":1}}]}}}}\n',
        f"auth:\n  management_keys: [{{env: {SECRET}}}]\n",
        f"auth:\n  management_keys: [{{{SECRET}: }}]\n",
        f"auth:\n  management_keys: {{{SECRET}: x}}\n",
        f"auth: {SECRET}\n",
        f"auth:\n  management_keys: [{{sha256: {SECRET}}}]\n",
        f"auth:\n  management_keys:\n    - value: |\n        {SECRET}\n      nmae: {SECRET}\n",
        f"x-key: &key {SECRET}\nauth: {{management_keys: [*key]}}\n",
        f"auth: {{management_keys: ['${{NOPE:-{SECRET}}}']}}\n",
        INSTANCE + f'external\n    environment: "HF_TOKEN={SECRET}"\n',
        INSTANCE + f"vllm\n    environment:\n      - HF_TOKEN={SECRET}\n",
        INSTANCE + f"vllm\n    environment: [{SECRET}]\n",
        INSTANCE + f"vllm\n    environment: {{HF_TOKEN: [{SECRET}]}}\n",
        INSTANCE + f"vllm\n    environment: {{PLAIN: {SECRET}, N: 1}}\n",
        INSTANCE + f"vllm\n    environment: {{VLLM_LOGGING_LEVEL: {SECRET}, N: 1}}\n",
        INSTANCE + f"vllm\n    environment: {{VLLM_API_KEY: {SECRET}, LLAMA_ARG_HF_TOKEN: {SECRET}, N: 1}}\n",
        f"backends: {{environment: {{PLAIN: {SECRET}, N: 1}}}}\n",
        INSTANCE + f'custom\n    backend_options:\n      command: "x --api-key={SECRET}"\n',
        INSTANCE + f'custom\n    backend_options: {{command: "x --some-long-option {"y" * 40} --hf-token {SECRET}"}}\n',
        INSTANCE + f'custom\n    backend_options: {{command: [1, "--api-key", "{SECRET}"]}}\n',
        INSTANCE + f"custom\n    backend_options:\n      command: [x]\n      extra: --my_token={SECRET}\n",
        INSTANCE + f"external\n    backend_options: {{url: 'ftp://user:{SECRET}@h/v1'}}\n",
        INSTANCE + f"external\n    backend_options: {{url: 'https://user:{SECRET}@h/v1', api_key: {SECRET}, x: 1}}\n",
        INSTANCE + f"vllm\n    aliases: https://user:{SECRET}@h/v1\n",
        INSTANCE + f"vllm\n    state: https://{'u' * 45}:{SECRET}@h/v1\n",
        INSTANCE + f"vllm\n    backend_options: {{model: m, hf_token: {SECRET}, api-key: [{SECRET}]}}\n",
        INSTANCE + f"vllm\n    backend_options: {{model: m}}\n    extra_args: ['--api-key', '{SECRET}']\n",
        f"auth: {{management_keys: [{SECRET}\n",
        f"auth:\n  management_keys:\n    - {SECRET}\n   - x: y: z\n",
        f"auth:\n  management_keys:\n    - value: {SECRET}: {SECRET}\n",
        f"auth:\n- {SECRET}: {SECRET}: x\n",
        f"auth:\n  {SECRET} b\n  x: 1\n",
        f'{{"auth": {{"management_keys": ["{SECRET}"]}}, ]\n',
        INSTANCE + f"vllm\n    environment:\n      A: {SECRET}: b\n",
        INSTANCE + f"vllm\n    executable: https://a:{SECRET}@b: c\n",
    ],
)
def test_a_secret_beside_a_mistake_is_in_no_part_of_what_is_said(text: str) -> None:
    for whole in (text, text + WRONG):
        said = everything(told(whole))
        assert SECRET not in said
        assert SECRET[:8] not in said


def test_the_line_keeps_its_columns_and_its_references() -> None:
    text = f"auth: {{management_keys: [{{value: '{SECRET}', nmae: '${{KEY}}'}}]}}\n"
    found = told(text, {"KEY": "1234567890"})
    (source,) = {problem.source for problem in found}
    assert source is not None
    assert len(source) == len(text) - 1
    assert "nmae: *${KEY}*" in source


def test_what_is_no_secret_stays_readable() -> None:
    text = INSTANCE + "vllm\n    environment: {MODE: number}\n    replicas: many\n    labels: [x]\n"
    found = told(text)
    assert "expected a whole number from 1 to 64, found the text 'many'" in [problem.message for problem in found]
    assert "    replicas: many" in [problem.source for problem in found]


def test_only_harmless_variables_are_shown_beside_a_mistake() -> None:
    shown = {
        "CUDA_VISIBLE_DEVICES": "'0,1'",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "LLAMA_ARG_FLASH_ATTN": "auto",
        "A": "'on'",
        "B": "'12'",
    }
    hidden = {
        "HF_TOKEN": "'5'",
        "VLLM_API_KEY": "abc",
        "LLAMA_ARG_HF_TOKEN": "abc",
        "MY_PASSWORD": "'true'",
        "C": "abc",
        "D": "'123456'",
        "VLLM_AUTH_HEADER": "abc",
        "VLLM_HOST_IP": "a1b2c3d4e5f6a7b8",
        "VLLM_CACHE_ROOT": "https://u:x@h",
    }
    for name, value in {**shown, **hidden}.items():
        (problem,) = told(
            INSTANCE + f"vllm\n    backend_options: {{model: m}}\n    environment: {{{name}: {value}, WRONG: [x]}}\n"
        )
        assert problem.source is not None
        assert (f"{name}: {value}," in problem.source) is (name in shown), name


def test_the_value_of_a_shortened_flag_is_hidden() -> None:
    for words in ("--api-ke, WORD", "--hf-tok=WORD", "-hft, WORD", "'--api_k', 'WORD'"):
        said = everything(
            told(INSTANCE + f"vllm\n    backend_options: {{model: m, x: 1}}\n    extra_args: [{words}]\n")
        )
        assert "WORD" not in said.replace("extra_args: [WORD]", "")


def test_a_key_file_and_a_variable_of_a_key_are_named() -> None:
    text = "auth: {management_keys: [{env: MY_KEY}, {file: keys/of-the-lab}]}\n"
    said = everything(told(text))
    assert "MY_KEY" in said
    assert "keys/of-the-lab" in said
