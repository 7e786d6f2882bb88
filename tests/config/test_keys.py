"""Access keys become digests; a key file that others could read or write is refused; a key's text shows nowhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from reconciler.config._keys import _unsafe
from reconciler.config.load import load
from reconciler.config.source import read
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import Fleet
from tests.config.fakes import BACKENDS, fleet, one, places, problems

KEY = "sk-0123456789abcdefghijklmnop"


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_the_four_ways_to_give_a_key_give_the_same_digest(tmp_path: Path) -> None:
    keyfile = tmp_path / "key"
    keyfile.write_text(f"{KEY}\nanything below\n")
    keyfile.chmod(0o600)
    for source in (f"file: {keyfile}", "env: THE_KEY", f"sha256: {digest(KEY).hex().upper()}", f"value: {KEY}"):
        loaded = fleet(f"auth: {{management_keys: [{{{source}}}]}}\n" + one(), {"THE_KEY": KEY})
        (key,) = loaded.management_keys
        assert key.digest == digest(KEY)
        assert key.name == "management-1"
        assert KEY not in repr(loaded)


def test_an_inference_key_keeps_its_name_and_instances() -> None:
    text = f"auth: {{inference_keys: [{{name: alice, value: {KEY}, instances: [a]}}, {{value: {KEY}2}}]}}\n{one()}"
    alice, other = fleet(text).inference_keys
    assert (alice.name, alice.instances) == ("alice", frozenset({"a"}))
    assert (other.name, other.instances) == ("inference-2", None)


def _load_with_key_file(folder: Path, name: str = "key") -> Fleet:
    path = folder / "llamactl.yaml"
    path.write_text(f"auth:\n  management_keys:\n    - file: {name}\n{one()}")
    return load(read(path), backends=BACKENDS, environ={"HOME": str(folder)})


def _refusal(folder: Path, name: str = "key") -> Problem:
    with pytest.raises(Rejected) as refusal:
        _load_with_key_file(folder, name)
    (problem,) = refusal.value.problems
    assert (problem.line, problem.column) == (3, 13)
    assert problem.path == "auth.management_keys[0].file"
    assert KEY not in str(problem)
    return problem


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_key_file_beside_the_configuration_is_found(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(mode)
    assert _load_with_key_file(tmp_path).management_keys[0].digest == digest(KEY)
    assert _load_with_key_file(tmp_path, "~/key").management_keys[0].digest == digest(KEY)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o660])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(mode)
    assert _refusal(tmp_path).code == "KEYFILE_UNSAFE"


def test_a_key_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(KEY)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "key").symlink_to("real")
    assert _refusal(tmp_path).code == "KEYFILE_UNSAFE"


def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    facts = os.stat(tmp_path)
    foreign = os.stat_result((0o100600, *tuple(facts)[1:4], os.geteuid() + 4321, *tuple(facts)[5:10]))
    trouble = _unsafe(foreign)
    assert trouble is not None
    assert "another user" in trouble[0]


def test_a_key_file_of_root_is_taken(tmp_path: Path) -> None:
    facts = os.stat(tmp_path)
    assert _unsafe(os.stat_result((0o100440, *tuple(facts)[1:4], 0, *tuple(facts)[5:10]))) is None


@pytest.mark.parametrize("kind", ["fifo", "folder", "missing", "empty"])
def test_a_key_file_that_holds_no_key_is_refused_quickly(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir(0o700)
    elif kind == "empty":
        path.write_text("\n")
        path.chmod(0o600)
    _refusal(tmp_path)


@pytest.mark.parametrize(
    ("source", "column", "says"),
    [
        ("{}", 26, "exactly one of"),
        ("{name: x}", 26, "exactly one of"),
        (f"{{env: A, value: {KEY}}}", 26, "exactly one of"),
        ("{env: UNSET_KEY}", 32, "UNSET_KEY is not set"),
        ("{sha256: abc}", 35, "expected 64 hexadecimal digits"),
        ("{value: ''}", 34, "not empty"),
        ("{role: admin}", 27, "unknown key `role`"),
    ],
)
def test_a_key_that_is_none_is_told_at_its_place(source: str, column: int, says: str) -> None:
    found = problems(f"auth: {{management_keys: [{source}]}}\n{one()}")
    assert places(found) == [(1, column)]
    assert says in found[0].message


def test_the_same_key_twice_is_an_error_with_both_places() -> None:
    text = f"auth:\n  inference_keys:\n    - {{value: {KEY}}}\n    - {{sha256: {digest(KEY).hex()}}}\n{one()}"
    found = problems(text)
    assert [(p.line, p.also) for p in found] == [(4, (("f.yaml", 3, 7),))]


def test_a_key_for_an_instance_that_is_not_declared_is_an_error() -> None:
    found = problems(f"auth: {{inference_keys: [{{value: {KEY}, instances: [tiny, a]}}]}}\n{one('tinny')}")
    assert [p.path for p in found] == ["auth.inference_keys[0].instances[0]", "auth.inference_keys[0].instances[1]"]
    assert found[0].hint == "did you mean `tinny`?"


def test_a_short_plain_key_works_with_a_warning() -> None:
    loaded = fleet(f"auth: {{management_keys: [{{value: nineteen-characters}}]}}\n{one()}")
    assert loaded.management_keys[0].digest == digest("nineteen-characters")
    assert places(loaded.warnings) == [(1, 34)]
    assert "nineteen" not in f"{loaded.warnings[0]} {loaded.warnings[0].source}"
    assert fleet(f"auth: {{management_keys: [{{value: twenty--characters--}}]}}\n{one()}").warnings == ()
