"""Each backend's own manner: its command, its rules, its readiness."""

from __future__ import annotations

import json
import sys
from importlib import resources

import pytest
from pydantic import JsonValue

from reconciler.backends.external import FILE_PREFIX, key_file
from reconciler.backends.vllm import wants_subcommand
from reconciler.core.contracts import Endpoint, Verdict
from reconciler.core.errors import Rejected
from reconciler.core.spec import BackendsSpec
from tests.backends.samples import GOOD, argv, backend, check, errors, spec

ADDRESS = ["--host", "127.0.0.1", "--port", "8100"]


def test_the_requests_own_example() -> None:
    options: dict[str, JsonValue] = {
        "model": "ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "enable_log_outputs": True,
    }
    assert argv("vllm", options) == [
        "vllm", "serve", "ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g", "--enable-log-outputs",
        "--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5", *ADDRESS,
    ]  # fmt: skip
    (problem,) = check("vllm", options)
    assert problem.warning
    assert problem.path == ("backend_options", "enable_log_outputs")
    assert "enable_log_requests: true" in (problem.hint or "")
    assert check("vllm", {**options, "enable_log_requests": True}) == ()
    assert check("vllm", options, extra_args=["--enable-log-requests"]) == ()
    assert check("vllm", {**options, "enable_log_outputs": False}) == ()


@pytest.mark.parametrize(
    ("executable", "start"),
    [
        ("vllm", ["vllm", "serve", "m"]),
        ("'/opt/my venv/bin/vllm'", ["/opt/my venv/bin/vllm", "serve", "m"]),
        ("python -m vllm.entrypoints.cli.main", ["python", "-m", "vllm.entrypoints.cli.main", "serve", "m"]),
        ("python -m vllm", ["python", "-m", "vllm", "serve", "m"]),
        ("vllm serve", ["vllm", "serve", "m"]),
        ("python -m vllm.entrypoints.openai.api_server", ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]),
        (
            "docker run --network host --entrypoint vllm img",
            ["docker", "run", "--network", "host", "--entrypoint", "vllm", "img", "serve", "m"],
        ),
        ("docker run --rm --gpus all vllm/vllm-openai", ["docker", "run", "--rm", "--gpus", "all", "vllm/vllm-openai", "--model", "m"]),
        ("llamactl simulate vllm", ["llamactl", "simulate", "vllm", "serve", "m"]),
    ],
)  # fmt: skip
def test_serve_is_put_where_it_belongs(executable: str, start: list[str]) -> None:
    by_backends = backend("vllm").launch(spec("vllm", {"model": "m"}), BackendsSpec(vllm_executable=executable))
    by_instance = backend("vllm").launch(
        spec("vllm", {"model": "m"}, executable=executable), BackendsSpec(vllm_executable="x")
    )
    assert by_backends is not None
    assert list(by_backends.argv) == start
    assert by_instance == by_backends
    assert wants_subcommand(("vllm",))


def test_extra_args_come_before_host_and_port() -> None:
    command = argv("vllm", {"model": "m", "seed": 0}, extra_args=["--new-flag", "a b"])
    assert command == ["vllm", "serve", "m", "--seed", "0", "--new-flag", "a b", *ADDRESS]


@pytest.mark.parametrize("options", [{}, {"seed": 1}, {"model": ""}, {"model": "-m"}])
def test_a_vllm_instance_needs_a_model(options: dict[str, JsonValue]) -> None:
    assert len(errors(check("vllm", options))) == 1
    assert not errors(check("vllm", {}, extra_args=["--model", "m"]))


