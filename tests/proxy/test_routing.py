"""Names to instances, instances to replicas."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest

from reconciler.control.leases import Leases
from reconciler.core.desired import Mode
from reconciler.host.clock import SystemClock
from reconciler.proxy.auth import Area, Grant
from reconciler.proxy.models import model_list, one_model
from reconciler.proxy.refusals import Refusal
from reconciler.proxy.routing import Balancer, resolve
from tests.server.fakes import route, routes, target

ALL = Grant(area=Area.MANAGEMENT, name="")
SNAPSHOT = routes(
    route("tiny", target(1, model="org/real"), aliases=["org/alias", "tiny/special"]),
    route("tiny.v2", target(2)),
    route("other", target(3)),
)


@pytest.mark.parametrize(
    ("model", "instance", "served"),
    [
        ("tiny", "tiny", None),
        ("org/alias", "tiny", None),
        ("tiny/special", "tiny", None),
        ("tiny/org/real", "tiny", "org/real"),
        ("tiny/special/x", "tiny", "x"),
        ("tiny.v2/a", "tiny.v2", "a"),
    ],
)
def test_a_name_an_alias_or_the_longest_name_before_a_slash_is_understood(
    model: str, instance: str, served: str | None
) -> None:
    found = resolve(SNAPSHOT, model, ALL)
    assert (found.instance, found.served) == (instance, served)


@pytest.mark.parametrize("model", ["Tiny", "tiny/", "/tiny", "", "tin", "org", "x" * 100_000, "\x1b[31m\r\n"])
def test_another_name_is_404_with_openais_code(model: str) -> None:
    with pytest.raises(Refusal) as refused:
        resolve(SNAPSHOT, model, ALL)
    assert (refused.value.status, refused.value.code, refused.value.param) == (404, "model_not_found", "model")
    assert len(refused.value.message) < 400
    assert "\x1b" not in refused.value.message


def test_the_nearest_names_are_told_but_only_those_that_the_key_may_use() -> None:
    with pytest.raises(Refusal, match="did you mean tiny"):
        resolve(SNAPSHOT, "tinyy", ALL)
    with pytest.raises(Refusal) as refused:
        resolve(SNAPSHOT, "tinyy", Grant(area=Area.INFERENCE, name="a", instances=frozenset({"other"})))
    assert "tiny " not in refused.value.message


def test_a_key_without_the_instance_is_told_so_under_any_of_its_names() -> None:
    grant = Grant(area=Area.INFERENCE, name="a", instances=frozenset({"other"}))
    for model in ("tiny", "org/alias", "tiny/org/real"):
        with pytest.raises(Refusal) as refused:
            resolve(SNAPSHOT, model, grant)
        assert refused.value.status == 403
    assert resolve(SNAPSHOT, "other", grant).instance == "other"


def test_the_name_after_the_slash_must_be_what_the_backend_serves() -> None:
    balancer = Balancer(Leases(SystemClock()))
    tiny = SNAPSHOT.by_instance["tiny"]
    assert resolve(SNAPSHOT, "tiny/org/real", ALL).name_for(tiny.targets[0]) == "org/real"
    with pytest.raises(Refusal, match='serves "org/real"') as refused:
        balancer.choose(tiny, resolve(SNAPSHOT, "tiny/org/wrong", ALL))
    assert refused.value.status == 404
    free = SNAPSHOT.by_instance["other"].targets[0]
    assert resolve(SNAPSHOT, "other/lora", ALL).name_for(free) == "lora"
    assert resolve(SNAPSHOT, "other", ALL).name_for(free) is None


def test_while_an_instance_changes_its_model_each_name_goes_to_the_replica_that_serves_it() -> None:
    both = route("tiny", target(1, model="old"), target(2, model="new"))
    snapshot = routes(both)
    balancer = Balancer(Leases(SystemClock()))
    for model, port in (("tiny/old", 1), ("tiny/new", 2)):
        for _ in range(3):
            chosen = balancer.choose(both, resolve(snapshot, model, ALL))
            assert chosen is not None
            assert chosen.endpoint.port == port


def test_the_replica_with_the_fewest_requests_is_next_and_equals_take_turns() -> None:
    leases = Leases(SystemClock())
    balancer = Balancer(leases)
    three = route("tiny", target(1), target(2), target(3))
    resolved = resolve(routes(three), "tiny", ALL)

    def next_port() -> int:
        chosen = balancer.choose(three, resolved)
        assert chosen is not None
        return chosen.endpoint.port

    assert sorted(next_port() for _ in range(6)) == [1, 1, 2, 2, 3, 3]
    with leases.hold("tiny", "replica-1"), leases.hold("tiny", "replica-3"):
        assert {next_port() for _ in range(5)} == {2}
        with leases.hold("tiny", "replica-2"):
            assert {next_port() for _ in range(6)} == {1, 2, 3}
    assert balancer.choose(three, resolved, avoid={"replica-1", "replica-2", "replica-3"}) is None


def test_models_are_listed_with_aliases_for_the_key_and_without_those_switched_off() -> None:
    snapshot = routes(
        route("tiny", target(1), aliases=["gemma"]),
        route("cold", mode=Mode.ON_DEMAND),
        route("off", mode=Mode.DISABLED),
    )
    listed = model_list(snapshot, ALL)
    assert listed["object"] == "list"
    assert isinstance(listed["data"], list)
    assert [model["id"] for model in listed["data"]] == ["tiny", "cold", "gemma"]
    assert listed["data"][0] == {"id": "tiny", "object": "model", "created": 1_750_000_000, "owned_by": "llamactl"}
    grant = Grant(area=Area.INFERENCE, name="a", instances=frozenset({"cold"}))
    assert model_list(snapshot, grant)["data"] == [one_model(snapshot, grant, "cold")]
    with pytest.raises(Refusal):
        one_model(snapshot, grant, "tiny")


def test_a_name_of_a_million_slashes_costs_no_more_than_the_names_there_are() -> None:
    asked: list[str] = []

    class Counted(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.append(key[:10])
            return super().get(key, default)

    known = replace(SNAPSHOT, names=Counted(SNAPSHOT.names))
    for model in ("/" * 1_000_000, "a/" * 500_000, "tiny/" * 200_000):
        with contextlib.suppress(Refusal):
            resolve(known, model, ALL)
    assert len(asked) <= 3 * (len(SNAPSHOT.names) + 1)
