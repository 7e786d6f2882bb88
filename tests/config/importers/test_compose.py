"""Obligations of `import compose`: the same container by `docker run`, nothing dropped in silence, no secret said, always loadable."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from reconciler.config._parse import parse
from reconciler.config._tree import plain, words
from reconciler.core.errors import Rejected
from tests.config.importers.imported import SECRET, Result, imported, line_of, loads
from tests.config.importers.kit import tables, with_key

STACK = f"""\
name: llm
x-gpu: &gpu
  deploy:
    resources:
      limits: {{memory: 64g}}
      reservations:
        devices:
          - driver: nvidia
            count: all
            capabilities: [gpu]
x-env: &env
  HF_HOME: /root/.cache/huggingface
services:
  chat:
    <<: *gpu
    image: vllm/vllm-openai:${{VLLM_TAG:-v0.11.0}}
    container_name: chat
    restart: unless-stopped
    ports: ["8000:8000"]
    ipc: host
    volumes:
      - hf-cache:/root/.cache/huggingface
      - ./templates:/templates:ro
      - ~/models:/models
    environment:
      <<: *env
      HUGGING_FACE_HUB_TOKEN: {SECRET}
      VLLM_API_KEY: ${{VLLM_API_KEY:?need it}}
      PRICE: "5$$"
    command: >
      --model Qwen/Qwen2.5-7B-Instruct --gpu-memory-utilization 0.9
      --hf-overrides '{{"rope_scaling": {{"factor": 4.0}}}}'
      --port 8000
    healthcheck: {{test: [CMD, curl, "http://localhost:8000/health"], start_period: 120s}}
    stop_grace_period: 1m30s
    stop_signal: SIGINT
  gguf:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: ["-m", "/models/qwen.gguf", "-c", "8192", "-ngl", "99"]
    volumes: ["${{MODELS:-./models}}:/models"]
    gpus: [{{device_ids: ["0", "1"], capabilities: [gpu]}}]
    env_file: .env
    profiles: [big]
    shm_size: 8gb
    ulimits: {{memlock: -1, nofile: {{soft: 1024, hard: 4096}}}}
    scale: 2
  old:
    image: registry.example/own-vllm:1
    entrypoint: python3 -m vllm.entrypoints.openai.api_server
    command: ["--model", "x/y", "--api-key", "sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    environment: ["CUDA_VISIBLE_DEVICES=0", "HF_TOKEN"]
    restart: on-failure:5
  webui:
    image: ghcr.io/open-webui/open-webui:main
    depends_on: [chat]
    ports: ["3000:8080"]
networks: {{front: {{}}}}
volumes:
  hf-cache: {{driver: nfs}}
"""


def of_service(body: str, *, name: str = "/srv/llm/compose.yaml", top: str = "") -> Result:
    """A file with one vLLM service that has these further lines."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    head = "services:\n  a:\n    image: vllm/vllm-openai\n    command: --model org/m\n"
    return imported("compose", f"{head}{lines}{top}", name=name)


def options(result: Result, name: str = "a") -> list[str]:
    """The words of the instance's `docker run`."""
    return shlex.split(str(result.instances[name]["executable"]))


def has(words: list[str], *pair: str) -> bool:
    """Whether these words follow each other."""
    return any(tuple(words[at : at + len(pair)]) == pair for at in range(len(words)))


@pytest.fixture(scope="module")
def stack() -> Result:
    """The file above."""
    return imported("compose", STACK, name="/srv/llm/compose.yaml")


def test_services_of_known_servers_become_instances_and_the_others_are_named(stack: Result) -> None:
    assert list(stack.instances) == ["chat", "gguf", "old"]
    assert {name: body["backend_type"] for name, body in stack.instances.items()} == {
        "chat": "vllm",
        "gguf": "llama_cpp",
        "old": "vllm",
    }
    lost = stack.loss("services.webui")
    assert "starts no server that llamactl knows" in lost.why
    assert lost.line == line_of(STACK, "webui:")
    assert "services.webui." not in stack.everything, "the settings of a service that stays are no news"


def test_the_result_loads(stack: Result, tmp_path: Path) -> None:
    given = {"HUGGING_FACE_HUB_TOKEN": "x", "HF_TOKEN": "x", "API_KEY": "x", "HOME": "/nowhere"}
    loads(stack, given, tmp_path)


def test_the_command_is_understood_and_our_own_flags_are_told(stack: Result) -> None:
    assert stack.instances["chat"]["backend_options"] == {
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "gpu_memory_utilization": 0.9,
        "hf_overrides": {"rope_scaling": {"factor": 4.0}},
    }
    assert stack.loss("--port was dropped").line == line_of(STACK, "command: >")


def test_the_container_is_the_same_but_for_network_and_port(stack: Result) -> None:
    words = options(stack, "chat")
    assert words[:4] == ["docker", "run", "--rm", "--network"]
    assert has(words, "--network", "host")
    assert has(words, "--ipc", "host")
    assert has(words, "-v", "llm_hf-cache:/root/.cache/huggingface")
    assert has(words, "-v", "/srv/llm/templates:/templates:ro")
    assert has(words, "-v", "${HOME}/models:/models")
    assert has(words, "--gpus", "all")
    assert has(words, "--memory", "64g")
    assert words[-1] == "vllm/vllm-openai:${VLLM_TAG:-v0.11.0}"
    second = options(stack, "gguf")
    assert has(second, "-v", "${MODELS:-/srv/llm/models}:/models")
    assert has(second, "--gpus", '"device=0,1"')
    assert has(second, "--env-file", "/srv/llm/.env")
    assert has(second, "--ulimit", "nofile=1024:4096")
    third = options(stack, "old")
    assert has(third, "--entrypoint", "python3")
    assert third[-2:] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert has(third, "-e", "HF_TOKEN")


def test_secrets_stay_where_they_are(stack: Result) -> None:
    assert SECRET not in stack.everything
    assert "sk-aaaa" not in stack.everything
    assert stack.instances["chat"]["environment"]["HUGGING_FACE_HUB_TOKEN"] == "${HUGGING_FACE_HUB_TOKEN}"
    told = stack.losses("services.chat.environment.HUGGING_FACE_HUB_TOKEN")
    assert [lost.line for lost in told] == [line_of(STACK, SECRET)]


def test_what_llamactl_has_itself_is_a_setting_of_its_own(stack: Result) -> None:
    chat, gguf, old = (stack.instances[name] for name in ("chat", "gguf", "old"))
    assert chat["restart"] == {"policy": "always"}
    assert chat["stop"] == {"grace": "1m30s", "signal": "SIGINT"}
    assert gguf["restart"] == {"policy": "never"}, "compose restarts nothing unless told"
    assert gguf["replicas"] == 2
    assert gguf["enabled"] is False, "a service with a profile is not started without it"
    assert old["restart"] == {"policy": "on_failure", "max_restarts": 5}


def test_a_doubled_dollar_is_one_and_a_reference_stays_one(stack: Result) -> None:
    assert stack.instances["chat"]["environment"]["PRICE"] == "5$"
    assert stack.losses("VLLM_TAG is read from")


@pytest.mark.parametrize(
    "part",
    [
        "services.chat.container_name",
        "services.chat.ports",
        "services.chat.healthcheck",
        "services.chat.volumes[0]",
        "services.gguf.profiles",
        "volumes.hf-cache.driver",
        "networks",
    ],
)
def test_what_is_not_carried_over_is_told_with_its_line(stack: Result, part: str) -> None:
    lost = next(iter(stack.losses(part)))
    key = part.split(".")[-1].split("[")[0]
    texts = {"driver": "hf-cache: {driver", "volumes": "- hf-cache:/root"}
    assert lost.line == line_of(STACK, texts.get(key, f"{key}:"))
    assert lost.why


EVERY_SETTING = {
    "privileged": ("privileged: true", ["--privileged"]),
    "cap_add": ("cap_add: [SYS_NICE]", ["--cap-add", "SYS_NICE"]),
    "security_opt": ("security_opt: [seccomp=unconfined]", ["--security-opt", "seccomp=unconfined"]),
    "user": ('user: "1000:1000"', ["--user", "1000:1000"]),
    "runtime": ("runtime: nvidia", ["--runtime", "nvidia"]),
    "shm_size": ("shm_size: 16gb", ["--shm-size", "16gb"]),
    "devices": ("devices: ['/dev/kfd:/dev/kfd']", ["--device", "/dev/kfd:/dev/kfd"]),
    "group_add": ("group_add: [video, 44]", ["--group-add", "video", "--group-add", "44"]),
    "working_dir": ("working_dir: /srv", ["--workdir", "/srv"]),
    "platform": ("platform: linux/arm64", ["--platform", "linux/arm64"]),
    "tmpfs": ("tmpfs: /tmp", ["--tmpfs", "/tmp"]),
    "labels": ("labels: {team: ml}", ["--label", "team=ml"]),
    "extra_hosts": ("extra_hosts: ['db=10.0.0.1']", ["--add-host", "db:10.0.0.1"]),
    "pull_policy": ("pull_policy: if_not_present", ["--pull", "missing"]),
    "gpus": ("gpus: all", ["--gpus", "all"]),
    "gpu count": ("deploy: {resources: {reservations: {devices: [{count: 2, capabilities: [gpu]}]}}}", ["--gpus", "2"]),
    "cdi": ("gpus: [{driver: cdi, device_ids: ['nvidia.com/gpu=0']}]", ["--device", "nvidia.com/gpu=0"]),
    "long bind": (
        "volumes: [{type: bind, source: ./m, target: /m, read_only: true}]",
        ["-v", "/srv/llm/m:/m:ro"],
    ),
    "long tmpfs": ("volumes: [{type: tmpfs, target: /x, tmpfs: {size: 1g}}]", ["--tmpfs", "/x:size=1g"]),
    "anonymous volume": ("volumes: [/data]", ["-v", "/data"]),
    "variable with default": ('shm_size: "${SHM:-8gb}"', ["--shm-size", "${SHM:-8gb}"]),
}


@pytest.mark.parametrize("case", EVERY_SETTING)
def test_a_container_setting_is_carried_over(case: str) -> None:
    setting, words = EVERY_SETTING[case]
    result = of_service(setting)
    assert has(options(result), *words), options(result)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("network_mode: bridge", "services.a.network_mode"),
        ("networks: [x]", "services.a.networks"),
        ("logging: {driver: none}", "services.a.logging"),
        ("secrets: [hf]", "services.a.secrets"),
        ("configs: [c]", "services.a.configs"),
        ("build: .", "services.a.build"),
        ("depends_on: [db]", "services.a.depends_on"),
        ("expose: ['8000']", "services.a.expose"),
        ("deploy: {placement: {constraints: [x]}}", "services.a.deploy.placement"),
        ("deploy: {restart_policy: {window: 5s}}", "services.a.deploy.restart_policy.window"),
        ("frobnicate: 1", "services.a.frobnicate"),
        ("sysctls: {net.core.somaxconn: 1024}", "services.a.sysctls.net.core.somaxconn"),
        ("stop_signal: SIGUSR1", "services.a.stop_signal"),
        ("stop_grace_period: soon", "services.a.stop_grace_period"),
        ("restart: sometimes", "services.a.restart"),
        ('environment: {X: "${A:+b}"}', "services.a.environment"),
        ('environment: {X: "${A:-${B}}"}', "services.a.environment"),
        ("ipc: service:db", "services.a.ipc"),
        ("gpus: [{driver: amd, count: 1}]", "services.a.gpus"),
        ("scale: 0", "services.a.scale"),
    ],
)
def test_a_setting_that_ours_has_not_is_told_and_costs_no_instance(setting: str, what: str) -> None:
    result = of_service(setting)
    assert list(result.instances) == ["a"]
    assert {lost.line for lost in result.losses(what)} == {5}


