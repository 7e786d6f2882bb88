"""The model of a JSON body: found as a JSON parser finds it, replaced without touching another byte."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.proxy.body import LENIENT_BYTES, find_json_model, splice
from reconciler.proxy.refusals import Refusal


class Pairs(list[tuple[str, Any]]):
    """A JSON object with its members in order, repeated keys included."""


KEYS = st.sampled_from(
    ["model", "messages", "mod\\el", '"model"', 'x"model', "model\\", "Model", "", "a\u00e9"]
) | st.text(max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(['"model": "x"', "model", '\\"model\\":', "\\", "{", "]}"]),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(KEYS, inner), max_size=4).map(Pairs),
    max_leaves=12,
)


def written(value: object, draw: Any) -> str:
    """JSON text for a value, in one of its many spellings."""
    space: str = draw(st.sampled_from(["", " ", "\n\t", "  "]))
    if isinstance(value, Pairs):
        members = []
        for key, inner in value:
            name = json.dumps(key, ensure_ascii=draw(st.booleans()))
            if key == "model" and draw(st.booleans()):
                name = draw(
                    st.sampled_from(['"\\u006dodel"', '"mod\\u0065l"', '"\\u006D\\u006F\\u0064\\u0065\\u006C"'])
                )
            members.append(f"{space}{name}{space}:{space}{written(inner, draw)}")
        return "{" + ",".join(members) + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(space + written(inner, draw) for inner in value) + space + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def documents(draw: Any) -> bytes:
    members = Pairs(draw(st.lists(st.tuples(KEYS, VALUES), max_size=6)))
    for _ in range(draw(st.integers(0, 2))):
        members.insert(draw(st.integers(0, len(members))), ("model", draw(st.text(max_size=10))))
    text: str = draw(st.sampled_from(["", " ", "\r\n"])) + written(members, draw)
    return text.encode("utf-8", "surrogatepass")


@given(documents(), st.text(min_size=1, max_size=12))
def test_the_model_is_what_a_json_parser_reads_and_the_new_name_takes_its_place_alone(body: bytes, name: str) -> None:
    expected = json.loads(body.decode("utf-8", "surrogatepass"), object_pairs_hook=Pairs)
    value = dict(expected).get("model")
    if "model" in dict(expected) and not isinstance(value, str):
        with pytest.raises(Refusal) as refused:
            find_json_model(body)
        assert refused.value.status == 400
        return
    found = find_json_model(body)
    if "model" not in dict(expected):
        assert found is None
        return
    assert found is not None
    assert found.value == value
    name = name.encode("utf-8", "replace").decode()
    replaced = b"".join(splice(body, found.spans, found.replacement(name)))
    after = json.loads(replaced.decode("utf-8", "surrogatepass"), object_pairs_hook=Pairs)
    last = max(index for index, (key, _) in enumerate(expected) if key == "model")
    assert [member for index, member in enumerate(after) if index != last] == [
        member for index, member in enumerate(expected) if index != last
    ]
    assert after[last] == ("model", name)
    ((start, end),) = found.spans
    assert replaced[:start] == body[:start]
    assert replaced[len(replaced) - (len(body) - end) :] == body[end:]


def test_a_name_that_also_stands_deeper_is_replaced_at_the_top_only() -> None:
    body = b'{"metadata": {"model": "alias"}, "model": "alias", "tools": [{"model": "alias"}]}'
    found = find_json_model(body)
    assert found is not None
    assert b"".join(splice(body, found.spans, b'"sim"')) == (
        b'{"metadata": {"model": "alias"}, "model": "sim", "tools": [{"model": "alias"}]}'
    )


def test_half_an_emoji_and_nan_pass_as_they_pass_every_backend() -> None:
    body = b'{"messages": [{"content": "cut \\ud83d"}], "temperature": NaN, "model": "a"}'
    found = find_json_model(body)
    assert found is not None
    assert found.value == "a"
    assert b"".join(splice(body, found.spans, b'"b"')) == body.replace(b'"a"', b'"b"')


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{not json", "line 1, column 2"),
        (b'{"model": "a"', "line 1"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b'{"model": "a"} x', "line 1, column 16"),
        (b"", "JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"model"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model": 5}', "`model` must be a string"),
        (b'{"model": null}', "`model` must be a string"),
        (b'{"model": 5, "x": NaN}', "`model` must be a string"),
        (b'{"model": {"model": "a"}}', "`model` must be a string"),
        (b'{"model": "up/\\ud800"}', "not Unicode text"),
        (b'{"model": "up/\\ud800", "x": NaN}', "not Unicode text"),
        (b'{"model": "up/\xff"}', "not Unicode text"),
        (b'{"model": "up/\xff", "x": NaN}', "not Unicode text"),
        (b'{"model": "up/\xed\xa0\x80"}', "not Unicode text"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b'{"a":' + b"[" * 200_000, "nested too deeply"),
        ('{"model": "a"}'.encode("utf-16"), "JSON"),
    ],
)
def test_what_is_no_json_object_with_a_text_as_model_is_refused_with_its_place(body: bytes, says: str) -> None:
    with pytest.raises(Refusal) as refused:
        find_json_model(body)
    assert refused.value.status == 400
    assert says in refused.value.message


def test_a_big_body_is_neither_decoded_nor_copied() -> None:
    body = b'{"messages": [{"content": "' + b"y" * 30_000_000 + b'"}], "model": "alias", "n": 1}'
    tracemalloc.start()
    try:
        found = find_json_model(body)
        assert found is not None
        parts = splice(body, found.spans, b'"sim"')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert sum(part.nbytes for part in parts) == len(body) - 2


def test_many_nested_names_cost_time_in_proportion() -> None:
    body = b'{"model": "top", "x": [' + b",".join([b'{"model": "in"}'] * 200_000) + b"]}"
    found = find_json_model(body)
    assert found is not None
    assert found.value == "top"
    assert found.spans == ((10, 15),)


def test_a_large_document_is_not_given_to_the_lenient_parser() -> None:
    small = b'{"model": "tiny", "n": NaN}'
    found = find_json_model(small)
    assert found is not None
    assert found.value == "tiny"
    with pytest.raises(Refusal, match="NaN") as caught:
        find_json_model(b'{"model": "tiny", "n": NaN, "a": [' + b"[]," * (LENIENT_BYTES // 3) + b"[]]}")
    assert caught.value.status == 400
