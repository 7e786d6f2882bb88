"""A server that somebody else runs: an OpenAI-compatible URL that is only probed and routed to, never started.

The url may end in ``/v1`` or not. Its key comes from a variable of the daemon, or from a file that the daemon reads and hands in
(:func:`key_file` names it), because nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

from pydantic import JsonValue

from reconciler.backends._base import START_TIMEOUT
from reconciler.backends._parse import no_command
from reconciler.backends._plain import Untabled, check_keys, check_plain_text, option_value, text_option
from reconciler.backends._schema import NO_CONTROL
from reconciler.backends._values import ValueProblem, check_text, shown
from reconciler.core.contracts import Endpoint, Launch, OptionProblem, ParsedCommand, Probe, Verdict
from reconciler.core.spec import BackendsSpec, InstanceSpec

FILE_PREFIX = "file:"
"""``environ[FILE_PREFIX + path]`` holds the first line of a key file, put there by whoever may read files."""
_KEYS = ("url", "model", "api_key")
_EXAMPLE = "write url: https://host.example/v1"


class External(Untabled):
    """``backend_type: external``."""

    kind = "external"
    start_timeout = START_TIMEOUT
    parse_routes: tuple[str, ...] = ()

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        """JSON schema (2020-12) of ``backend_options``."""
        key = {
            "description": "Where the key for that server comes from: exactly one of env and file.",
            "type": "object",
            "properties": {
                "env": {"description": "Variable of the daemon that holds the key.", "type": "string", "minLength": 1},
                "file": {"description": "File whose first line is the key.", "type": "string", "minLength": 1},
            },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "backend_options of external",
            "description": "An OpenAI-compatible URL that is probed and routed to, never started.",
            "type": "object",
            "properties": {
                "url": {
                    "description": "Where it answers, with or without /v1.",
                    "type": "string",
                    "pattern": r"^https?://[^/?#\s][^?#\s]*$(?!\n)|\$\{",
                    "errorMessage": "expected an http or https url without a query",
                },
                "model": {
                    "description": "Name that server wants in a request's model.",
                    "type": "string",
                    "pattern": NO_CONTROL,
                    "minLength": 1,
                },
                "api_key": key,
                "api-key": key,
            },
            "patternProperties": {"^x-": {}},
            "required": ["url"],
            "additionalProperties": False,
        }

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        """Everything wrong with the options, and settings that only a started server has."""
        return tuple(self._check(spec))

    def _check(self, spec: InstanceSpec) -> Iterator[OptionProblem]:
        options, problems = check_keys(spec, _KEYS, self.kind)
        yield from problems
        if "url" in options:
            yield from _check_url(*options["url"])
        else:
            yield OptionProblem(path=("backend_options",), message="an external instance needs a url", hint=_EXAMPLE)
        if "model" in options:
            yield from check_plain_text(*options["model"])
        if "api_key" in options:
            yield from _check_key(*options["api_key"])
        started = {
            "executable": spec.executable is not None,
            "extra_args": bool(spec.extra_args),
            "port": spec.port is not None,
            "working_directory": spec.working_directory is not None,
        }
        for name, present in started.items():
            if present:
                message = f"{name} has no meaning for external, which is never started"
                yield OptionProblem(path=(name,), message=message, hint="remove it")

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        """None: it is never started."""
        return None

    def command(self, launch: Launch, *, host: str, port: int) -> tuple[str, ...]:
        """Nothing: there is no launch to make a command of."""
        return ()

    def key_environment(self, api_key: str) -> Mapping[str, str]:
        """Empty: it has its own keys."""
        return {}

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        """Where it answers. The key is ``environ[NAME]``, or for a file ``environ["file:" + path]``; absent means no key."""
        url = text_option(spec, "url")
        parts = _split(url) if url is not None else None
        if parts is None or parts.hostname is None:
            return None
        tls = parts.scheme == "https"
        return Endpoint(
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            base_path=parts.path.rstrip("/").removesuffix("/v1").rstrip("/"),
            tls=tls,
            api_key=_key(option_value(spec, "api_key"), environ),
            served_model=self.served_model(spec),
        )

    def served_model(self, spec: InstanceSpec) -> str | None:
        """The ``model`` option; without it the client's value stays."""
        return text_option(spec, "model")

    def readiness(self, spec: InstanceSpec) -> Probe:
        """GET /health, else /v1/models: the one route that every OpenAI-compatible server has."""
        return Probe(path="/health", otherwise="/v1/models")

    def liveness(self, spec: InstanceSpec) -> Probe:
        """The same question."""
        return self.readiness(spec)

    def judge(self, status: int, body: bytes) -> Verdict:
        """401 and 403 mean that our key is refused, which stays so; a server without the route (404, 405) or in a hurry
        (429) is there all the same; 5xx and the rest may pass."""
        if status in (401, 403):
            return Verdict.FAILED
        return Verdict.READY if 200 <= status < 300 or status in (404, 405, 429) else Verdict.LOADING

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        """Always Rejected: nothing is started here."""
        no_command(self.kind)


def key_file(spec: InstanceSpec) -> str | None:
    """The file that holds the key, for whoever may read files; None when there is none."""
    source = option_value(spec, "api_key")
    path = source.get("file") if isinstance(source, dict) else None
    return path if isinstance(path, str) else None


def _key(source: JsonValue, environ: Mapping[str, str]) -> str | None:
    if not isinstance(source, dict):
        return None
    name, path = source.get("env"), source.get("file")
    if isinstance(name, str):
        return environ.get(name) or None
    return environ.get(FILE_PREFIX + path) or None if isinstance(path, str) else None


def _split(url: str) -> SplitResult | None:
    """The parts of a usable url; None when it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _check_url(key: str, value: JsonValue) -> Iterator[OptionProblem]:
    path = ("backend_options", key)
    if not isinstance(value, str):
        yield OptionProblem(path=path, message=f"url takes text, not {shown(value)}", hint=_EXAMPLE)
        return
    try:
        check_text(value)
    except ValueProblem as problem:
        yield OptionProblem(path=path, message=f"url {problem.message}", hint=problem.hint)
        return
    parts = _split(value) if " " not in value else None
    if parts is None:
        yield OptionProblem(path=path, message="this is not an http or https url", hint=_EXAMPLE)
    elif parts.username is not None or parts.password is not None:
        yield OptionProblem(path=path, message="the url holds a password", hint="use api_key: {env: NAME} in its place")
    elif parts.query or parts.fragment:
        yield OptionProblem(path=path, message="the url ends in a query or a fragment", hint="leave it out")


def _check_key(key: str, value: JsonValue) -> Iterator[OptionProblem]:
    path = ("backend_options", key)
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"env", "file"}:
        message = "api_key takes exactly one of env and file; the key itself does not belong here"
        yield OptionProblem(path=path, message=message, hint="write api_key: {env: NAME} or api_key: {file: PATH}")
        return
    for name, text in value.items():
        if not isinstance(text, str) or not text:
            yield OptionProblem(path=(*path, name), message=f"{name} takes text, not {shown(text)}")


BACKEND = External()
