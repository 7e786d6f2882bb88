"""Edits of files in every layout that the strict reader takes: the right meaning, and not one byte beside the edit changed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from reconciler.config._tree import plain
from reconciler.config.document import parse, remove_instance, set_enabled, set_instance
from reconciler.core.errors import Rejected
from tests.config.layouts import Made, bracketed, files

Data = dict[str, JsonValue]
NEW: Data = {"backend_type": "vllm", "backend_options": {"model": "m", "list": ["a", 1]}}
plainly = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
deeply = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


def meaning(text: str) -> Data:
    """What the file says; the example is dropped when the strict reader does not take it."""
    try:
        document = parse(text.encode(), name="f")
    except Rejected:
        assume(False)
        raise
    assume(not document.problems)
    data = plain(document.root)
    assert isinstance(data, dict)
    return data


def instances(data: Data) -> Data:
    found = data.get("instances")
    return found if isinstance(found, dict) else {}


def strictly(data: JsonValue) -> str:
    """Text by which values can be compared without `1 == true`."""
    return json.dumps(data, sort_keys=True)


def expect(before: Data, after: str, name: str, value: JsonValue, *, gone: bool = False) -> None:
    """The file means what it did, with that one change."""
    wanted = {key: each for key, each in instances(before).items() if key != name}
    if not gone:
        wanted[name] = value
    document = parse(after.encode(), name="after")
    assert not document.problems
    assert strictly(plain(document.root)) == strictly({**before, "instances": wanted})


def is_insertion(before: str, after: str) -> int | None:
    """Where one piece was put in; None when that is not all that happened."""
    common = 0
    while common < len(before) and common < len(after) and before[common] == after[common]:
        common += 1
    for at in range(common, -1, -1):
        if after.endswith(before[at:]) and len(after) - len(before[at:]) >= at:
            return at
    return None


def shares(chunk: str, rest: str) -> bool:
    """Whether an anchor of one instance is used elsewhere, which has to change then."""
    return any(f"*{name}" in rest for name in re.findall(r"&(\w+)", chunk))


def unread(text: str) -> str:
    """A text less the comments and blank lines at its start."""
    return re.sub(r"\A(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n|\Z))+", "", text)


def check_new(made: Made) -> None:
    before = meaning(made.text)
    after = set_instance(made.text, "fresh", NEW)
    expect(before, after, "fresh", NEW)
    at = is_insertion(made.text, after)
    assert at is not None
    assert at >= len(made.mark + made.head + "".join(chunk for _, chunk in made.chunks).rstrip()) - 2
    assert set_instance(after, "fresh", NEW) == after
    if made.chunks:
        assert remove_instance(after, "fresh") == made.text


def check_removal(made: Made, name: str) -> None:
    before = meaning(made.text)
    after = remove_instance(made.text, name)
    expect(before, after, name, None, gone=True)
    start, end = made.around(name)
    if shares(dict(made.chunks)[name], end):
        return
    if len(made.chunks) > 1:
        assert after.startswith(start.rstrip("\r\n"))
    assert after.endswith(unread(end))


def check_switch(made: Made, name: str) -> None:
    before = meaning(made.text)
    found = instances(before)[name]
    old = {} if found is None else found
    assume(isinstance(old, dict))
    assert isinstance(old, dict)
    for enabled in (False, True):
        after = set_enabled(made.text, name, enabled)
        assert set_enabled(after, name, enabled) == after
        if after == made.text:
            defaults = before.get("defaults")
            below = defaults.get("enabled", True) if isinstance(defaults, dict) else True
            assert old.get("enabled", below) is enabled
            continue
        own = {key: value for key, value in old.items() if key != "enabled"}
        now = instances(meaning(after))[name]
        as_stopped = enabled and old.get("enabled") is False and not (isinstance(now, dict) and "enabled" in now)
        # a start takes out a line that looks as a stop writes it, where it goes without saying
        expect(before, after, name, own if as_stopped else {**old, "enabled": enabled})
        start, end = made.around(name)
        if shares(dict(made.chunks)[name], end):
            continue
        assert after.startswith(start)
        assert after.endswith(end)
        if old.get("enabled") is not None and "enabled : t" in dict(made.chunks)[name].replace("enabled:", "enabled :"):
            back = set_enabled(after, name, not enabled)
            assert back == made.text or (enabled is False and instances(meaning(back))[name] == own)
        elif "enabled" not in old and old:
            assert is_insertion(made.text, after) is not None or f"{name}: *" in re.sub("[\"']", "", made.text)


def mutate(old: Data, choose: Callable[[list[int]], int]) -> Data:
    """The body with one thing changed, somewhere."""
    body = copy.deepcopy(old)
    place: JsonValue = body
    while True:
        assert isinstance(place, (dict, list))
        inner = list(place.values()) if isinstance(place, dict) else place
        deeper = [index for index, each in enumerate(inner) if isinstance(each, (dict, list)) and each]
        down = choose([-1, *deeper])
        if down < 0:
            break
        place = inner[down]
    at = choose(list(range(len(place))))
    if isinstance(place, dict):
        key = list(place)[at]
        match choose([0, 1, 2, 3]):
            case 0 if len(place) > 1 and not key.startswith("x-"):
                del place[key]
            case 1:
                place["added"] = {"deep": [1, "two"]}
            case 2:
                place[key] = "changed: it"
            case _:
                place[key] = {"was": [place[key]]}
    else:
        match choose([0, 1, 2]):
            case 0 if len(place) > 1:
                del place[at]
            case 1:
                place.insert(at, "inserted")
            case _:
                place[at] = {"item": True}
    return body


def with_notes(old: JsonValue, new: JsonValue) -> JsonValue:
    """What is written, and the `x-*` keys that were there: they are the user's own, a new body does not know them."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    notes = {key: value for key, value in old.items() if key.startswith("x-")}
    return notes | {key: value if key in notes else with_notes(old.get(key), value) for key, value in new.items()}


