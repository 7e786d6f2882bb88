"""Editing the user's file: one instance changes, and every comment and every other byte stays."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from reconciler.config._tree import plain
from reconciler.config.document import (
    add_instances,
    declares,
    parse,
    remove_instance,
    set_enabled,
    set_instance,
    snippet,
)
from reconciler.core.errors import Missing, Rejected

FILE = """\
# fleet of the lab
server:   { host: 127.0.0.1,   port: 8080 }   # aligned by hand
defaults: {idle_timeout: 30m}

instances:
    # the first one
    a:   # comment at a
        backend_type: "vllm"      # quoted
        backend_options:   # options
            model:    'x y'   # model
            tp: 2
        aliases: [one,   two]

    # this speaks of b

    # and this of b alone
    b:
        backend_type: vllm
        backend_options:
            model: m
            # deep inside b
    # before c
    c: {backend_type: vllm, backend_options: {model: q}, replicas: 2}
# the end
x-tail: |
  text   that
    stays
"""
A: dict[str, JsonValue] = {
    "backend_type": "vllm",
    "backend_options": {"model": "x y", "tp": 2},
    "aliases": ["one", "two"],
}
NEW: dict[str, JsonValue] = {"backend_type": "vllm", "backend_options": {"model": "new"}}


def data(text: str) -> dict[str, JsonValue]:
    value = plain(parse(text.encode(), name="f").root)
    assert isinstance(value, dict)
    return value


def instances(text: str) -> dict[str, JsonValue]:
    value = data(text)["instances"]
    assert isinstance(value, dict)
    return value


def changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that went and lines that came, as a multiset difference in order."""
    old, new = before.splitlines(), after.splitlines()
    gone, came = list(old), list(new)
    for line in new:
        if line in gone:
            gone.remove(line)
    for line in old:
        if line in came:
            came.remove(line)
    return gone, came


def test_switching_off_adds_one_line_and_switching_on_changes_it() -> None:
    off = set_enabled(FILE, "a", False)
    assert changed(FILE, off) == ([], ["        enabled: false"])
    on = set_enabled(off, "a", True)
    assert on == FILE, "the line that a stop put in goes with it"
    for name in instances(FILE):
        assert set_enabled(set_enabled(FILE, name, False), name, True) == FILE
    for own in ("    backend_type: v\n    enabled: false\n", "    enabled: false  # broken\n    backend_type: v\n"):
        switched = set_enabled(f"instances:\n  a:\n{own}", "a", True)
        assert switched == f"instances:\n  a:\n{own.replace('false', 'true')}", "a line that the user wrote is changed"
    assert set_enabled(on, "a", True) == on
    assert set_enabled(FILE, "a", True) == FILE


def test_switching_on_against_defaults_says_so_in_the_instance() -> None:
    text = "defaults: {enabled: false}\ninstances:\n  a:\n    backend_type: v\n"
    assert instances(set_enabled(text, "a", True)) == {"a": {"enabled": True, "backend_type": "v"}}


def test_an_instance_in_flow_style_stays_on_its_line() -> None:
    gone, came = changed(FILE, set_enabled(FILE, "c", False))
    assert gone == ["    c: {backend_type: vllm, backend_options: {model: q}, replicas: 2}"]
    assert came == ["    c: {enabled: false, backend_type: vllm, backend_options: {model: q}, replicas: 2}"]


def test_setting_what_is_there_already_changes_no_byte() -> None:
    assert set_instance(FILE, "a", A) == FILE


def test_only_the_keys_that_differ_are_touched() -> None:
    body: dict[str, JsonValue] = {**A, "backend_options": {"model": "z: 1", "gpu": 0.5}, "replicas": 3}
    gone, came = changed(FILE, set_instance(FILE, "a", body))
    assert gone == ["            model:    'x y'   # model", "            tp: 2"]
    assert came == ["            model:    'z: 1'   # model", "            gpu: 0.5", "        replicas: 3"]


def test_a_new_instance_joins_after_the_others_in_the_files_own_indentation() -> None:
    gone, came = changed(FILE, set_instance(FILE, "new", NEW))
    assert gone == []
    assert came == ["    new:", "        backend_type: vllm", "        backend_options:", "            model: new"]
    assert list(instances(set_instance(FILE, "new", NEW))) == ["a", "b", "c", "new"]


def test_removing_takes_the_instance_and_the_comments_that_are_its_own() -> None:
    after = remove_instance(FILE, "b")
    assert "deep inside b" not in after
    assert "and this of b alone" not in after
    assert "this speaks of b" in after
    assert "before c" in after
    assert changed(FILE, after)[1] == []
    for name in ("a", "b", "c"):
        left = remove_instance(FILE, name)
        assert set(instances(left)) == {"a", "b", "c"} - {name}
        assert "x-tail: |\n  text   that\n    stays\n" in left


def test_removing_the_last_one_leaves_an_explicit_none() -> None:
    text = "instances:\n  a: {x: 1}  # gone\nserver: {port: 1}\n"
    assert data(remove_instance(text, "a")) == {"instances": {}, "server": {"port": 1}}