def test_every_setting_of_a_service_is_carried_over_or_told() -> None:
    for key in ("mem_limit", "cpuset", "mystery", "attach", "develop", "uts", "provider", "post_start", "blkio_config"):
        result = of_service(f"{key}: host")
        assert result.losses(f"services.a.{key}") or "host" in options(result)[5:], key


RICH = """\
services:
  a:
    image: vllm/vllm-openai
    command: --model org/m
    healthcheck: {test: [x]}
    env_file: [{path: a.env}]
    volumes: [{type: volume, source: x, target: /x, volume: {nocopy: true}}]
    devices: [{source: /dev/a, target: /dev/b}]
    ulimits: {nofile: {soft: 1, hard: 2}}
    logging: {driver: none}
    deploy: {resources: {limits: {cpus: 2}, reservations: {devices: [{count: 1}]}}, restart_policy: {condition: any}}
volumes: {x: {name: x}}
networks: {n: {}}
"""
MEANT = ("environment", "labels", "ulimits", "volumes", "services", "driver_opts")
"""Mappings whose keys are the user's own names."""


def test_a_key_that_nobody_knows_is_told_wherever_it_stands() -> None:
    root = parse(RICH.encode(), name="compose.yaml").root
    for path, _ in tables(root):
        if path and path[-1] in MEANT:
            continue
        changed = YAML(typ="safe", pure=True)
        out = io.StringIO()
        changed.dump(with_key(plain(root), path, "surprise"), out)
        found = imported("compose", out.getvalue(), name="/srv/compose.yaml")
        told = {lost.what for lost in found.written.lost}
        above = {words((*path, "surprise")), *(words(path[:length]) for length in range(1, len(path) + 1))}
        assert told & above, f"{words(path)}: {told}"