@pytest.mark.parametrize("name", ["api_key", "api-key", "hf_token"])
def test_secrets_do_not_go_through_argv(name: str) -> None:
    for kind in ("vllm", "llama_cpp"):
        (problem,) = check(kind, {**GOOD[kind], name: "sk-secret"})
        assert problem.path == ("backend_options", name)
        assert problem.hint
        assert "sk-secret" not in problem.message + problem.hint
    flag = "--" + name.replace("_", "-")
    (raw,) = check("vllm", extra_args=[flag, "sk-secret"])
    assert raw.path == ("extra_args", 0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vllm", {"uds": "/tmp/x"}),
        ("vllm", {"grpc": True}),
        ("vllm", {"headless": True}),
        ("vllm", {"ssl-keyfile": "k"}),
        ("vllm", {"help": True}),
        ("llama_cpp", {"api_prefix": "/x"}),
        ("llama_cpp", {"ssl_cert_file": "c"}),
        ("llama_cpp", {"list_devices": True}),
        ("llama_cpp", {"draft": 5}),
        ("llama_cpp", {"api_key_file": "f"}),
        ("mlx_lm", {"help": True}),
    ],
)
def test_what_would_take_the_server_out_of_reach_is_an_error(kind: str, options: dict[str, JsonValue]) -> None:
    (problem,) = errors(check(kind, {**GOOD[kind], **options}))
    assert problem.path == ("backend_options", next(iter(options)))
    assert problem.hint


def test_items_of_lists_are_pointed_at() -> None:
    (problem,) = check("vllm", {"model": "m", "cudagraph_capture_sizes": [1, "x"]})
    assert problem.path == ("backend_options", "cudagraph_capture_sizes", 1)


def test_all_problems_at_once() -> None:
    options: dict[str, JsonValue] = {"modle": "m", "seed": "x", "port": 0, "host": "0.0.0.0", "api_key": "k"}
    assert len(errors(check("vllm", options, extra_args=["--port"], executable="'"))) == 8


def test_deprecated_options_warn_and_work() -> None:
    (problem,) = check("llama_cpp", {"model": "m", "defrag_thold": "0.1"})
    assert problem.warning
    assert argv("llama_cpp", {"model": "m", "defrag_thold": "0.1"})[1:5] == ["--defrag-thold", "0.1", "--model", "m"]


def test_a_number_is_a_number_for_an_option_of_unknown_type() -> None:
    (problem,) = check("llama_cpp", {"model": "m", "defrag_thold": 0.1})
    assert problem.warning
    assert argv("llama_cpp", {"model": "m", "defrag_thold": 0.1})[1:3] == ["--defrag-thold", "0.1"]


def test_the_words_of_a_shell_in_an_executable_are_doubted() -> None:
    for executable in ("llama-server | tee x", "llama-server > log", "cd /x && llama-server"):
        (problem,) = check("llama_cpp", executable=executable)
        assert problem.warning
        assert "no shell is involved" in problem.message
    assert check("llama_cpp", executable="llama-server 'a|b'") == ()


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"model": "m"}, {}),
        ({"hf-repo": "a/b"}, {}),
        ({"models_dir": "/m"}, {}),
        ({"gpt_oss_20b_default": True}, {}),
        ({}, {"extra_args": ["-m", "x"]}),
        ({}, {"environment": {"LLAMA_ARG_MODEL": "x"}}),
    ],
)
def test_a_llama_instance_needs_a_source_of_models(options: dict[str, JsonValue], settings: dict[str, object]) -> None:
    assert not errors(check("llama_cpp", options, **settings))
    empty: list[dict[str, JsonValue]] = [{}, {"model": ""}, {"gpt_oss_20b_default": False}]
    for nothing in empty:
        (problem,) = check("llama_cpp", nothing)
        assert problem.path == ("backend_options",)
        assert problem.warning
        assert "router" in problem.message, "which is what the server of today is then"


def test_a_llama_server_that_is_no_router_needs_a_model() -> None:
    table = json.loads(resources.files("reconciler.backends").joinpath("vocabulary/llama_cpp.json").read_text())
    table["options"] = [one for one in table["options"] if one["name"] not in ("models_dir", "models_preset")]
    older = backend("llama_cpp").informed(lambda _: table)
    (problem,) = older.check(spec("llama_cpp", {}))
    assert not problem.warning
    assert problem.message == "a llama_cpp instance needs a model"
    (section,) = older.check(spec("llama_cpp", {}), backends=BackendsSpec(environment={"LLAMA_ARG_CTX_SIZE": "1"}))
    assert section.message == problem.message
    assert older.check(spec("llama_cpp", {}), backends=BackendsSpec(environment={"LLAMA_ARG_MODEL": "m"})) == ()


def test_mlx_without_a_model_warns() -> None:
    (problem,) = check("mlx_lm", {})
    assert problem.warning
    for extra in (["--model", "m"], ["--model=m"], ["--mod", "m"]):
        assert check("mlx_lm", {}, extra_args=extra) == ()


