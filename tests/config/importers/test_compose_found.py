"""Compose files as people have them: after vLLM's and llama.cpp's own pages, with `.env` variables, and with what is llamactl's own set."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from reconciler.core.errors import Rejected
from tests.config.importers.imported import SECRET, Result, imported, line_of, loads

VLLM = """\
services:
  vllm:
    image: vllm/vllm-openai:${VLLM_TAG:-latest}
    restart: unless-stopped
    tty: true
    stdin_open: true
    ipc: host
    ports:
      - "8000:8000"
    volumes:
      - ${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface
      - ~/templates:/templates:ro
    environment:
      - HUGGING_FACE_HUB_TOKEN=${HF_TOKEN}
      - VLLM_LOGGING_LEVEL=$LEVEL
    deploy:
      restart_policy:
        delay: 5s
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: all
              capabilities: [gpu]
    command: --model mistralai/Mistral-7B-v0.1 --port 8000
"""
LLAMA = """\
services:
  llamacpp-server:
    image: ghcr.io/ggml-org/llama.cpp:server
    ports:
      - 8080:8080
    volumes:
      - ./models:/models
    environment:
      # otherwise as: docker run -v ./models:/models -p 8080:8080 IMAGE -m /models/m.gguf --port 8080 --host 0.0.0.0
      LLAMA_ARG_MODEL: /models/my_model.gguf
      LLAMA_ARG_CTX_SIZE: 4096
      LLAMA_ARG_N_PARALLEL: 2
      LLAMA_ARG_ENDPOINT_METRICS: 1
      LLAMA_ARG_HOST: 0.0.0.0
      LLAMA_ARG_PORT: 8080
      LLAMA_API_KEY: ${KEY}
"""


def words(result: Result, name: str) -> list[str]:
    """The words of an instance's `docker run`."""
    return shlex.split(str(result.instances[name]["executable"]))


@pytest.fixture(scope="module")
def vllm() -> Result:
    """The first file."""
    return imported("compose", VLLM, name="/srv/llm/compose.yaml")


@pytest.fixture(scope="module")
def llama() -> Result:
    """The second file."""
    return imported("compose", LLAMA, name="/srv/llm/compose.yaml")


def test_a_variable_that_may_be_unset_in_compose_may_be_unset_here(vllm: Result, tmp_path: Path) -> None:
    assert vllm.instances["vllm"]["environment"] == {
        "HUGGING_FACE_HUB_TOKEN": "${HF_TOKEN:-}",
        "VLLM_LOGGING_LEVEL": "${LEVEL:-}",
    }
    loads(vllm, {"HOME": "/nowhere"}, tmp_path)


@pytest.mark.parametrize(
    ("variable", "setting", "text"),
    [
        ("HF_TOKEN", "services.vllm.environment", "HF_TOKEN"),
        ("LEVEL", "services.vllm.environment", "$LEVEL"),
        ("VLLM_TAG", "services.vllm.image", "VLLM_TAG"),
        ("HF_HOME", "services.vllm.volumes[0]", "HF_HOME"),
    ],
)
def test_a_variable_is_told_where_it_stands_and_where_compose_has_it_from(
    vllm: Result, variable: str, setting: str, text: str
) -> None:
    lost = vllm.loss(f"{variable} is read from")
    assert (lost.what, lost.line) == (setting, line_of(VLLM, text))
    assert ".env beside its file" in lost.why
    assert lost.cure == f"set {variable} for llamactl"


def test_a_cache_in_the_home_folder_stays_mounted_where_a_variable_may_say_another(vllm: Result) -> None:
    home = os.path.expanduser("~")
    assert f"${{HF_HOME:-{home}/.cache/huggingface}}:/root/.cache/huggingface" in words(vllm, "vllm")
    assert "home folder of whoever imports" in vllm.loss("became " + home).why
    assert "${HOME}/templates:/templates:ro" in words(vllm, "vllm")
    assert vllm.loss("~ became ${HOME}").line == line_of(VLLM, "~/templates")


def test_a_terminal_is_told_by_the_settings_name(vllm: Result) -> None:
    for setting in ("tty", "stdin_open"):
        assert vllm.loss(f"services.vllm.{setting}").line == line_of(VLLM, setting)
    assert not {"-t", "-i"} & set(words(vllm, "vllm"))


def test_the_key_that_is_handed_on_is_explained_once() -> None:
    text = VLLM + VLLM.replace("services:\n", "").replace("  vllm:\n", "  second:\n")
    result = imported("compose", text, name="/srv/llm/compose.yaml")
    assert len(result.instances) == 2
    assert "llamactl gives each server a key of its own" in result.loss("-e VLLM_API_KEY was added").why


@pytest.mark.parametrize("first", ["restart", "deploy"])
def test_the_policy_under_deploy_is_the_one_that_counts(first: str) -> None:
    lines = {"restart": "    restart: 'no'\n", "deploy": "    deploy: {restart_policy: {delay: 5s}}\n"}
    order = [lines[first], *(text for key, text in lines.items() if key != first)]
    text = "services:\n  a:\n    image: vllm/vllm-openai\n    command: --model org/m\n" + "".join(order)
    result = imported("compose", text, name="compose.yaml")
    assert result.instances["a"]["restart"] == {"policy": "always", "initial_delay": "5s"}, "its condition is any"
    assert result.loss("services.a.restart").line == line_of(text, "restart: 'no'")


def test_what_is_llamactls_to_say_is_not_said_by_a_variable_either(llama: Result) -> None:
    body = llama.instances["llamacpp-server"]
    assert body["environment"] == {
        "LLAMA_ARG_MODEL": "/models/my_model.gguf",
        "LLAMA_ARG_CTX_SIZE": "4096",
        "LLAMA_ARG_N_PARALLEL": "2",
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
    }
    assert "LLAMA_ARG_PORT" not in str(body)
    for name in ("LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_API_KEY"):
        lost = llama.loss(f"services.llamacpp-server.environment.{name}")
        assert "dropped: llamactl" in lost.why
        assert lost.line == line_of(LLAMA, f"{name}:")


def test_what_is_told_of_a_word_has_the_line_of_that_word() -> None:
    text = (
        "services:\n  a:\n    image: vllm/vllm-openai\n    volumes: ['/x:/x']\n    command:\n"
        "      - --model\n      - 'org/m with blank'\n      - --port\n      - '8000'\n      - --made-up\n"
    )
    result = imported("compose", text, name="compose.yaml")
    for word in ("--port", "--made-up"):
        assert result.loss(word).what == "services.a.command"
        assert result.loss(word).line == line_of(text, word)


def test_a_secret_is_told_where_it_stands() -> None:
    text = (
        "services:\n  a:\n    image: vllm/vllm-openai\n    labels:\n      token: hush-1234\n"
        "    command: [--model, org/m, --header, 'X-Api-Key: hush-1234']\n"
    )
    result = imported("compose", text, name="compose.yaml")
    assert {(lost.what, lost.line) for lost in result.losses("is a secret")} == {
        ("services.a.labels.token", line_of(text, "token:")),
        ("services.a.command", line_of(text, "command:")),
    }


def test_a_variable_of_the_command_must_be_set_and_is_named() -> None:
    text = "services:\n  a:\n    image: vllm/vllm-openai\n    command: --model ${MODEL} --max-model-len $LEN\n"
    result = imported("compose", text, name="compose.yaml")
    assert result.instances["a"]["backend_options"] == {"model": "${MODEL}", "max_model_len": "${LEN}"}
    for name in ("MODEL", "LEN"):
        assert result.loss(f"{name} is read from").what == "services.a.command"
        assert result.losses(f"${{{name}}}")


def test_a_default_that_names_a_volume_is_no_path() -> None:
    text = (
        "name: llm\nservices:\n  a:\n    image: vllm/vllm-openai\n    command: --model org/m\n    volumes:\n"
        "      - ${CACHE:-hf-cache}:/c\n      - a${CACHE:-x}b:/d\nvolumes: {hf-cache: {}}\n"
    )
    result = imported("compose", text, name="/srv/compose.yaml")
    assert "${CACHE:-llm_hf-cache}:/c" in words(result, "a")
    assert "write the volume's name" in str(result.loss("services.a.volumes[1]").cure)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("${HF_TOKEN:-hush-1234}", "${HF_TOKEN}"),
        ("${OTHER-hush-1234}", "${OTHER}"),
        ("x${OTHER}hush-1234", "${MY_TOKEN}"),
        ("${OTHER:-}", "${OTHER:-}"),
    ],
)
def test_a_secret_in_a_default_is_not_said(value: str, kept: str) -> None:
    text = f"services:\n  a:\n    image: vllm/vllm-openai\n    command: --model org/m\n    environment: {{MY_TOKEN: '{value}'}}\n"
    result = imported("compose", text, name="compose.yaml")
    assert result.instances["a"]["environment"] == {"MY_TOKEN": kept}
    assert "hush-1234" not in result.everything