@pytest.mark.parametrize("key", ["volumes", "devices", "gpus", "ulimits", "environment", "deploy", "env_file"])
def test_a_setting_of_the_wrong_shape_is_told(key: str) -> None:
    value = "[x]" if key in ("ulimits", "deploy") else "{x: {y: z}}"
    assert of_service(f"{key}: {value}").losses(f"services.a.{key}")


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("command: [sh, -c, 'exec vllm serve org/m']", "org/m"),
        ("entrypoint: [/bin/bash, -lc]\n    command: ['vllm serve org/m --seed 1']", "org/m"),
        ("entrypoint: []\n    command: vllm serve org/m", "org/m"),
        ("command: vllm serve 'org/m with blank'", "org/m with blank"),
    ],
)
def test_a_shell_that_only_starts_the_server_is_left_out(command: str, model: str) -> None:
    text = f"services:\n  a:\n    image: own:1\n    {command}\n"
    result = imported("compose", text, name="compose.yaml")
    assert result.instances["a"]["backend_options"]["model"] == model


@pytest.mark.parametrize(
    "command",
    [
        "command: [sh, -c, 'pip install x && vllm serve org/m']",
        "command: [bash, -c, 'vllm serve $$MODEL']",
        "entrypoint: [bash, /start.sh]",
        'command: [sh, -c, "cd /x\\nvllm serve org/m"]',
        'command: "vllm serve ${MODEL:+x}"',
        'command: "vllm serve \'open"',
    ],
)
def test_a_command_that_cannot_be_known_is_told_and_not_guessed(command: str) -> None:
    text = f"services:\n  a:\n    image: own:1\n    {command}\n"
    result = imported("compose", text, name="compose.yaml")
    assert not result.instances
    assert result.losses("services.a")[0].line == 2


