"""Instances of the Go program as JSON: every shape it has had, every setting, and what is no such file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.config._parse import parse
from reconciler.config._tree import plain
from reconciler.core.errors import Rejected
from reconciler.core.spec import InstanceState
from tests.config.importers.kit import SECRET, Import, accounts_for, bring, tables, with_key

INSTANCE: dict[str, Any] = {
    "id": 4,
    "name": "team/llama",
    "status": "running",
    "created": 1760000000,
    "options": {
        "auto_restart": True,
        "max_restarts": 5,
        "restart_delay": 7,
        "on_demand_start": True,
        "idle_timeout": 20,
        "environment": {"CUDA_VISIBLE_DEVICES": "1", "TEMPLATE": "${NOT_OURS}"},
        "nodes": ["main"],
        "docker_enabled": True,
        "command_override": "/opt/my builds/llama-server",
        "preset_ini": "[x]",
        "backend_type": "llama_cpp",
        "backend_options": {
            "model": "/srv/${x}.gguf",
            "host": "0.0.0.0",
            "port": 8011,
            "api_key": SECRET,
            "gpu_layers": 40,
            "flash_attn": "on",
            "gone_since_long": 3,
            "extra_args": {"verbose": "", "seed": "3"},
        },
    },
}


def shaped(**options: Any) -> Import:
    """One instance ``m`` with these options."""
    return bring("llamactl-json", json.dumps({"name": "m", "options": options}))


@pytest.fixture(scope="module")
def whole() -> Import:
    """The instance above, imported."""
    return bring("llamactl-json", json.dumps(INSTANCE, indent=2), name="team.json")


def test_every_setting_that_has_a_counterpart_is_carried_over(whole: Import) -> None:
    spec = whole["team-llama"]
    assert (spec.state, spec.idle_timeout, spec.enabled) == (InstanceState.ON_DEMAND, 1200.0, True)
    assert (spec.restart.max_restarts, spec.restart.initial_delay, spec.restart.max_delay) == (5, 7.0, 7.0)
    assert spec.environment == {"CUDA_VISIBLE_DEVICES": "1", "TEMPLATE": "${NOT_OURS}"}
    assert spec.executable == "'/opt/my builds/llama-server'"
    assert spec.backend_options == {"model": "/srv/${x}.gguf", "gpu_layers": 40, "flash_attn": "on"}
    assert spec.extra_args == ("--verbose", "--seed", "3")
    assert spec.aliases == ("team/llama",)


@pytest.mark.parametrize(
    "what",
    [
        *("id", "created", "options.docker_enabled", "options.preset_ini", "options.backend_options.host"),
        *("options.backend_options.port", "options.backend_options.api_key", "the name 'team/llama'"),
        "team/llama: backend_options.gone_since_long",
    ],
)
def test_what_has_no_counterpart_is_reported(whole: Import, what: str) -> None:
    assert whole.loss(what).line is not None


def test_no_key_anywhere_in_it_can_be_dropped_in_silence() -> None:
    root = parse(json.dumps(INSTANCE).encode(), name="x").root
    for path, _ in tables(root):
        if path[-1:] in (("environment",), ("extra_args",)):
            continue  # any key there is a name, and has a meaning
        found = bring("llamactl-json", json.dumps(with_key(plain(root), path, "zzz")))
        in_options = path == ("options", "backend_options")
        assert in_options == ("team/llama: backend_options.zzz" in found.whats()), path
        assert in_options or accounts_for(found, path, "zzz"), path


def test_no_secret_is_told(whole: Import) -> None:
    assert SECRET not in whole.said()
    assert SECRET not in whole.text


@pytest.mark.parametrize(
    ("shape", "kind", "options"),
    [
        ({"llama_server_options": {"model": "a.gguf", "threads": 2}}, "llama_cpp", {"model": "a.gguf", "threads": 2}),
        ({"vllm_server_options": {"model": "Q/q"}}, "vllm", {"model": "Q/q"}),
        ({"mlx_server_options": {"model": "m/m", "temp": 0.5}}, "mlx_lm", {"model": "m/m", "temp": 0.5}),
        ({"model": "a.gguf", "threads": 2, "idle_timeout": 0}, "llama_cpp", {"model": "a.gguf", "threads": 2}),
        ({"backend_type": "llama_cpp", "backend_options": {"model": "a"}}, "llama_cpp", {"model": "a"}),
    ],
)
def test_older_shapes_are_read_too(shape: dict[str, Any], kind: str, options: dict[str, Any]) -> None:
    spec = shaped(**shape)["m"]
    assert (spec.backend_type, dict(spec.backend_options)) == (kind, options)


OPTIONS = {"backend_type": "llama_cpp", "backend_options": {"model": "a.gguf"}}


@pytest.mark.parametrize(
    "document",
    [
        {"name": "m", "options": OPTIONS},
        OPTIONS | {"name": "m"},
        [{"name": "m", "options": OPTIONS}],
        {"instances": [{"name": "m", "options": OPTIONS}]},
        {"m": {"options": OPTIONS}},
        {"instances": {"m": OPTIONS}},
    ],
)
@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_one_instance_is_found_wherever_it_stands(document: Any, indent: int | str | None) -> None:
    found = bring("llamactl-json", json.dumps(document, indent=indent))
    assert found["m"].backend_options == {"model": "a.gguf"}
    assert found.lost == ()


def test_a_file_without_a_name_inside_names_its_instance() -> None:
    assert "small" in bring("llamactl-json", json.dumps(OPTIONS), name="/somewhere/small.json").fleet.instances


def test_lines_are_those_of_the_file_in_a_list_too() -> None:
    text = json.dumps([{"name": "m", "options": OPTIONS | {"what": 1}}], indent=1)
    loss = bring("llamactl-json", text).loss("instances[0].options.what")
    assert loss.line is not None
    assert "what" in text.splitlines()[loss.line - 1]


def test_options_that_servers_no_longer_have_become_what_took_their_place() -> None:
    document = {
        "name": "m",
        "options": {
            "backend_type": "llama_cpp",
            "backend_options": {
                "model": "/a.gguf",
                "no_mmap": True,
                "no_warmup": True,
                "no_webui": True,
                "flash_attn": "true",
                "defrag_thold": 0.1,
                "n_gpu_layers": 7,
                "n_gpu_layer": 8,
                "extra_args": {"draft-max": "16", "mlock": "", "foo": "bar"},
            },
        },
    }
    text = json.dumps(document, indent=1)
    found = bring("llamactl-json", text)
    options = dict(found["m"].backend_options)
    assert options.pop("n_gpu_layers", options.pop("gpu_layers", None)) == 7
    assert options == {
        **{"model": "/a.gguf", "load_mode": "mlock", "warmup": False, "ui": False},
        **{"flash_attn": "on", "defrag_thold": "0.1"},
    }
    assert found["m"].extra_args == ("--foo", "bar")
    at = {"no_mmap", "n_gpu_layer", "draft-max", "mlock"}
    said = {key: [loss for loss in found.lost if loss.what.endswith(key)] for key in at}
    for key, losses in said.items():
        assert [f'"{key}"' in text.splitlines()[(loss.line or 0) - 1] for loss in losses] == [True], (key, losses)


def test_false_and_0_are_given_to_no_server_as_there() -> None:
    found = shaped(
        backend_type="llama_cpp", backend_options={"model": "/a", "no_mmap": False, "mlock": False, "temp": 0}
    )
    assert found["m"].backend_options == {"model": "/a"}
    assert len(found.lost) == 3
    assert "load_mode" not in found.said()


def test_secrets_become_variables_and_keys_of_our_own_go() -> None:
    found = shaped(
        backend_type="llama_cpp",
        backend_options={"model": "/a", "hf_token": SECRET, "extra_args": ["--custom-token", SECRET]},
        environment={"HF_TOKEN": SECRET, "OPENAI_API_KEY": "x", "LLAMA_API_KEY": "y", "PLAIN": "z"},
    )
    assert SECRET not in found.text + found.said()
    assert "HF_TOKEN: ${HF_TOKEN}\n" in found.text
    assert set(found["m"].environment) == {"HF_TOKEN", "OPENAI_API_KEY", "PLAIN"}
    assert "key of its own" in found.loss("options.environment.LLAMA_API_KEY").why


def test_what_was_stopped_stays_stopped() -> None:
    stopped = {"name": "m", "status": "stopped", "options": OPTIONS}
    assert not bring("llamactl-json", json.dumps(stopped))["m"].enabled
    waiting = {**stopped, "options": OPTIONS | {"on_demand_start": True}}
    assert bring("llamactl-json", json.dumps(waiting))["m"].enabled


def test_an_idle_time_without_on_demand_and_other_hosts_are_reported() -> None:
    found = shaped(**OPTIONS, idle_timeout=5, nodes=["gpu-7"], auto_restart=False)
    assert found["m"].restart.policy == "never"
    assert found["m"].idle_timeout is None
    assert {"options.idle_timeout", "options.nodes"} == found.whats()
    assert "gpu-7" in found.loss("options.nodes").why


def test_an_instance_that_nobody_can_start_is_lost_as_a_whole() -> None:
    found = shaped(backend_type="custom", backend_options={"name": "sglang", "model": "m", "args": ["-p", "{port}"]})
    assert found.fleet.instances == {}
    assert "m" in found.whats()
    assert shaped(backend_type="tensorrt", backend_options={"model": "x"}).fleet.instances == {}


@pytest.mark.parametrize("text", ["", "x", "{}", "[", '{"a": 1}', "models:\n a: 1", "\0", '{"name": "m", "name": "n"}'])
def test_what_is_no_such_json_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        bring("llamactl-json", text, name="m.json")
    assert refused.value.problems[0].file == "m.json"
    assert refused.value.problems[0].line == 1
