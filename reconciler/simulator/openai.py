"""OpenAI's shapes, both ways: what a request asks for, and the chunks and answers that go back.

Pure functions over JSON values; pace, transport and the differences between the servers are elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from typing import Any, Literal, TypeAlias

from reconciler.simulator.engine import Answer

Endpoint: TypeAlias = Literal["chat", "completion", "embedding", "transcription"]
Body: TypeAlias = Mapping[str, Any]

DEFAULT_MAX_TOKENS = 16
"""Tokens of an answer when the request does not say (OpenAI's default for completions)."""

EMBEDDING_SIZE = 8
"""Numbers in an embedding: small, since only its being deterministic matters."""

_MARK = "\u0001token\u0001"


class BadRequest(Exception):
    """The request cannot be answered: HTTP 400, with the offending field where one is known."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def decode(content_type: str, body: bytes, *, endpoint: Endpoint) -> dict[str, Any]:
    """The request as a mapping: a JSON object, or for transcriptions the fields of a form (files as bytes)."""
    if endpoint == "transcription":
        return _form(content_type, body)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"cannot read the body: it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("cannot read the body: it is not a JSON object")
    return value


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    if not content_type.lower().startswith("multipart/form-data"):
        raise BadRequest("cannot read the body: it is not multipart/form-data")
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    fields: dict[str, Any] = {}
    for part in message.get_payload() if message.is_multipart() else []:
        if isinstance(part, str):
            continue
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content if part.get_filename() else content.decode("utf-8", "replace")
    return fields


def model_of(body: Body) -> str | None:
    """The model that was asked for; None where there is none."""
    model = body.get("model")
    return model if isinstance(model, str) and model else None


def answer_for(body: Body, *, endpoint: Endpoint) -> Answer:
    """What a chat or completion request will get. Raises `BadRequest`."""
    texts = _chat_texts(body) if endpoint == "chat" else _prompt_texts(body)
    return Answer.repeating(texts[-1], prompt_tokens=sum(len(text.split()) for text in texts), limit=_limit(body))


def _chat_texts(body: Body) -> list[str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages: a list of at least one message is required", param="messages")
    texts = []
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("messages: each one must be an object", param="messages")
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
            content = " ".join(part for part in parts if isinstance(part, str))
        texts.append(content if isinstance(content, str) else "")
    return texts


def _prompt_texts(body: Body) -> list[str]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return prompt
        return [" ".join(str(item) for item in prompt)]
    raise BadRequest("prompt: a string or a list is required", param="prompt")


def _limit(body: Body) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadRequest(f"{name} must be a whole number of at least 1, got {value!r}", param=name)
        return value
    return DEFAULT_MAX_TOKENS


def wants_stream(body: Body) -> bool:
    """Whether the answer is to be a stream of events."""
    return body.get("stream") is True


def wants_usage(body: Body) -> bool:
    """Whether a stream ends with a chunk that carries the usage."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def usage(prompt: int, completion: int) -> dict[str, int]:
    """OpenAI's usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(payload: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """The frame that all parts of one answer share. `pad` goes into each part, under a key of its own."""

    identity: str
    created: int
    model: str
    endpoint: Endpoint
    pad: str

    def _part(self, kind: str, **rest: object) -> dict[str, object]:
        part: dict[str, object] = {"id": self.identity, "object": kind, "created": self.created, "model": self.model}
        part |= rest
        if self.pad:
            part["padding"] = self.pad
        return part

    def _chunk(self, *, delta: dict[str, str], text: str, finish: str | None) -> bytes:
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if self.endpoint == "chat":
            return event(self._part("chat.completion.chunk", choices=[choice | {"delta": delta}]))
        return event(self._part("text_completion", choices=[choice | {"text": text}]))

    def opening(self) -> bytes:
        """The chunk with the role; completions have none."""
        return self._chunk(delta={"role": "assistant", "content": ""}, text="", finish=None) if self.is_chat else b""

    @property
    def is_chat(self) -> bool:
        """Whether this answers a chat."""
        return self.endpoint == "chat"

    def around_tokens(self) -> tuple[bytes, bytes]:
        """The bytes before and after a token's JSON string in its chunk, so that a token costs no encoding of the rest."""
        head, _, tail = self._chunk(delta={"content": _MARK}, text=_MARK, finish=None).partition(
            json.dumps(_MARK).encode()
        )
        return head, tail

    def closing(self, reason: str) -> bytes:
        """The chunk with the finish reason."""
        return self._chunk(delta={}, text="", finish=reason)

    def usage_chunk(self, used: dict[str, int]) -> bytes:
        """The last chunk before the end, when usage was asked for."""
        return event(self._part("chat.completion.chunk" if self.is_chat else "text_completion", choices=[], usage=used))

    def whole(self, text: str, used: dict[str, int]) -> dict[str, object]:
        """The answer that is not streamed."""
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
            return self._part("chat.completion", choices=[choice], usage=used)
        return self._part("text_completion", choices=[choice | {"text": text}], usage=used)


def embeddings(body: Body, *, model: str) -> dict[str, object]:
    """The answer to an embeddings request: a unit vector per input, from the input's hash. Raises `BadRequest`."""
    given = body.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and all(isinstance(item, int) for item in given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise BadRequest("input: a string or a list is required", param="input")
    packed = body.get("encoding_format") == "base64"
    words = sum(len(item.split()) if isinstance(item, str) else len(item) for item in given if hasattr(item, "__len__"))
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else list(vector)}
        for index, vector in enumerate(_vectors(given))
    ]
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": words, "total_tokens": words}}


def _vectors(inputs: list[object]) -> Iterator[tuple[float, ...]]:
    for item in inputs:
        digest = hashlib.sha256(json.dumps(item).encode()).digest()
        raw = [byte - 127.5 for byte in digest[:EMBEDDING_SIZE]]
        length = math.sqrt(sum(value * value for value in raw))
        yield tuple(value / length for value in raw)


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def token_ids(text: str) -> list[int]:
    """One number per word, the same for the same word."""
    return [int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") for word in text.split()]