def test_a_service_that_extends_another_is_not_half_imported() -> None:
    result = of_service("extends: {file: base.yaml, service: vllm}")
    assert not result.instances
    assert "docker compose config" in str(result.loss("services.a.extends").cure)


def test_an_image_named_by_a_variable_is_known_by_its_default() -> None:
    text = 'services: {a: {image: "${IMAGE:-ghcr.io/ggml-org/llama.cpp:server}", command: [-m, /m/x.gguf]}}\n'
    result = imported("compose", text, name="compose.yaml")
    assert options(result)[-1] == "ghcr.io/ggml-org/llama.cpp:server"
    assert "became" in result.loss("services.a.image").why


def test_a_volume_is_called_as_compose_calls_it() -> None:
    volumes = "volumes:\n  x: {external: true}\n  y: {name: other}\n  z:\n"
    result = of_service("volumes: ['x:/x', 'y:/y', 'z:/z']", name="/srv/My Stack/compose.yaml", top=volumes)
    assert has(options(result), "-v", "x:/x", "-v", "other:/y", "-v", "mystack_z:/z")
    assert "mystack_z" in result.loss("services.a.volumes[2]").why


def test_paths_of_standard_input_are_told_to_be_unknown() -> None:
    result = of_service("volumes: ['./m:/m']", name="<stdin>")
    assert has(options(result), "-v", "./m:/m")
    assert "write the whole path" in str(result.loss("services.a.volumes[0]").cure)


@pytest.mark.parametrize(
    "text", ["vllm:\n  image: vllm/vllm-openai\n", "services: []\n", "- a\n", "", "services: {a: [\n"]
)
def test_what_is_no_compose_file_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        imported("compose", text, name="compose.yaml")
    assert refused.value.problems[0].file == "compose.yaml"
    assert refused.value.problems[0].line is not None


def test_a_file_without_any_server_is_an_empty_list_of_instances() -> None:
    result = imported("compose", "services: {db: {image: postgres}}\n", name="compose.yaml")
    assert not result.instances
    assert result.losses("services.db")
