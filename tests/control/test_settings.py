"""What belongs to no single instance: settings of the server, keys, where it listens; and what live replicas are told of a change."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from reconciler.config import source
from reconciler.control.controller import PreconditionFailed
from reconciler.control.memory import Memory
from reconciler.core.contracts import Endpoint, Handle, Launch, Probe, ProcessState, ReplicaFacts
from reconciler.core.desired import Desired, Mode
from reconciler.core.errors import Conflict
from reconciler.core.spec import InstanceSpec
from tests.control.rooms import BACKENDS, Daemon, Room, declare
from tests.runtimes.fake import Script

FIRST, SECOND = (hashlib.sha256(word).hexdigest() for word in (b"one", b"two"))


def keyed(digest: str, rest: str = "") -> str:
    return f"auth: {{inference_keys: [{{name: ci, sha256: {digest}}}]}}\n{rest}" + declare(a={})


async def planned(daemon: Daemon, text: str) -> Any:
    return await daemon.controller.plan(text.encode())


async def test_a_plan_tells_of_keys_and_server_settings_and_shows_no_key(tmp_path: Path) -> None:
    room = Room(tmp_path, keyed(FIRST))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        same = await planned(daemon, keyed(FIRST))
        assert (same["pending"], same["changes"]) == (False, [])
        other = await planned(daemon, keyed(SECOND))
        assert other["pending"] is True
        (change,) = other["changes"]
        assert (change["instance"], change["scope"], change["kind"]) == (None, "auth", "policy")
        assert [field["path"] for field in change["fields"]] == ["inference_keys.ci"]
        assert SECOND not in json.dumps(other)
        assert FIRST not in json.dumps(other)
        third = await planned(daemon, keyed(hashlib.sha256(b"three").hexdigest()))
        assert len({one["fingerprint"] for one in (same, other, third)}) == 3, "another key is another plan"
        server = await planned(daemon, keyed(FIRST, "server: {orphan_ttl: 2h}\n"))
        (change,) = server["changes"]
        assert (change["scope"], change["cause"]) == ("server", "orphan_ttl 3600.0 -> 7200.0")
        assert server["steps"] == []


async def test_an_apply_names_the_settings_that_it_changed(tmp_path: Path) -> None:
    room = Room(tmp_path, keyed(FIRST))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        answer = await daemon.finished(daemon.controller.apply(keyed(SECOND).encode(), if_match=None))
        assert (answer["generation"], answer["changed"], answer["settings"]) == (2, [], ["auth"])


async def test_another_port_is_said_to_wait_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = Room(tmp_path, "server: {port: 8080}\n" + declare(a={}))
    async with room.daemon() as daemon:
        controller = daemon.controller
        controller._bound = ("127.0.0.1", 8080)
        await daemon.ready("a")
        assert controller._config_json()["problems"] == []
        text = "server: {port: 8081}\n" + declare(a={})
        plan: Any = await controller.plan(text.encode())
        assert [one["code"] for one in plan["warnings"]] == ["SERVER_ADDRESS_PENDING"]
        with caplog.at_level(logging.WARNING, logger="llamactl.control"):
            await daemon.save(text)
            await daemon.let_pass(10)
        said = [one.getMessage() for one in caplog.records if "8081" in one.getMessage()]
        assert len(said) == 1
        assert "started again" in said[0]
        config: Any = controller._config_json()
        assert [(one["code"], one["severity"], one["path"]) for one in config["problems"]] == [
            ("SERVER_ADDRESS_PENDING", "warning", "server.port")
        ]
        assert config["valid"] is True
        await daemon.save("server: {port: 8080}\n" + declare(a={}))
        assert controller._config_json()["problems"] == []


async def test_a_changed_stop_signal_reaches_what_runs_already(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}), scripts={"a": Script(obeys_stop_after=5.0)})
    async with room.daemon() as daemon:
        await daemon.ready("a")
        (one,) = daemon.runtime.living("a")
        await daemon.save(declare(a={"stop": "{signal: SIGINT}"}))
        await daemon.controller.loop.passed()
        assert daemon.serials("a") == [1], "it costs no replacement"
        await daemon.save(declare(a={"stop": "{signal: SIGINT}", "enabled": "false"}))
        await daemon.until(lambda: one.stop_since is not None, "it is asked to end")
        assert one.stop_signal == "SIGINT"
        await daemon.until(lambda: daemon.phase("a") == "stopped", "it ended")


async def test_a_changed_orphan_ttl_is_told_to_what_runs_once_and_after_adoption(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        (one,) = daemon.runtime.living("a")
        assert one.orphan_ttl == 3600.0
        await daemon.save("server: {orphan_ttl: 0s}\n" + declare(a={}))
        await daemon.until(lambda: one.orphan_ttl == 0.0, "it knows")
        one.orphan_ttl = 17.0
        await daemon.let_pass(12)
        assert one.orphan_ttl == 17.0, "told once"
    room.file.write_text("server: {orphan_ttl: 5m}\n" + declare(a={}))
    async with room.daemon() as daemon:
        await daemon.until(lambda: one.orphan_ttl == 300.0, "the next daemon tells it too")


async def test_an_apply_does_not_overwrite_a_save_of_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        _, etag = await daemon.controller.config()
        real, saved = daemon.parts.keeper.load, declare(a={}, mine={})

        async def load(content: source.Source) -> Any:
            checked = await real(content)
            room.file.write_text(saved)  # between the look at the ETag and the write
            return checked

        monkeypatch.setattr(daemon.parts.keeper, "load", load)
        with pytest.raises(Conflict) as caught:
            await daemon.controller.apply(declare(a={}, b={}).encode(), if_match=etag)
        assert not isinstance(caught.value, PreconditionFailed)
        assert room.file.read_text() == saved


def test_the_last_good_server_is_asked_its_own_question_after_its_backend_changed() -> None:
    spec = InstanceSpec(backend_type="outside", backend_options={"model": "m", "health": "/new"})
    good = Launch(argv=("tiny",), backend_type="tiny")
    new = Desired(
        name="a",
        spec=spec,
        mode=Mode.RUNNING,
        launch=Launch(argv=("new",), backend_type="outside"),
        revision="new",
        external=None,
        readiness=Probe(path="/new"),
        liveness=Probe(path="/new"),
        start_timeout=1.0,
    )
    handle = Handle(instance="a", serial=1, token="t")
    facts = ReplicaFacts(
        handle=handle,
        revision=good.revision(),
        state=ProcessState.RUNNING,
        endpoint=Endpoint(host="127.0.0.1", port=1),
    )
    memory = Memory()
    memory.learn(None, new, BACKENDS)
    asked = memory.questions_for(new, facts, good=good, backends=BACKENDS)
    assert (asked.backend, asked.readiness.path) == (BACKENDS["tiny"], "/health")
    assert memory.questions_for(new, None, good=good, backends=BACKENDS).readiness.path == "/new"


async def test_what_nobody_declares_any_more_ends_as_it_was_told_at_its_start(tmp_path: Path) -> None:
    stubborn = {"a": Script(obeys_stop_after=None)}
    room = Room(tmp_path, declare(a={"stop": "{signal: SIGINT, grace: 3s}"}, b={}), scripts=stubborn)
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
    room.file.write_text(declare(b={}))
    async with room.daemon() as daemon:
        (one,) = daemon.runtime.living("a")
        await daemon.until(lambda: daemon.phase("a") == "gone", "a is gone")
        assert one.stop_signal == "SIGINT"
        assert one.stop_since is not None
        assert one.kill_since is not None
        assert 3.0 <= one.kill_since - one.stop_since < 4.0, "not the 20s of the default"