def test_served_models() -> None:
    assert backend("vllm").served_model(spec("vllm", {"model": "m", "served-model-name": ["a", "b"]})) == "a"
    assert backend("vllm").served_model(spec("vllm", {"model": "m", "served_model_name": "a"})) == "a"
    assert backend("vllm").served_model(spec("vllm", {"model": "m"})) == "m"
    assert backend("llama_cpp").served_model(spec("llama_cpp")) is None
    assert backend("mlx_lm").served_model(spec("mlx_lm")) == "org/tiny"
    assert backend("simulator").served_model(spec("simulator", {})) == "sim"
    assert backend("simulator").served_model(spec("simulator", {"personality": "llama_cpp"})) is None
    assert backend("custom").served_model(spec("custom")) == "tiny"
    assert backend("external").served_model(spec("external")) == "tiny"


def test_mlx_is_ready_after_one_token_of_its_own_model() -> None:
    probe = backend("mlx_lm").readiness(spec("mlx_lm"))
    assert (probe.method, probe.path) == ("POST", "/v1/completions")
    body = json.loads(probe.body or b"")
    assert (body["model"], body["max_tokens"]) == ("org/tiny", 1)
    judge = backend("mlx_lm").judge
    assert judge(200, b"{}") is Verdict.READY
    assert judge(404, b'{"error": "generation thread died"}') is Verdict.FAILED
    assert judge(503, b'{"status": "unavailable"}') is Verdict.FAILED
    assert judge(503, b"busy") is Verdict.LOADING
    assert judge(429, b"") is Verdict.LOADING


def test_start_timeouts_and_keys() -> None:
    assert backend("vllm").start_timeout == 1200.0
    assert backend("llama_cpp").start_timeout == backend("mlx_lm").start_timeout == 300.0
    assert backend("vllm").key_environment("k") == {"VLLM_API_KEY": "k"}
    assert backend("llama_cpp").key_environment("k") == {"LLAMA_API_KEY": "k"}
    assert backend("mlx_lm").key_environment("k") == {}
    assert backend("simulator").key_environment("k") == {"VLLM_API_KEY": "k", "LLAMA_API_KEY": "k"}
    assert backend("custom").key_environment("k") == {"LLAMACTL_BACKEND_KEY": "k"}
    assert backend("external").key_environment("k") == {}


def test_simulators_are_launched_with_this_python_and_their_personality() -> None:
    start = [sys.executable, "-m", "reconciler.simulator"]
    assert argv("simulator", {"load-seconds": 1}) == [*start, "vllm", "serve", "sim", "--load-seconds", "1", *ADDRESS]
    options: dict[str, JsonValue] = {"personality": "llama_cpp", "model": "m", "ignore-sigterm": True, "children": 3}
    assert argv("simulator", options) == [
        *start,
        "llama_cpp",
        "--model",
        "m",
        "--ignore-sigterm",
        "--children",
        "3",
        *ADDRESS,
    ]
    mlx = spec("simulator", {"personality": "mlx_lm", "model": "m"})
    assert backend("simulator").readiness(mlx).method == "POST"
    assert backend("simulator").readiness(spec("simulator")).path == "/health"


def test_a_broken_backends_executable_is_rejected_by_name() -> None:
    with pytest.raises(Rejected) as caught:
        backend("llama_cpp").launch(spec("llama_cpp"), BackendsSpec(llama_executable="'oops"))
    assert caught.value.problems[0].path == "backends.llama_executable"


def test_a_container_without_the_hosts_network_warns() -> None:
    (problem,) = check("vllm", executable="docker run --rm vllm/vllm-openai")
    assert problem.warning
    assert "--network host" in (problem.hint or "")
    assert check("vllm", executable="docker run --rm --network=host vllm/vllm-openai") == ()


def test_custom_puts_the_address_in_and_nothing_else() -> None:
    command: list[JsonValue] = ["srv", "--json", '{"a": {}}', "--at={host}:{port}"]
    assert argv("custom", {"command": command}) == ["srv", "--json", '{"a": {}}', "--at=127.0.0.1:8100"]