@pytest.mark.parametrize(
    "setting",
    [
        "shm_size: '${X:+hush-1234}'",
        "ipc: '${TOKEN:?hush-1234}'",
        "shm_size: '${X:-${Y}hush-1234}'",
        "shm_size: '${X!hush-1234}'",
        "env_file: 'http://me:hush-1234@host/x'",
        "labels: {traefik.auth: Bearer hush-1234, token: hush-1234}",
        "healthcheck: {test: [curl, -H, 'Authorization: Bearer hush-1234']}",
        "build: {args: {TOKEN: hush-1234}}",
        "environment: {AUTH: 'Authorization: Bearer hush-1234', URL: 'http://me:hush-1234@host'}",
    ],
)
def test_no_secret_of_a_setting_is_told(setting: str) -> None:
    text = f"services:\n  a:\n    image: vllm/vllm-openai\n    command: --model org/m\n    {setting}\n"
    lost = imported("compose", text, name="compose.yaml").written.lost
    assert lost
    assert "hush-1234" not in str(lost)


@pytest.mark.parametrize(
    "command",
    [
        ["--header", "Authorization: Bearer hush-1234"],
        ["--header=X-Api-Key: hush-1234"],
        ["--proxy", "https://me:hush-1234@proxy/"],
        ["--made-up-token", "hush-1234"],
        ["--made-up", "Bearer hush-1234"],
        ["--max-model-len", SECRET],
    ],
)
def test_no_secret_of_a_command_is_said(command: list[str]) -> None:
    text = f"services:\n  a:\n    image: vllm/vllm-openai\n    command: {['--model', 'org/m', *command]}\n"
    said = imported("compose", text, name="compose.yaml").everything
    assert "hush-1234" not in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing in it"),
        ("# nothing\n", "nothing in it"),
        ("name: x\n", "no services"),
        ("services:\n", "no services"),
    ],
)
def test_a_file_without_services_is_refused_in_terms_of_compose(text: str, message: str) -> None:
    with pytest.raises(Rejected, match=message) as refused:
        imported("compose", text, name="compose.yaml")
    assert "instances" not in str(refused.value.problems[0])
    assert "services" in str(refused.value.problems[0].hint)
