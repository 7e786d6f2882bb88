"""``${VAR}`` in values, the program's own variables over the file, and no secret in any message."""

from __future__ import annotations

import pytest

from reconciler.config.load import same_meaning
from reconciler.core.changes import field_changes
from tests.config.fakes import fleet, one, places, problems


def test_variables_are_expanded_in_values_and_only_there() -> None:
    text = one(
        options='model: "${ORG}/${MODEL:-tiny}"',
        more='environment: {A: "$${ORG}", B: "$ORG", C: "${EMPTY:-given}", D: "${EMPTY}"}\naliases: ["${ORG}"]',
    )
    instance = fleet(text, {"ORG": "acme", "EMPTY": ""}).instances["a"]
    assert instance.backend_options["model"] == "acme/tiny"
    assert instance.environment == {"A": "${ORG}", "B": "$ORG", "C": "given", "D": ""}
    assert instance.aliases == ("acme",)


def test_what_a_variable_holds_is_never_read_as_yaml() -> None:
    hostile = "x\n  b: {backend_type: fake}\n# "
    instance = fleet(one(options='model: "${V}"'), {"V": hostile}).instances
    assert list(instance) == ["a"]
    assert instance["a"].backend_options["model"] == hostile


def test_a_variable_is_read_as_a_number_or_boolean_where_one_is_expected() -> None:
    text = one(
        options='model: "${N}", tensor_parallel_size: "${N}", enable_log_requests: "${B}", gpu_memory_utilization: "${F:-0.5}"',
        more='replicas: ${N}\nenabled: ${B}\nport: ${NONE:-}\nlabels: {n: "${N}"}\nstart_timeout: ${T}',
    )
    instance = fleet(text, {"N": "3", "B": "false", "T": "90s"}).instances["a"]
    assert instance.backend_options == {
        "model": "3",
        "tensor_parallel_size": 3,
        "enable_log_requests": False,
        "gpu_memory_utilization": 0.5,
    }
    assert (instance.replicas, instance.enabled, instance.port, instance.labels) == (3, False, None, {"n": "3"})
    assert instance.start_timeout == 90


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("${NOPE}", "NOPE is not set"),
        ("${}", "without a variable's name"),
        ("${a b}", "without"),
        ("${OPEN", "without"),
    ],
)
def test_a_variable_that_cannot_be_expanded_is_told_at_its_value(value: str, says: str) -> None:
    found = problems(one(more=f"labels: {{a: '{value}'}}"))
    assert places(found) == [(5, 17)]
    assert says in found[0].message


def test_the_value_of_a_variable_never_shows_in_a_message() -> None:
    text = one(options="model: m, tensor_parallel_size: '${S}', k: 1", more="replicas: ${S}\nstate: ${S}")
    found = problems(text, {"S": "hunter2-secret"})
    assert len(found) == 4
    assert "hunter2" not in "".join(f"{problem} {problem.source}" for problem in found)


def test_literal_secrets_never_show_in_messages_or_in_the_line_that_is_quoted() -> None:
    text = one(
        options="model: m, api_key: [sk-literal-secret]",
        more="environment: {HF_TOKEN: hf_literalsecret, N: 4}\nlabels: {password: 123456789}",
    )
    text += "auth: {management_keys: [{value: my-literal-secret, name: 3}, {value: 1234567890123}]}\n"
    shown = "".join(f"{problem} {problem.source}" for problem in problems(text))
    for secret in ("hf_literalsecret", "my-literal-secret", "1234567890123", "123456789"):
        assert secret not in shown


def test_the_programs_own_variables_win_over_the_file() -> None:
    environ = {
        "LLAMACTL_HOST": "0.0.0.0",
        "LLAMACTL_PORT": "9999",
        "LLAMACTL_LLAMA_EXECUTABLE": "/opt/llama-server",
        "LLAMACTL_MLX_LM_EXECUTABLE": "python -m mlx_lm.server",
        "LLAMACTL_VLLM_EXECUTABLE": "docker run vllm",
    }
    loaded = fleet("server: {port: 1, host: a}\nbackends: {vllm_executable: vllm}\ninstances: {}", environ)
    assert (loaded.server.host, loaded.server.port) == ("0.0.0.0", 9999)
    assert loaded.backends.llama_executable == "/opt/llama-server"
    assert loaded.backends.mlx_lm_executable == "python -m mlx_lm.server"
    assert loaded.backends.vllm_executable == "docker run vllm"


def test_an_empty_variable_of_the_program_counts_as_unset() -> None:
    assert fleet("server: {port: 1}\ninstances: {}", {"LLAMACTL_PORT": ""}).server.port == 1


@pytest.mark.parametrize("value", ["eighty", "0", "65536", "8 0", "-1", "9" * 400, "\u0661"])
def test_a_bad_variable_of_the_program_is_named(value: str) -> None:
    found = problems("instances: {}", {"LLAMACTL_PORT": value})
    assert [(p.file, p.line) for p in found] == [("$LLAMACTL_PORT", None)]
    assert "LLAMACTL_PORT" in found[0].message


def test_an_executable_that_no_shell_would_split_is_refused() -> None:
    assert places(problems('backends: {vllm_executable: "a \'b"}\ninstances: {}')) == [(1, 29)]
    assert problems("instances: {}", {"LLAMACTL_VLLM_EXECUTABLE": "a 'b"})[0].file == "$LLAMACTL_VLLM_EXECUTABLE"


def test_a_change_of_a_variable_is_told_without_its_value() -> None:
    text = "defaults: {labels: {z: '${TOK}'}}\n" + one(
        options='model: "${TOK}", overrides: {a: ["${TOK}"]}', more='executable: "x ${TOK}"\nenvironment: {A: "${TOK}"}'
    )
    before, after = (fleet(text, {"TOK": f"hunter{n}"}).instances["a"] for n in (2, 3))
    changes = field_changes(before, after)
    assert [change.path for change in changes] == [
        "backend_options.model",
        "backend_options.overrides.a",
        "environment.A",
        "executable",
        "labels.z",
    ]
    assert "hunter" not in str(changes)


def test_a_literal_and_a_variable_of_the_same_value_mean_the_same() -> None:
    assert same_meaning(fleet(one(options="model: m")), fleet(one(options='model: "${M}"'), {"M": "m"}))
