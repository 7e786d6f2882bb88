"""The ``model`` of a JSON body: its value and the place where it stands, without decoding or touching anything else.

msgspec skips through the document at memory speed and gives the value (escapes decoded, a repeated key: the last one counts, as in
Python's, nlohmann's and every other common parser, so the backend sees the same). The place is found by searching for the key's
spelling; only when the name stands more than once, deeper inside, are brackets counted to tell the top level from the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from reconciler.proxy.refusals import Refusal

Buffer = bytes | bytearray


@dataclass(frozen=True, slots=True)
class ModelField:
    """Where a request names its model."""

    value: str
    spans: tuple[tuple[int, int], ...]
    """Start and end, in bytes, of what is replaced when the backend wants another name; empty when nothing can be."""
    as_json: bool
    """The spans hold a JSON string, quotes included; otherwise bare text."""

    def replacement(self, name: str) -> bytes:
        """The bytes that stand for ``name`` in these spans."""
        return json.dumps(name, ensure_ascii=False).encode() if self.as_json else name.encode()


class _OnlyModel(msgspec.Struct):
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # raw: an earlier one of another type does not count


_DECODER = msgspec.json.Decoder(_OnlyModel)
_TEXT = msgspec.json.Decoder(str)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+")
_ESCAPED_KEY = re.compile(rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"', re.ASCII)
_KEY = b'"model"'
LENIENT_BYTES = 4 * 1024 * 1024
"""Largest body read by the lenient parser; 57 MB of empty lists took 1.3 GB and stalled the daemon for 5 s, 4 MB take a fourteenth."""


def _malformed(why: str, *, line: int | None = None, column: int | None = None) -> Refusal:
    place = f" (line {line}, column {column})" if line is not None else ""
    return Refusal(400, f"the request body is not valid JSON{place}: {why}", code="invalid_json")


def _no_text() -> Refusal:
    return Refusal(400, "`model` holds what is not Unicode text", code="invalid_value", param="model")


def find_json_model(body: Buffer) -> ModelField | None:
    """The top-level ``model`` of a JSON object; None when it has none. Refusal 400 for anything that is not a JSON object."""
    value = _decode(body)
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and no name can have
        raise _no_text() from None
    return ModelField(value, (_last_top_level(body),), as_json=True)


def _decode(body: Buffer) -> str | None:
    try:
        found = _DECODER.decode(body).model
        return None if isinstance(found, msgspec.UnsetType) else _TEXT.decode(found)
    except msgspec.ValidationError as error:
        if "Expected `str`" in str(error):
            raise Refusal(400, "`model` must be a string", code="invalid_type", param="model") from None
        raise Refusal(400, "the request body must be a JSON object", code="invalid_json") from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise _no_text() from None
    except msgspec.DecodeError:
        return _decode_leniently(body)


def _decode_leniently(body: Buffer) -> str | None:
    """Python's parser, for what it accepts and msgspec does not: half surrogate pairs (emoji cut in two by a client) and NaN.

    Numbers are not converted, so that one of a million digits costs nothing. Large documents are refused instead: this parser
    makes an object of every value, tens of bytes for two of text, and holds the interpreter meanwhile.
    """
    if len(body) > LENIENT_BYTES:
        raise _malformed(
            f"it holds NaN, Infinity or half a surrogate pair, which is read up to {LENIENT_BYTES} bytes only"
        )
    try:
        document = json.loads(body.decode("utf-8", "surrogateescape"), parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise _malformed(error.msg, line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise Refusal(400, "the request body must be a JSON object", code="invalid_json")
    if "model" not in document:
        return None
    value = document["model"]
    if not isinstance(value, str) or body[_last_top_level(body)[0]] != ord('"'):
        raise Refusal(400, "`model` must be a string", code="invalid_type", param="model")
    return value


def _keys(body: Buffer) -> Iterator[tuple[int, int]]:
    """Start of the key and start of its value, for every key spelt ``model`` at any depth of a valid document.

    A quote that opens a key follows ``{``, ``,`` or white space; one inside a string follows a backslash. So the byte before
    tells them apart, and a colon after tells a key from a value.
    """
    if b"\\u006" in body:  # every letter of the name is U+006x
        starts: Iterator[int] = (match.start() for match in _ESCAPED_KEY.finditer(body))
    else:
        starts = _literal_keys(body)
    for start in starts:
        if start and body[start - 1] == 0x5C:  # a backslash
            continue
        string = _STRING.match(body, start)
        colon = _COLON.match(body, string.end()) if string else None
        if colon:
            yield start, colon.end()


def _literal_keys(body: Buffer) -> Iterator[int]:
    at = body.find(_KEY)
    while at >= 0:
        yield at
        at = body.find(_KEY, at + len(_KEY))


def _last_top_level(body: Buffer) -> tuple[int, int]:
    """Span of the value of the last top-level ``model``; the document is valid and has one."""
    candidates = list(_keys(body))
    chosen = candidates[0][1] if len(candidates) == 1 else _outermost(body, candidates)
    value = _STRING.match(body, chosen)
    return (chosen, value.end()) if value else (chosen, chosen)


def _outermost(body: Buffer, candidates: Sequence[tuple[int, int]]) -> int:
    """Value start of the last candidate at depth one, by counting brackets backwards from the end, strings left out."""
    depth = 0
    end = len(body)
    for key, value in reversed(candidates):
        between = _STRING.sub(b"", memoryview(body)[value:end])
        depth += between.count(b"}") + between.count(b"]") - between.count(b"{") - between.count(b"[")
        if depth == 1:
            return value
        end = key
    raise _malformed("`model` could not be located")  # not reached: the parser saw one at the top level


def splice(body: Buffer, spans: Sequence[tuple[int, int]], new: bytes) -> list[memoryview]:
    """The body with every span replaced, as parts that share its memory."""
    view = memoryview(body)
    parts: list[memoryview] = []
    at = 0
    for start, end in spans:
        parts += [view[at:start], memoryview(new)]
        at = end
    parts.append(view[at:])
    return [part for part in parts if part.nbytes]
