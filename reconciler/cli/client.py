"""HTTP to a daemon with the standard library alone: it starts fast, streams, and turns each way of failing into a message with a cure."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, Unpack
from urllib.parse import quote, urlencode, urlsplit

from reconciler.cli.answers import Json, Node, decode
from reconciler.cli.failure import Code, Failure, Garbled, KeyRefused, Unreachable

ANSWER_TIMEOUT_S = 30.0
"""Longest silence of a daemon that has been asked something, seconds; it answers from memory, in milliseconds."""
LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that are read; a status of a thousand instances is about 2 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A daemon and how it was found."""

    url: str
    """Base, without a trailing slash."""
    key: str = field(default="", repr=False)
    cure: str = "check --server and LLAMACTL_SERVER"
    """What to try when it does not answer."""
    local: bool = False
    """Found through its state folder, on this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Sent(TypedDict, total=False):
    """What may go with a question."""

    query: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str]


class Client:
    """Questions to one daemon; each uses a connection of its own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        parts = _split(target.url)
        self._host, self._port, self._prefix, self._tls = parts

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Node:
        """GET of a JSON object."""
        return self.ask("GET", path, query=query or {})

    def ask(self, method: str, path: str, **sent: Unpack[Sent]) -> Node:
        """The JSON object that a successful answer holds; raises Failure for everything else."""
        answer = self.fetch(method, path, **sent)
        try:
            return Node(decode(answer.body))
        except ValueError:
            raise Garbled(
                f"cannot understand {self.target.url}: its answer is not JSON; "
                f"is that a llamactl daemon? {self.target.cure}"
            ) from None

    def fetch(self, method: str, path: str, **sent: Unpack[Sent]) -> Answer:
        """A successful answer, whole."""
        with self.stream(method, path, patience=ANSWER_TIMEOUT_S, silence=ANSWER_TIMEOUT_S, **sent) as response:
            return _whole(response)

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        patience: float = ANSWER_TIMEOUT_S,
        silence: float | None = None,
        **sent: Unpack[Sent],
    ) -> Iterator[http.client.HTTPResponse]:
        """A successful answer while it comes; ``patience`` until its head, ``silence`` between its pieces, in seconds (None: no limit)."""
        connection = self._connection()
        known = {"Accept": "application/json", "User-Agent": "llamactl", **sent.get("headers", {})}
        if self.target.key:
            known["Authorization"] = f"Bearer {self.target.key}"
        target = self._prefix + _with_query(path, sent.get("query"))
        try:
            with self._named_failures():
                connection.connect()
                wire = connection.sock  # http.client lets go of it once the head of a last answer is there
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                wire.settimeout(patience)
                connection.request(method, target, body=sent.get("body"), headers=known)
                response = connection.getresponse()
                if not 200 <= response.status < 300:
                    answer = _whole(response)
                    raise refusal(answer, self.target)
                wire.settimeout(silence)
            yield response
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=ANSWER_TIMEOUT_S, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_TIMEOUT_S)

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        """For the time until the head of the answer; readers of a body use :func:`reading`."""
        try:
            yield
        except TimeoutError:
            raise Unreachable(
                f"cannot reach the daemon at {self.target.url}: no answer in time; {self.target.cure}"
            ) from None
        except ssl.SSLError as error:
            raise Unreachable(
                f"cannot reach the daemon at {self.target.url}: TLS failed ({error.reason or error}); "
                "try http:// if it has no TLS, or SSL_CERT_FILE for a certificate of your own"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"cannot reach the daemon at {self.target.url}: {_reason(error)}; {self.target.cure}"
            ) from None


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Name what breaks while a body is read. Write nothing to stdout inside: a reader that left is another matter."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the connection broke in the middle of {what}: {_reason(error)}") from None
    except (AttributeError, ValueError):  # http.client reads on after the peer closed a chunked body, CPython gh-127259
        raise Unreachable(f"the connection broke in the middle of {what}") from None


