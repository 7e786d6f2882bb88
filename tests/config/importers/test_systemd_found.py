"""Units as people have them for their servers: each is imported, or told why not, and nothing that it says is lost in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.importers.imported import Result, imported, line_of, loads

LLAMA_OF_A_USER = """\
[Unit]
Description=llama.cpp server
After=network.target

[Service]
Type=simple
User=llama
Group=llama
WorkingDirectory=/opt/llama.cpp
ExecStart=/opt/llama.cpp/build/bin/llama-server \\
  --model /opt/models/Qwen2.5-Coder-7B-Q4_K_M.gguf \\
  --host 0.0.0.0 --port 8012 \\
  -ngl 99 -fa \\
  -ub 1024 -b 1024 --ctx-size 0 --cache-reuse 256
Restart=on-failure
RestartSec=10
StandardOutput=append:/var/log/llama.log

[Install]
WantedBy=multi-user.target
"""
LLAMA_FOR_CHAT = """\
[Service]
ExecStart=/usr/local/bin/llama-server -m /models/llama-3-8b.gguf -c 8192 -t 8 -fa \\
    -cnv
Restart=always
"""
VLLM_OF_A_VENV = """\
[Unit]
Description=vLLM OpenAI API
Wants=network-online.target
After=network-online.target

[Service]
Type=simple
User=vllm
EnvironmentFile=-/etc/default/no-such-vllm
Environment="PATH=/opt/vllm/.venv/bin:/usr/bin" "VLLM_USE_V1=1"
PassEnvironment=HF_TOKEN HTTPS_PROXY
ExecStart=/opt/vllm/.venv/bin/python -m vllm.entrypoints.openai.api_server --model meta-llama/Llama-3.1-8B-Instruct \\
    --host 0.0.0.0 --port 8000 --api-key hush-1234 --tensor-parallel-size 2
Restart=always
RestartSec=3
LimitNOFILE=65535
KillSignal=SIGINT
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""
VLLM_BEHIND_A_SHELL = """\
[Service]
ExecStart=/bin/bash -c 'source /opt/vllm/.venv/bin/activate && vllm serve Qwen/Qwen3-8B'
Restart=always
"""
VLLM_IN_DOCKER = """\
[Unit]
Requires=docker.service
After=docker.service

[Service]
TimeoutStartSec=0
Restart=always
ExecStartPre=-/usr/bin/docker stop %n
ExecStartPre=-/usr/bin/docker rm %n
ExecStart=/usr/bin/docker run --rm --name %n --gpus all --ipc=host -p 8000:8000 \\
    -v /srv/hf:/root/.cache/huggingface -e HF_TOKEN=hush-1234 \\
    vllm/vllm-openai:v0.10.0 --model Qwen/Qwen3-8B --max-model-len 8192
ExecStop=/usr/bin/docker stop %n

[Install]
WantedBy=default.target
"""
LLAMA_BY_VARIABLES = """\
[Service]
Environment=LLAMA_ARG_HOST=0.0.0.0
Environment=LLAMA_ARG_PORT=8081
Environment=LLAMA_ARG_N_GPU_LAYERS=99
Environment=LLAMA_API_KEY=hush-1234
Environment=HF_HUB_URL=https://me:hush-1234@mirror.example/
ExecStart=/usr/bin/llama-server -m /models/a.gguf --port ${LLAMA_ARG_PORT}
"""
MLX_OF_A_USER = """\
[Unit]
Description=MLX server

[Service]
ExecStart=%h/.local/bin/mlx_lm.server --model mlx-community/Qwen3-4B-4bit --port 8080
WorkingDirectory=%h
Restart=on-failure

[Install]
WantedBy=default.target
"""


def of(text: str, name: str = "llm.service") -> Result:
    """The unit, imported."""
    return imported("systemd", text, name=f"/etc/systemd/system/{name}")


IMPORTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a llama.cpp of a user": (
        LLAMA_OF_A_USER,
        "llama_cpp",
        {
            "model": "/opt/models/Qwen2.5-Coder-7B-Q4_K_M.gguf", "gpu_layers": 99, "flash_attn": "on",
            "ubatch_size": 1024, "batch_size": 1024, "ctx_size": 0, "cache_reuse": 256,
        },
    ),
    "a vllm of a venv": (
        VLLM_OF_A_VENV, "vllm", {"model": "meta-llama/Llama-3.1-8B-Instruct", "tensor_parallel_size": 2}
    ),
    "a vllm in docker": (VLLM_IN_DOCKER, "vllm", {"model": "Qwen/Qwen3-8B", "max_model_len": 8192}),
    "a llama.cpp told by variables": (LLAMA_BY_VARIABLES, "llama_cpp", {"model": "/models/a.gguf"}),
    "an mlx of a user": (MLX_OF_A_USER, "mlx_lm", {"model": "mlx-community/Qwen3-4B-4bit"}),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPORTED)
