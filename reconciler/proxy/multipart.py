"""The ``model`` field of a multipart form, found between the delimiters without touching the files beside it.

Servers disagree about a field that is sent twice (some take the first, some the last), so two different values are refused, and so is
a delimiter that some would read as data: what we route by is what the backend reads.
"""

from __future__ import annotations

import re

from reconciler.proxy.body import Buffer, ModelField
from reconciler.proxy.refusals import Refusal

MAX_PART_HEAD = 8 * 1024
"""Longest head of one part, bytes; real ones are under 300."""
MAX_PARTS = 1000
"""Most parts of one form; real ones have under 30, and a body full of tiny parts takes seconds to walk."""

_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition[ \t]*:[ \t]*form-data([^\r\n]*)", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z*]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')


def _bad(why: str) -> Refusal:
    return Refusal(400, f"the multipart form cannot be read: {why}", code="invalid_multipart")


def boundary_of(content_type: str) -> bytes:
    """The boundary that a ``multipart/form-data`` content type declares; Refusal 400 without one."""
    found = _BOUNDARY.search(content_type)
    if not found:
        raise _bad("its content type names no boundary")
    return (found[1] or found[2]).encode("utf-8", "surrogateescape")


def find_form_model(body: Buffer, content_type: str) -> ModelField | None:
    """The form's ``model`` field; None when it has none. Refusal 400 when the form or the field is ambiguous or broken."""
    values: set[bytes] = set()
    spans = []
    for start, end in _parts(body, boundary_of(content_type)):
        head_end = body.find(b"\r\n\r\n", start, min(end, start + MAX_PART_HEAD))
        if head_end < 0:
            raise _bad("a part has no end of its head")
        if _field_name(bytes(body[start:head_end])) == b"model":
            spans.append((head_end + 4, end))
            values.add(bytes(body[head_end + 4 : end]))
    if not spans:
        return None
    if len(values) > 1:
        raise _bad("it has several different `model` fields")
    try:
        return ModelField(values.pop().decode(), tuple(spans), as_json=False)
    except UnicodeDecodeError:
        raise _bad("`model` is not UTF-8") from None


def _parts(body: Buffer, boundary: bytes) -> list[tuple[int, int]]:
    """Start (after the delimiter line) and end (before the next delimiter's line break) of each part."""
    mark = b"--" + boundary
    if body.startswith(mark):
        at = len(mark)
    else:
        at = body.find(b"\r\n" + mark)
        if at < 0:
            raise _bad("the declared boundary does not occur in it")
        at += 2 + len(mark)
    parts: list[tuple[int, int]] = []
    while not body.startswith(b"--", at):
        if len(parts) == MAX_PARTS:
            raise _bad(f"it has more than {MAX_PARTS} parts")
        line_end = body.find(b"\r\n", at, at + 200)
        if line_end < 0 or body[at:line_end].strip(b" \t"):
            raise _bad("text follows a boundary on its line")
        following = body.find(b"\r\n" + mark, line_end)
        if following < 0:
            raise _bad("it has no closing boundary")
        # a part's head starts after the line break; an empty head's own line break is the delimiter's
        parts.append((min(line_end + 2, following), following))
        at = following + 2 + len(mark)
    return parts


def _field_name(head: bytes) -> bytes | None:
    """Name of a plain field; None for a file or for anything without a name."""
    found = _DISPOSITION.search(head)
    if not found:
        return None
    name: bytes | None = None
    for key, quoted, bare in _PARAMETER.findall(found[1]):
        lowered = key.lower()
        if lowered in (b"filename", b"filename*"):
            return None
        if lowered == b"name" and name is None:
            name = re.sub(rb"\\(.)", rb"\1", quoted) or bare
    return name
