"""What every backend promises, run over each one that is found."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from jsonschema import Draft202012Validator
from pydantic import JsonValue

from reconciler.backends import discover
from reconciler.backends.custom import Custom
from reconciler.backends.external import External
from reconciler.backends.llama_cpp import LlamaCpp
from reconciler.backends.mlx_lm import MlxLm
from reconciler.backends.simulator import Simulator
from reconciler.backends.vllm import Vllm
from reconciler.core.contracts import Backend, Verdict
from reconciler.core.errors import Rejected
from reconciler.core.spec import BackendsSpec
from tests.backends.samples import GOOD, NO_BACKENDS, backend, check, errors, spec

KINDS = sorted(discover())
TYPED: tuple[Backend, ...] = (Custom(), External(), LlamaCpp(), MlxLm(), Simulator(), Vllm())
"""The type checker's proof that each class is a backend."""


def test_every_backend_of_the_product_is_found_by_its_file() -> None:
    assert set(KINDS) == set(GOOD) == {one.kind for one in TYPED}


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_instance_has_no_problems(kind: str) -> None:
    assert check(kind) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_option_is_an_error_on_its_key_with_the_nearest_name(kind: str) -> None:
    known = next(iter(GOOD[kind]))
    typo = known + "x"
    problems = errors(check(kind, {**GOOD[kind], typo: "v"}))
    assert [problem.path for problem in problems] == [("backend_options", typo)]
    assert problems[0].on_key
    assert known in (problems[0].hint or "")


@pytest.mark.parametrize("kind", KINDS)
def test_x_keys_are_the_users_own(kind: str) -> None:
    assert check(kind, {**GOOD[kind], "x-note": {"anything": [1]}}) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_valid_and_takes_the_good_instance(kind: str) -> None:
    schema = backend(kind).options_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(dict(GOOD[kind]))
    assert not validator.is_valid({**GOOD[kind], "no_such_option": 1})
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("kind", KINDS)
def test_a_launch_is_the_same_whatever_the_order_in_the_file(kind: str) -> None:
    first = backend(kind).launch(spec(kind), NO_BACKENDS)
    second = backend(kind).launch(spec(kind, dict(reversed(list(GOOD[kind].items())))), NO_BACKENDS)
    assert first == second
    assert (first is None) == (kind == "external")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "external"])
def test_host_and_port_are_in_the_final_command_and_not_in_the_revision(kind: str) -> None:
    launch = backend(kind).launch(spec(kind), NO_BACKENDS)
    assert launch is not None
    assert launch.backend_type == kind
    assert launch.port is None
    assert not any("8123" in word for word in launch.argv)
    final = " ".join(backend(kind).command(launch, host="127.0.0.1", port=8123))
    assert "8123" in final
    assert "127.0.0.1" in final


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "external"])
def test_declared_variables_are_merged_and_policy_does_not_reach_the_launch(kind: str) -> None:
    backends = BackendsSpec(environment={"A": "1", "B": "1"})
    plain = backend(kind).launch(spec(kind, environment={"B": None}), backends)
    policy = backend(kind).launch(
        spec(kind, environment={"B": None}, idle_timeout="1h", labels={"team": "a"}, aliases=["z"]), backends
    )
    assert plain is not None
    assert plain.environment == {"A": "1", "B": None}
    assert policy == plain


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "external"])
def test_a_key_never_enters_argv(kind: str) -> None:
    key = "k" * 32
    assert all(value == key for value in backend(kind).key_environment(key).values())
    launch = backend(kind).launch(spec(kind), NO_BACKENDS)
    assert launch is not None
    assert key not in " ".join(backend(kind).command(launch, host="127.0.0.1", port=1))


@pytest.mark.parametrize("kind", KINDS)
def test_readiness_says_ready_for_a_good_answer_and_not_for_a_server_error(kind: str) -> None:
    one = backend(kind)
    assert one.readiness(spec(kind)).path.startswith("/")
    assert one.liveness(spec(kind)).method == "GET"
    assert one.judge(200, b"") is Verdict.READY
    assert one.judge(503, b'{"error":{"message":"Loading model","type":"unavailable_error"}}') is Verdict.LOADING
    assert one.start_timeout >= 300


@pytest.mark.parametrize("kind", KINDS)
def test_parse_answers_or_refuses_with_a_place(kind: str) -> None:
    with pytest.raises(Rejected) as caught:
        backend(kind).parse("definitely-not-a-server --x")
    assert caught.value.problems[0].line == 1
    assert caught.value.problems[0].column is not None


@pytest.mark.parametrize("kind", KINDS)
def test_control_characters_are_refused_everywhere(kind: str) -> None:
    options: dict[str, JsonValue] = {**GOOD[kind], "model": "a\x00b"}
    assert [problem.path for problem in errors(check(kind, options))] == [("backend_options", "model")]


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm", "simulator"])
@pytest.mark.parametrize("value", [0, 65536, -1, True, "http", 1.5, None])
def test_a_port_outside_1_to_65535_is_an_error(kind: str, value: JsonValue) -> None:
    assert [problem.path for problem in errors(check(kind, {**GOOD[kind], "port": value}))] == [
        ("backend_options", "port")
    ]


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm", "simulator", "custom"])
def test_a_port_pins_and_must_agree_with_the_instances_own(kind: str) -> None:
    options = {**GOOD[kind], "port": 9000}
    launch = backend(kind).launch(spec(kind, options), NO_BACKENDS)
    assert launch is not None
    assert launch.port == 9000
    assert not errors(check(kind, options, port=9000))
    assert errors(check(kind, options, port=9001))[0].path == ("backend_options", "port")
    by_instance = backend(kind).launch(spec(kind, port=9000), NO_BACKENDS)
    assert by_instance == launch


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm", "simulator", "custom"])
def test_a_host_must_be_loopback_or_allowed(kind: str) -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert not errors(check(kind, {**GOOD[kind], "host": host}))
    instance = spec(kind, {**GOOD[kind], "host": "0.0.0.0"})
    assert errors(backend(kind).check(instance))[0].path == ("backend_options", "host")
    assert not errors(backend(kind).check(instance, allow_hosts=frozenset({"0.0.0.0"})))
    launch = backend(kind).launch(instance, NO_BACKENDS)
    assert launch is not None
    assert launch.host == "0.0.0.0"


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm", "simulator"])
@pytest.mark.parametrize("arguments", [["--port", "1"], ["--host=0.0.0.0"], ["ok\x07"]])
def test_extra_args_cannot_take_the_address_or_break_the_launch(kind: str, arguments: Sequence[str]) -> None:
    assert errors(check(kind, extra_args=arguments))[0].path == ("extra_args", 0)


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm", "simulator"])
def test_a_broken_executable_is_named(kind: str) -> None:
    assert errors(check(kind, executable="run 'it"))[0].path == ("executable",)
    with pytest.raises(Rejected):
        backend(kind).launch(spec(kind, executable="run 'it"), NO_BACKENDS)


def test_nothing_is_read_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.backends import _vocabulary

    _vocabulary.load.cache_clear()
    discover.cache_clear()
    discover()
    assert _vocabulary.load.cache_info().misses == 0
