"""From text to a fleet: every mistake at once and at its place, defaults, variables, folders, and what formatting may not change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config.load import same_meaning
from reconciler.core.errors import Rejected, Severity
from reconciler.core.spec import InstanceState
from tests.config.fakes import fleet, one, places, problems

FIVE = """\
server: { host: 127.0.0.1, port: 99999 }
instances:
  a:
    backend_type: fake
    backend_options:
      model: m
      tensor-paralel-size: 2
    stat: running
  b:
    backend_type: fakee
  c:
    backend_type: fake
    backend_options: {model: m}
    idle_timeout: 30
"""


def test_a_file_with_five_mistakes_reports_all_five_at_their_places() -> None:
    found = problems(FIVE)
    assert places(found) == [(1, 34), (7, 7), (8, 5), (10, 19), (14, 19)]
    assert [problem.path for problem in found] == [
        "server.port",
        "instances.a.backend_options.tensor-paralel-size",
        "instances.a.stat",
        "instances.b.backend_type",
        "instances.c.idle_timeout",
    ]
    assert found[0].message == "expected a whole number from 1 to 65535, found the number 99999"
    assert found[1].hint == "did you mean `tensor_parallel_size`?"
    assert found[2].hint == "did you mean `state`?"
    assert found[3].hint == "did you mean `fake`?"
    assert found[4].hint == "add a unit: 30s or 30m"
    assert found[2].source == "    stat: running"
    assert {problem.file for problem in found} == {"f.yaml"}


def test_several_mistakes_in_one_instance_do_not_hide_each_other() -> None:
    text = one(more="stat: x\nreplicas: many\naliases: g", options="model: m, nonsense: 1")
    assert [problem.path.removeprefix("instances.a.") for problem in problems(text)] == [
        "backend_options.nonsense",
        "stat",
        "replicas",
        "aliases",
    ]


@pytest.mark.parametrize(
    ("setting", "column", "message", "hint"),
    [
        ("replicas: 0", 15, "expected a whole number from 1 to 64, found the number 0", None),
        ("replicas: 1.5", 15, "expected a whole number from 1 to 64, found the number 1.5", None),
        ('replicas: "2"', 15, "expected a whole number from 1 to 64, found the text '2'", "remove the quotes"),
        ("replicas: true", 15, "expected a whole number from 1 to 64, found the boolean true", None),
        ("replicas:", 14, "expected a whole number from 1 to 64, found nothing", None),
        ("enabled: yes", 14, "expected true or false, found the text 'yes'", "write true"),
        ("enabled: 0", 14, "expected true or false, found the number 0", None),
        ("state: runing", 12, "expected one of running, on_demand, found the text 'runing'", "did you mean `running`?"),
        ("aliases: gemma", 14, "expected a list, found the text 'gemma'", "write [gemma]"),
        ("aliases: [1.10]", 15, "expected text, found the number 1.10", 'put it in quotes: "1.10"'),
        ("labels: {a: true}", 17, "expected text, found the boolean true", 'put it in quotes: "true"'),
        (
            "labels: [a]",
            13,
            "expected a mapping, found a list",
            "write `name: value` under labels, without a list's dashes or brackets",
        ),
        (
            "environment: [A=b]",
            18,
            "expected a mapping, found a list",
            "write `NAME: value` for each variable, without dashes or `=`",
        ),
        ("start_timeout: soon", 20, "expected a duration such as 90s, 10m or 1h, found the text 'soon'", None),
        ("restart: {polcy: never}", 15, "unknown key `polcy`", "did you mean `policy`?"),
        ("restart: {policy: sometimes}", 23, None, None),
        ("probe: {interval: 0s}", 23, "expected greater than 0", None),
        ("stop: {grace: 99999999d}", 19, "a duration may be ten years (3650d) at most", None),
        ("executable: ''", 17, "expected text that is not empty, found the text ''", None),
        ("inherit_environment: maybe", 26, "expected true or false or a list, found the text 'maybe'", None),
        ("inherit_environment: [1]", 27, "expected text, found the number 1", 'put it in quotes: "1"'),
        ("port: 70000", 11, "expected a whole number from 1 to 65535, found the number 70000", None),
        ("model: m", 5, "unknown key `model`", "`model` is an option of the server: put it under backend_options"),
    ],
)
def test_a_wrong_value_is_told_at_the_value_and_an_unknown_key_at_the_key(
    setting: str, column: int, message: str | None, hint: str | None
) -> None:
    found = problems(one(more=setting))
    assert places(found) == [(5, column)]
    if message is not None:
        assert found[0].message == message
        assert found[0].hint == hint


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "", "a" * 64, "-a", "a b", "ä", "\u0430dmin", '"a\\n"'])
def test_a_name_that_could_not_be_a_folder_is_refused(name: str) -> None:
    found = problems(f"instances:\n  {name or chr(39) * 2}: {{backend_type: fake, backend_options: {{model: m}}}}\n")
    assert places(found) == [(2, 3)]
    assert found[0].code == "CONFIG_INVALID"


@pytest.mark.parametrize("name", ["a", "A1", "qwen2.5-7b_q4", "a" * 63, "0", "no"])
def test_a_name_within_the_rule_is_taken(name: str) -> None:
    quoted = f'"{name}"'
    assert list(
        fleet(f"instances:\n  {quoted}: {{backend_type: fake, backend_options: {{model: m}}}}\n").instances
    ) == [name]


def test_names_that_differ_by_case_only_are_refused_with_both_places() -> None:
    text = "defaults: {backend_type: fake, backend_options: {model: m}}\ninstances:\n  Tiny:\n  tiny:\n"
    found = problems(text)
    assert [(p.line, p.column, p.also) for p in found] == [(4, 3, (("f.yaml", 3, 3),))]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("instances: {}", 0),
        ("instances:", 0),
        ("server:\ninstances:", 0),
        ("server: {port: 1}", 0),
        (one(), 1),
        ("defaults: {backend_type: fake}\ninstances: {a: {backend_options: {model: m}}}", 1),
        ("defaults: {backend_type: fake, backend_options: {model: m}}\ninstances:\n  a:\n  b: {}", 2),
        (one(more="environment:\nlabels:\nrestart:"), 1),
    ],
)
def test_what_is_left_out_means_nothing_rather_than_an_error(text: str, count: int) -> None:
    assert len(fleet(text).instances) == count


def test_an_instance_without_a_backend_type_is_told_once() -> None:
    found = problems("instances:\n  a: {backend_options: {model: m}}\n")
    assert places(found) == [(2, 3)]
    assert found[0].hint == "one of fake, other"


def test_values_keep_their_three_states() -> None:
    options = (
        fleet(one(options='model: "", enable_log_requests: false, tensor_parallel_size: 0'))
        .instances["a"]
        .backend_options
    )
    assert options == {"model": "", "enable_log_requests": False, "tensor_parallel_size": 0}


def test_macros_are_allowed_anywhere_but_belong_to_the_server_inside_an_option() -> None:
    inner = one(options="model: m, x-opt: 1, overrides: {x-kept: 1}", more="x-more: 2")
    text = f"x-top: {{a: 1}}\nserver: {{x-note: 1}}\n{inner}  x-none:\n"
    instance = fleet(text).instances
    assert list(instance) == ["a"]
    assert instance["a"].backend_options == {"model": "m", "overrides": {"x-kept": 1}}


DEFAULTS = """\
defaults:
  backend_type: fake
  idle_timeout: 30m
  state: on_demand
  environment: {A: default, B: default, C: default}
  restart: {max_delay: 1m, initial_delay: 2s}
  aliases: []
  backend_options: {model: default, tensor-parallel-size: 2, gpu_memory_utilization: 0.5}
