"""Who may call what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.control.routes import Routes
from reconciler.proxy.auth import Area, Authorizer, credentials
from reconciler.proxy.refusals import Refusal
from tests.server.fakes import access_key, routes

BOTH = routes(management=[access_key("mgmt")], inference=[access_key("inf"), access_key("narrow", instances=["tiny"])])
MANAGEMENT_ONLY = routes(management=[access_key("mgmt")])
INFERENCE_ONLY = routes(inference=[access_key("inf")])
NONE = routes()


def judge(snapshot: Routes, area: Area, key: str | None, local: str | None = "local") -> int:
    offered = [key.encode("utf-8", "surrogateescape")] if key is not None else []
    try:
        Authorizer(local).judge(snapshot, area, offered)
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize(
    ("snapshot", "key", "inference", "management"),
    [
        (BOTH, "mgmt", 200, 200),
        (BOTH, "inf", 200, 403),
        (BOTH, "local", 200, 200),
        (BOTH, "nope", 401, 401),
        (BOTH, None, 401, 401),
        (MANAGEMENT_ONLY, "mgmt", 200, 200),
        (MANAGEMENT_ONLY, None, 401, 401),
        (INFERENCE_ONLY, "inf", 200, 403),
        (INFERENCE_ONLY, "local", 200, 200),
        (INFERENCE_ONLY, None, 401, 401),
        (NONE, None, 200, 200),
        (NONE, "anything", 200, 200),
    ],
)
def test_each_key_opens_what_it_is_for(snapshot: Routes, key: str | None, inference: int, management: int) -> None:
    assert judge(snapshot, Area.INFERENCE, key) == inference
    assert judge(snapshot, Area.MANAGEMENT, key) == management


@given(st.binary(max_size=200))
def test_no_bytes_in_a_key_are_ever_more_than_a_wrong_key(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    for offered in (credentials([f"Bearer {text}"], []), credentials([], [text]), credentials([text], [text])):
        with pytest.raises(Refusal) as refused:
            Authorizer().judge(BOTH, Area.INFERENCE, offered)
        assert refused.value.status == 401


def test_a_grant_names_the_instances_of_its_key_and_a_management_key_has_all() -> None:
    narrow = Authorizer().judge(BOTH, Area.INFERENCE, [b"narrow"])
    assert narrow.may_use("tiny")
    assert not narrow.may_use("other")
    assert Authorizer().judge(BOTH, Area.INFERENCE, [b"mgmt"]).may_use("other")


def test_keys_come_as_bearer_in_any_case_or_as_x_api_key_and_never_from_a_header_sent_twice() -> None:
    assert credentials(["bEaReR  k "], []) == [b"k"]
    assert credentials(["Basic abc"], ["k"]) == [b"k"]
    assert credentials(["Bearer a", "Bearer b"], []) == []
    assert credentials([], ["a", "b"]) == []
    assert credentials(["Bearer", "x"], [""]) == []
    assert credentials(["Bearer "], [" "]) == []
