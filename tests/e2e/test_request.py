"""The three examples of the original request, word for word, keys included, with simulators standing in for vLLM."""

from __future__ import annotations

import json
import sys

from tests.daemons import Daemon

MANAGEMENT = {"Authorization": "Bearer your-management-key"}
INFERENCE = {"Authorization": "Bearer your-inference-key"}
COMMAND = (
    "vllm serve --model ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g --tensor-parallel-size 2 --gpu-memory-utilization 0.5"
)
BODY = {
    "backend_type": "vllm",
    "backend_options": {
        "model": "ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "enable_log_outputs": True,
    },
}
FILE = """\
# my models
server: {{ host: 127.0.0.1, port: {port} }}   # here
auth:
  management_keys: [{{ value: your-management-key }}]
  inference_keys: [{{ name: alice, value: your-inference-key }}]
instances: {{}}   # none yet
"""


def up(daemon: Daemon) -> None:
    daemon.settings = {"LLAMACTL_VLLM_EXECUTABLE": f"{sys.executable} -m reconciler.simulator vllm"}
    daemon.file.write_text(FILE.format(port=daemon.port), encoding="utf-8")
    daemon.up()


def test_the_three_examples_work_as_written(daemon: Daemon) -> None:
    up(daemon)
    code, body = daemon.request("POST", "/api/v1/backends/vllm/parse-command", {"command": COMMAND}, MANAGEMENT)
    assert code == 200, body
    parsed = json.loads(body)
    assert parsed["backend_type"] == "vllm"
    assert parsed["backend_options"] == {
        "model": "ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
    }
    code, body = daemon.request("POST", "/api/v1/instances/my-vllm-model", BODY, MANAGEMENT)
    assert code == 201, body
    text = daemon.file.read_text(encoding="utf-8")
    assert "# my models" in text
    assert "# here" in text
    assert "my-vllm-model" in text
    daemon.until(
        lambda: json.loads(daemon.request("GET", "/api/v1/instances/my-vllm-model", None, MANAGEMENT)[1])["ready"],
        what="my-vllm-model to be ready",
        deadline_s=30,
    )
    question = {"model": "my-vllm-model", "messages": [{"role": "user", "content": "Hello!"}]}
    code, body = daemon.request("POST", "/v1/chat/completions", question, INFERENCE)
    assert code == 200, body
    assert "Hello!" in json.loads(body)["choices"][0]["message"]["content"]


def test_the_request_s_own_options_are_warned_about_with_the_cure(daemon: Daemon) -> None:
    up(daemon)
    code, body = daemon.request("POST", "/api/v1/instances/my-vllm-model", BODY, MANAGEMENT)
    assert code == 201, body
    assert "enable_log_requests" in json.dumps(json.loads(body)["warnings"])
    outcome = daemon.run("validate", str(daemon.file))
    assert outcome.code == 0
    assert "enable_log_requests" in outcome.text


def test_keys_open_only_their_own_doors(daemon: Daemon) -> None:
    up(daemon)
    assert daemon.request("GET", "/api/v1/status")[0] == 401
    assert daemon.request("GET", "/api/v1/status", None, INFERENCE)[0] == 403
    assert daemon.request("GET", "/v1/models", None, {"Authorization": "Bearer wrong"})[0] == 401
    assert daemon.request("GET", "/v1/models", None, MANAGEMENT)[0] == 200
    assert daemon.request("GET", "/health")[0] == 200