instances:
  plain:
  own:
    state: running
    idle_timeout: 5m
    environment: {B: own, C: null}
    restart: {initial_delay: 9s}
    backend_options: {tensor_parallel_size: 4}
"""


def test_defaults_go_below_each_instance_key_by_key() -> None:
    loaded = fleet(DEFAULTS)
    plain, own = loaded.instances["plain"], loaded.instances["own"]
    assert plain.environment == {"A": "default", "B": "default", "C": "default"}
    assert plain.idle_timeout == 1800
    assert own.environment == {"A": "default", "B": "own", "C": None}
    assert own.restart.max_delay == 60
    assert own.restart.initial_delay == 9
    assert own.state is InstanceState.RUNNING
    assert own.backend_options == {"model": "default", "gpu_memory_utilization": 0.5, "tensor_parallel_size": 4}


def test_a_wrong_default_is_told_once_and_in_defaults() -> None:
    text = "defaults: {backend_type: fake, backend_options: {model: m, nonsense: 1}}\ninstances:\n  a:\n  b:\n"
    found = problems(text)
    assert [(p.line, p.column, p.path) for p in found] == [(1, 60, "defaults.backend_options.nonsense")]


def test_the_hosts_that_the_server_allows_reach_the_backend() -> None:
    text = one(options="model: m, host: 10.0.0.1")
    assert places(problems(text)) == [(4, 39)]
    assert fleet("server: {allow_backend_hosts: [10.0.0.1]}\n" + text).instances


def test_warnings_do_not_stop_a_file_and_have_places() -> None:
    warnings = fleet(one(options="model: m, enable_log_requests: true")).warnings
    assert [(w.line, w.column, w.severity) for w in warnings] == [(4, 54, Severity.WARNING)]


def test_an_idle_timeout_without_on_demand_is_a_warning_at_its_key() -> None:
    assert places(fleet(one(more="idle_timeout: 5m")).warnings) == [(5, 5)]
    assert fleet(one(more="idle_timeout: 5m\nstate: on_demand")).warnings == ()
    assert places(fleet("defaults: {idle_timeout: 5m}\n" + one()).warnings) == [(1, 12)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("port: 9000\nreplicas: 2", "cannot be pinned for 2 replicas"),
        ("port: 8080", "this server itself"),
        ("backend_options: {model: m, port: 8080}", "this server itself"),
    ],
)
def test_a_port_that_cannot_be_had_is_refused(more: str, says: str) -> None:
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    options = "" if "backend_options" in more else "    backend_options: {model: m}\n"
    found = problems(f"instances:\n  a:\n    backend_type: fake\n{options}{lines}")
    assert len(found) == 1
    assert says in found[0].message


def test_a_port_pinned_twice_shows_both_places_however_it_was_pinned() -> None:
    text = one(more="port: 9000") + "  b: {backend_type: other, backend_options: {model: m, port: 9000}}\n"
    found = problems(text)
    assert [(p.line, p.also) for p in found] == [(6, (("f.yaml", 5, 11),))]


@pytest.mark.parametrize("value", ["9000-8000", "0-10", "8000-70000", "8000"])
def test_a_port_range_that_is_none_is_refused(value: str) -> None:
    found = problems(f'server: {{port_range: "{value}"}}\n{one()}')
    assert places(found) == [(1, 22)]


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        ("[b]", "name of another"),
        ("[a]", "its own name"),
        ("[g]", "given twice"),
        ("[h, h]", "given twice"),
        ("['']", "empty"),
    ],
)
def test_an_alias_means_one_instance(aliases: str, says: str) -> None:
    text = "defaults: {backend_type: fake, backend_options: {model: m}}\ninstances:\n"
    found = problems(f"{text}  b: {{aliases: [g]}}\n  a: {{aliases: {aliases}}}\n")
    assert len(found) == 1
    assert found[0].line == 4
    assert says in found[0].message


def test_comments_order_and_formatting_do_not_change_the_fleet() -> None:
    before = fleet(DEFAULTS)
    head, _, tail = DEFAULTS.partition("instances:\n")
    rearranged = "# new comment\ninstances:\n" + tail.replace("\n", "   # c\n") + "\n\n" + head.replace("{", "{  ")
    after = fleet(rearranged)
    assert after.content_hash != before.content_hash
    assert same_meaning(before, after)
    assert same_meaning(before, fleet(DEFAULTS.replace("\n", "\r\n")))
    assert not same_meaning(before, fleet(DEFAULTS.replace("9s", "8s")))


_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$\ufeff\ufffe\uffff"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), _text, max_size=6))
def test_any_text_survives_the_way_into_the_fleet(labels: dict[str, str]) -> None:
    from reconciler.config.document import snippet

    text = snippet("a", {"backend_type": "fake", "backend_options": {"model": "m"}, "labels": dict(labels)})
    assert fleet(text).instances["a"].labels == labels


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    try:
        fleet(data)
    except Rejected as refusal:
        assert all(problem.line is not None and problem.column is not None for problem in refusal.problems)  # noqa: PT017 - every one