@pytest.mark.parametrize(
    ("options", "settings", "path"),
    [
        ({}, {}, ("backend_options",)),
        ({"command": "srv --port {port}"}, {}, ("backend_options", "command")),
        ({"command": []}, {}, ("backend_options", "command")),
        ({"command": ["srv"]}, {}, ("backend_options", "command")),
        ({"command": ["srv", "{port}", 5]}, {}, ("backend_options", "command", 2)),
        ({"command": ["srv", "{port}\x00"]}, {}, ("backend_options", "command", 1)),
        ({"command": ["srv", "{port}"], "health_path": "up"}, {}, ("backend_options", "health_path")),
        ({"command": ["srv", "{port}"]}, {"extra_args": ["x"]}, ("extra_args",)),
        ({"command": ["srv", "{port}"]}, {"executable": "x"}, ("executable",)),
    ],
)
def test_custom_rules(options: dict[str, JsonValue], settings: dict[str, object], path: tuple[str | int, ...]) -> None:
    assert [problem.path for problem in errors(check("custom", options, **settings))] == [path]


def test_custom_may_listen_where_it_likes_when_the_port_is_pinned() -> None:
    assert not errors(check("custom", {"command": ["srv"]}, port=9000))
    assert backend("custom").readiness(spec("custom", {"command": ["x"], "health-path": "/up"})).path == "/up"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", Endpoint(host="h", port=80)),
        ("http://h:9/", Endpoint(host="h", port=9)),
        ("https://h/v1", Endpoint(host="h", port=443, tls=True)),
        ("https://h/openai/v1/", Endpoint(host="h", port=443, tls=True, base_path="/openai")),
        ("http://[::1]:8/v1", Endpoint(host="::1", port=8)),
    ],
)
def test_an_external_url_with_or_without_v1(url: str, expected: Endpoint) -> None:
    instance = spec("external", {"url": url})
    assert check("external", {"url": url}) == ()
    assert backend("external").external(instance, {}) == expected


def test_an_external_key_comes_from_a_variable_or_a_file() -> None:
    by_env = spec("external", {"url": "http://h", "api_key": {"env": "K"}})
    by_file = spec("external", {"url": "http://h", "api-key": {"file": "/k"}})
    endpoint = backend("external").external(by_env, {"K": "s"})
    assert endpoint is not None
    assert endpoint.api_key == "s"
    assert "'s'" not in repr(endpoint)
    assert key_file(by_env) is None
    assert key_file(by_file) == "/k"
    endpoint = backend("external").external(by_file, {FILE_PREFIX + "/k": "t"})
    assert endpoint is not None
    assert endpoint.api_key == "t"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "ftp://h"},
        {"url": "h:80"},
        {"url": "http://"},
        {"url": "http://h:99999"},
        {"url": "http://u:p@h"},
        {"url": "http://h/?k=v"},
        {"url": "http://h h"},
        {"url": 5},
        {"url": "http://h", "api_key": "sk"},
        {"url": "http://h", "api_key": {}},
        {"url": "http://h", "api_key": {"env": "A", "file": "B"}},
        {"url": "http://h", "api_key": {"env": ""}},
        {"url": "http://h", "model": 5},
    ],
)
def test_external_rules(options: dict[str, JsonValue]) -> None:
    assert len(errors(check("external", options))) == 1


def test_an_external_model_replaces_the_client_s_name() -> None:
    one = backend("external").external(spec("external", {"url": "http://h:1/v1", "model": "org/name"}), {})
    assert one is not None
    assert one.served_model == "org/name"


def test_external_verdicts() -> None:
    judge = backend("external").judge
    assert [judge(status, b"") for status in (200, 404, 429)] == [Verdict.READY] * 3
    assert judge(401, b"") is Verdict.FAILED
    assert judge(502, b"") is Verdict.LOADING
    probe = backend("external").readiness(spec("external"))
    assert (probe.path, probe.otherwise) == ("/health", "/v1/models")


def test_nothing_of_a_started_server_fits_an_external_one() -> None:
    problems = errors(check("external", executable="x", extra_args=["y"], port=5, working_directory="/"))
    assert {problem.path[0] for problem in problems} == {"executable", "extra_args", "port", "working_directory"}