def test_line_ends_and_the_mark_stay_as_they_were() -> None:
    windows = "\ufeff" + FILE.replace("\n", "\r\n")
    after = set_instance(set_enabled(windows, "a", False), "new", NEW)
    assert after.startswith("\ufeff")
    assert after.count("\n") == after.count("\r\n")
    assert after.replace("\r\n", "\n").removeprefix("\ufeff") == set_instance(set_enabled(FILE, "a", False), "new", NEW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "server: {port: 1}\n",
        "server: {port: 1}",
        "instances:\n",
        "instances:   # none yet\n\nserver: {port: 1}\n",
        "instances: {}  # none\nserver: {port: 1}\n",
        "instances: ~\n",
        "instances: null",
        "instances: {b: {x: 1}}\n",
        "instances: {\n  b: {x: 1},\n}\n",
        "instances: {b: {x: 1}, c: }\n",
        '{"instances": {"b": {"x": 1}}}',
        '{"server": {"port": 1}}',
        "{}",
        "---\ninstances:\n  b:\n...\n",
        "instances:\n  b: &b {x: 1}\n  c: *b\n  d:\n    <<: *b\n    y: 2",
        "instances:\n  b:\n    extra_args:\n    - --x\n    - |\n      two\n      lines\n\n\nserver: {port: 1}\n",
        "instances:\n  b:\n    note: >-\n      folded\n      text\n",
        "? instances\n: b:\n    x: 1\n",
        '"instances":\n  "b":\n    x: 1\n',
    ],
)
def test_every_layout_can_be_added_to_changed_and_taken_from(text: str) -> None:
    before = data(text) if text.strip() and not text.startswith("#") else {}
    existing = before.get("instances") or {}
    assert isinstance(existing, dict)
    added = set_instance(text, "n", NEW)
    assert data(added) == {**before, "instances": {**existing, "n": NEW}}
    several = add_instances(text, {"n": NEW, "o": {"backend_type": "w"}})
    assert several == set_instance(added, "o", {"backend_type": "w"}), "several at once are one after the other"
    assert add_instances(text, {}) == text
    with pytest.raises(ValueError, match="there already"):
        add_instances(several, {"o": NEW})
    other = set_instance(added, "n", {"backend_type": "w", "labels": {"a": "yes", "b": "1.0"}})
    assert instances(other)["n"] == {"backend_type": "w", "labels": {"a": "yes", "b": "1.0"}}
    off = set_enabled(other, "n", False)
    assert instances(off)["n"] == {"backend_type": "w", "labels": {"a": "yes", "b": "1.0"}, "enabled": False}
    assert data(remove_instance(off, "n")) == {**before, "instances": existing}
    for name in existing:
        switched = instances(set_enabled(added, name, False))
        assert switched[name] == {**(existing[name] or {}), "enabled": False}  # type: ignore[dict-item]  # all are mappings
        assert {key: value for key, value in switched.items() if key != name} == {
            key: value for key, value in {**existing, "n": NEW}.items() if key != name
        }


def test_an_instance_by_merge_keeps_its_merge() -> None:
    text = "x-b: &b {t: v}\ninstances:\n  a:\n    <<: *b\n    r: 2\n"
    assert changed(text, set_enabled(text, "a", False)) == ([], ["    enabled: false"])


def test_the_users_own_notes_in_an_instance_survive_a_new_body() -> None:
    text = "instances:\n  a:\n    x-note: mine\n    backend_type: v\n"
    assert instances(set_instance(text, "a", NEW))["a"] == {"x-note": "mine", **NEW}


def test_variables_stay_as_they_were_written() -> None:
    text = 'instances:\n  a:\n    environment: {T: "${T}"}\n'
    assert '{T: "${T}"}' in set_enabled(text, "a", False)


def test_what_another_instance_refers_to_cannot_be_broken() -> None:
    text = "instances:\n  a: &a\n    x: 1\n  b: *a\n"
    after = remove_instance(text, "a")
    assert instances(after) == {"b": {"x": 1}}


def test_no_instance_can_be_a_note() -> None:
    with pytest.raises(Rejected, match="no instance can be called 'x-coder'"):
        set_instance(FILE, "x-coder", NEW)
    with pytest.raises(Rejected, match="notes"):
        add_instances(FILE, {"x-coder": NEW})


def test_an_unknown_instance_is_missing() -> None:
    with pytest.raises(Missing):
        remove_instance(FILE, "nobody")
    with pytest.raises(Missing):
        set_enabled(FILE, "nobody", True)
    assert declares(FILE, "a")
    assert not declares(FILE, "nobody")


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "instances: [a]\n", "- a\n", "a: !t x\n"])
def test_a_file_that_cannot_be_read_is_not_edited(text: str) -> None:
    with pytest.raises(Rejected):
        set_instance(text, "n", NEW)


_json: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff"), max_size=12)
    | st.sampled_from(
        ["yes", "no", "1.10", "2024-01-01", "null", "~", "", " x ", "a: b", "# c", "a\nb", "0x1F", "'", '"', "12:30"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=12,
)
_body = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), _json, max_size=5)


@settings(max_examples=60, deadline=None)
@given(_body, _body)
@example({}, {"_": "\xa0"})
def test_any_body_can_be_put_in_and_changed_into_any_other(
    first: dict[str, JsonValue], second: dict[str, JsonValue]
) -> None:
    text = set_instance(FILE, "n", first)
    assert instances(text)["n"] == first
    text = set_instance(text, "n", second)
    assert instances(text)["n"] == second
    assert remove_instance(text, "n") == FILE


@settings(max_examples=50, deadline=None)
@given(_body)
def test_a_snippet_means_what_it_was_made_from(body: dict[str, JsonValue]) -> None:
    assert data(snippet("some.name-1", body)) == {"instances": {"some.name-1": body}}


def test_a_snippet_cannot_be_misread_by_older_programs() -> None:
    assert snippet("a", {"x": "no", "y": "12:30"}) == 'instances:\n  a:\n    x: "no"\n    y: "12:30"\n'