def test_a_unit_is_imported_and_loads(case: str, tmp_path: Path) -> None:
    text, kind, options = IMPORTED[case]
    result = of(text)
    body = result.instances["llm"]
    assert (body["backend_type"], body["backend_options"]) == (kind, options)
    assert "hush-1234" not in result.everything
    loads(result, {"HOME": "/nowhere", "HF_TOKEN": "x", "HF_HUB_URL": "x"}, tmp_path)


@pytest.mark.parametrize(
    ("text", "part", "said"),
    [
        (LLAMA_OF_A_USER, "-fa wants a value", "read as on"),
        (LLAMA_FOR_CHAT, "-cnv", ""),
        (LLAMA_OF_A_USER, "User", "llamactl's own user"),
        (VLLM_OF_A_VENV, "PassEnvironment", "HF_TOKEN, HTTPS_PROXY"),
        (VLLM_OF_A_VENV, "EnvironmentFile", "cannot be read here"),
        (VLLM_OF_A_VENV, "--api-key was dropped", "key of its own"),
        (VLLM_IN_DOCKER, "-p was dropped", "llamactl assigns the port"),
        (VLLM_IN_DOCKER, "TimeoutStartSec", "without end"),
        (VLLM_IN_DOCKER, "ExecStop", "the server's command alone"),
        (LLAMA_BY_VARIABLES, "LLAMA_ARG_HOST", "llamactl assigns the address"),
        (LLAMA_BY_VARIABLES, "LLAMA_ARG_PORT", "llamactl assigns the port"),
        (LLAMA_BY_VARIABLES, "LLAMA_API_KEY", "key of its own"),
        (LLAMA_BY_VARIABLES, "HF_HUB_URL", "secret"),
        (MLX_OF_A_USER, "WorkingDirectory", "home folder"),
    ],
)
def test_what_becomes_something_else_is_told(text: str, part: str, said: str) -> None:
    assert [lost for lost in of(text).losses(part) if said in lost.why]


@pytest.mark.parametrize("name", ["LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_API_KEY"])
def test_a_variable_that_is_llamactls_is_told_with_the_line_that_sets_it(name: str) -> None:
    result = of(LLAMA_BY_VARIABLES)
    lost = result.loss(f"Environment {name}")
    assert lost.line == line_of(LLAMA_BY_VARIABLES, f"={name}=")
    assert name not in result.instances["llm"]["environment"]
    assert result.instances["llm"]["environment"]["LLAMA_ARG_N_GPU_LAYERS"] == "99"


@pytest.mark.parametrize(
    "line",
    [
        "Environment=TOKEN=first hush-1234",
        "Environment=hush-1234",
        'Environment="AUTH=Bearer hush-1234"',
        "Environment=DB=postgres://me:hush-1234@db/x",
        "ExecStartPre=/usr/bin/curl -H 'Authorization: Bearer hush-1234' http://x",
    ],
)
def test_no_secret_of_a_unit_is_told(line: str) -> None:
    result = of(f"[Service]\nExecStart=/usr/bin/llama-server -m /m/x.gguf\n{line}\n")
    assert result.losses(line.partition("=")[0].partition(" ")[0]) or result.losses("AUTH")
    assert "hush-1234" not in result.everything


def test_no_secret_of_an_environment_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "llm.env"
    file.write_text("KEYS=--password hush-1234\nURL=https://me:hush-1234@host/\nMY_TOKEN=hush-1234\nhush-1234\n")
    result = of(f"[Service]\nEnvironmentFile={file}\nExecStart=/opt/own --port 3000 $KEYS --url ${{URL}}\n")
    assert set(result.instances["llm"]["environment"]) == {"KEYS", "URL", "MY_TOKEN"}
    assert "hush-1234" not in result.everything


def test_the_operator_that_a_shell_is_given_is_named_as_it_is_written() -> None:
    result = of(VLLM_BEHIND_A_SHELL)
    assert not result.instances
    assert ": && is a shell's" in result.loss("ExecStart").why