def _whole(response: http.client.HTTPResponse) -> Answer:
    with reading("the answer"):
        body = response.read(LARGEST_ANSWER + 1)
        if len(body) <= LARGEST_ANSWER and response.length:  # it ended before its declared length
            raise http.client.IncompleteRead(body, response.length)
    if len(body) > LARGEST_ANSWER:
        raise Garbled(f"cannot use the answer: it is longer than {LARGEST_ANSWER} bytes")
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(status=response.status, headers=headers, body=body)


def _split(url: str) -> tuple[str, int | None, str, bool]:
    """Host, port, path prefix, TLS; a usage failure for what is not such a URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Failure(f"cannot use the URL {url!r}: {error}; write it as http://HOST:PORT", Code.USAGE) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure(f"cannot use {url!r} as a daemon's URL; write it as http://HOST:PORT", Code.USAGE)
    if parts.username is not None or parts.query or parts.fragment:
        raise Failure(
            f"cannot use the URL of {parts.hostname}: it holds more than host, port and path; "
            "a key belongs in LLAMACTL_MANAGEMENT_KEY",
            Code.USAGE,
        )
    if any(character <= " " or character > "~" for character in url):
        raise Failure(f"cannot use the URL {url!r}: it holds characters that no URL has", Code.USAGE)
    return parts.hostname, port, parts.path.rstrip("/"), parts.scheme == "https"


def _with_query(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def instance_path(name: str, rest: str = "") -> str:
    """The route of one instance, whatever the name holds."""
    return f"/api/v1/instances/{quote(name, safe='')}{rest}"


def _reason(error: BaseException) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "it ended too early"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it hung up without an answer"
    if isinstance(error, (http.client.BadStatusLine, http.client.UnknownProtocol)):
        return "what answers there does not speak HTTP"
    if isinstance(error, http.client.HTTPException):
        return f"its answer is not HTTP as it should be ({type(error).__name__})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


class Declined(Failure):
    """The daemon answered with a failure; ``status`` and the parsed problem are kept for callers that know better."""

    def __init__(self, message: str, code: Code, *, status: int) -> None:
        super().__init__(message, code)
        self.status = status


class Invalid(Declined):
    """422: what was sent is invalid; ``problems`` as the daemon listed them."""

    def __init__(self, message: str, problems: tuple[Node, ...]) -> None:
        super().__init__(message, Code.INVALID, status=422)
        self.problems = problems


def refusal(answer: Answer, target: Target) -> Failure:
    """The failure that an unsuccessful answer stands for."""
    problem = _problem(answer.body)
    detail = _detail(problem)
    if answer.status in (401, 403):
        said = f" ({detail})" if detail else ""
        cure = "set LLAMACTL_MANAGEMENT_KEY to one of the management keys"
        return KeyRefused(f"the daemon at {target.url} refused the key{said}; {cure}")
    if answer.status == 422 and problem is not None:
        return Invalid(detail or "the file is invalid", tuple(problem.nodes("problems")))
    if problem is None and answer.status in (502, 503, 504):
        return Unreachable(f"cannot reach the daemon: what stands before it at {target.url} says {answer.status}")
    if problem is None:
        return Garbled(
            f"cannot understand {target.url}: it answered {answer.status} without saying why; "
            f"is that a llamactl daemon? {target.cure}"
        )
    return Declined(detail or f"the daemon answered {answer.status}", Code.FAILED, status=answer.status)


def _problem(body: bytes) -> Node | None:
    """The problem document (ours or OpenAI's) of a failure; None for anything else."""
    try:
        value: Json = decode(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, dict):
        return Node(inner)
    return Node(value) if {"title", "detail", "type"} & value.keys() else None


def _detail(problem: Node | None) -> str:
    if problem is None:
        return ""
    for key in ("detail", "message", "title"):
        value = problem.raw.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def json_body(value: object) -> bytes:
    """A request body."""
    return json.dumps(value).encode()
