"""The model field of a form: found beside files of any content, replaced alone, refused where servers would disagree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.proxy.body import splice
from reconciler.proxy.multipart import MAX_PARTS, find_form_model
from reconciler.proxy.refusals import Refusal

TYPE = "multipart/form-data; boundary=BOUNDARY"


def form(*parts: bytes, preamble: bytes = b"", end: bytes = b"--BOUNDARY--\r\n") -> bytes:
    return preamble + b"".join(b"--BOUNDARY\r\n" + part + b"\r\n" for part in parts) + end


def field(name: str, value: bytes, extra: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value


AUDIO = field("file", b"\x00\xff model \r\n--BOUNDAR\r\n\r\n", '; filename="model.wav"\r\nContent-Type: audio/wav')


@given(
    st.binary(max_size=300).filter(lambda data: b"--BOUNDARY" not in data), st.text("abc/-.", min_size=1), st.booleans()
)
def test_the_field_is_found_and_replaced_whatever_the_file_holds(data: bytes, name: str, first: bool) -> None:
    file = field("file", data, '; filename="model"\r\nContent-Type: audio/wav')
    model = field("model", b"alias")
    body = form(*((model, file) if first else (file, model)), preamble=b"" if first else b"ignored\r\n")
    found = find_form_model(body, TYPE)
    assert found is not None
    assert found.value == "alias"
    replaced = b"".join(splice(body, found.spans, found.replacement(name)))
    assert replaced == body.replace(model, field("model", name.encode()))


@pytest.mark.parametrize(
    "declared",
    [
        'multipart/form-data; boundary="BOUNDARY"',
        "Multipart/Form-Data; charset=utf-8; Boundary=BOUNDARY",
        "multipart/form-data;boundary=BOUNDARY;x=y",
    ],
)
def test_the_boundary_may_be_declared_in_any_spelling(declared: str) -> None:
    found = find_form_model(form(AUDIO, field("model", b"whisper")), declared)
    assert found is not None
    assert found.value == "whisper"


@pytest.mark.parametrize(
    "head",
    [
        b"content-disposition:form-data;name=model",
        b'X: y\r\nContent-Disposition: form-data; name="model"',
        b'Content-Disposition: form-data; name="mod\\el"',
    ],
)
def test_the_field_may_be_named_in_any_spelling(head: bytes) -> None:
    found = find_form_model(form(head + b"\r\n\r\nwhisper"), TYPE)
    assert found is not None
    assert found.value == "whisper"


def test_a_file_that_is_called_model_is_no_field() -> None:
    assert find_form_model(form(field("model", b"weights", '; filename="x.bin"')), TYPE) is None


def test_a_field_sent_twice_with_one_value_is_replaced_twice() -> None:
    body = form(field("model", b"a"), AUDIO, field("model", b"a"))
    found = find_form_model(body, TYPE)
    assert found is not None
    assert b"".join(splice(body, found.spans, b"tiny")) == form(field("model", b"tiny"), AUDIO, field("model", b"tiny"))


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        (form(field("model", b"a"), field("model", b"b")), TYPE),
        (form(field("model", b"\xff")), TYPE),
        (form(AUDIO), "multipart/form-data"),
        (form(AUDIO), "multipart/form-data; boundary=OTHER"),
        (form(AUDIO, end=b""), TYPE),
        (b"--BOUNDARYX\r\n" + field("model", b"a") + b"\r\n--BOUNDARY--", TYPE),
        (form(b"no head at all"), TYPE),
        (b"", TYPE),
        (b"--BOUNDARY", TYPE),
        (b"--BOUNDARY\r\n", TYPE),
    ],
)
def test_a_form_that_servers_would_read_differently_is_refused(body: bytes, declared: str) -> None:
    with pytest.raises(Refusal) as refused:
        find_form_model(body, declared)
    assert refused.value.status == 400


def test_a_form_of_very_many_parts_is_refused_as_such() -> None:
    most = [field("x", b"") for _ in range(MAX_PARTS - 1)]
    found = find_form_model(form(*most, field("model", b"a")), TYPE)
    assert found is not None
    assert found.value == "a"
    with pytest.raises(Refusal, match="more than 1000 parts"):
        find_form_model(form(*most, field("model", b"a"), AUDIO), TYPE)