def check_replacement(made: Made, name: str, body: Data) -> None:
    before = meaning(made.text)
    after = set_instance(made.text, name, body)
    expect(before, after, name, with_notes(instances(before)[name], body))
    assert set_instance(after, name, body) == after
    start, end = made.around(name)
    if not shares(dict(made.chunks)[name], end):
        assert after.startswith(start)
        assert after.endswith(end if made.text == after or end else "")


def check_any(made: Made, data: st.DataObject) -> None:
    """One edit of one instance."""
    before = meaning(made.text)
    if not made.chunks:
        check_new(made)
        return
    name = data.draw(st.sampled_from([name for name, _ in made.chunks]), label="name")
    match data.draw(st.integers(0, 5), label="kind"):
        case 0:
            check_new(made)
        case 1:
            check_removal(made, name)
        case 2:
            check_switch(made, name)
        case _:
            old = instances(before)[name]
            body = dict(NEW)
            if isinstance(old, dict) and old:
                body = mutate(old, lambda choices: data.draw(st.sampled_from(choices)))
            check_replacement(made, name, body)


@plainly
@given(files(), st.data())
def test_an_edit_changes_one_instance_and_no_byte_beside_it(made: Made, data: st.DataObject) -> None:
    check_any(made, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@deeply
@given(files(), st.data())
def test_an_edit_changes_one_instance_and_no_byte_beside_it_in_thousands_of_files(
    made: Made, data: st.DataObject
) -> None:
    check_any(made, data)


def check_bracketed(text: str, data: st.DataObject) -> None:
    before = meaning(text)
    known = instances(before)
    added = set_instance(text, "fresh", NEW)
    expect(before, added, "fresh", NEW)
    if known:
        assert remove_instance(added, "fresh") == text
    for name, old in known.items():
        expect(before, remove_instance(text, name), name, None, gone=True)
        off = set_enabled(text, name, False)
        expect(before, off, name, {**(old or {}), "enabled": False})  # type: ignore[dict-item]  # all are mappings
        assert set_enabled(off, name, False) == off
        body = (
            mutate(old, lambda choices: data.draw(st.sampled_from(choices))) if isinstance(old, dict) and old else NEW
        )
        expect(before, set_instance(text, name, body), name, with_notes(old, body))


@plainly
@given(bracketed(), st.data())
def test_instances_between_brackets_are_edited_there(text: str, data: st.DataObject) -> None:
    check_bracketed(text, data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@deeply
@given(bracketed(), st.data())
def test_instances_between_brackets_are_edited_there_in_thousands_of_files(text: str, data: st.DataObject) -> None:
    check_bracketed(text, data)
