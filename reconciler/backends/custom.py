"""Any other OpenAI-compatible server, by its whole command. Nothing is added to the command but the address in ``{host}`` and ``{port}``.

The random key that llamactl gives each backend is in ``LLAMACTL_BACKEND_KEY``; a program that wants to demand it can (every request
that llamactl passes on carries it as a bearer token), and one that does not look loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from reconciler.backends._base import DEFAULT_HOST, START_TIMEOUT, health_verdict, make_launch
from reconciler.backends._check import check_host, check_port, port_number, single_host
from reconciler.backends._parse import no_command
from reconciler.backends._plain import Untabled, check_keys, check_plain_text, text_option
from reconciler.backends._schema import HOST, NO_CONTROL, PORT
from reconciler.backends._values import ValueProblem, check_text, shown
from reconciler.core.contracts import Endpoint, Launch, OptionProblem, ParsedCommand, Probe, Verdict
from reconciler.core.spec import BackendsSpec, InstanceSpec

KEY_VARIABLE = "LLAMACTL_BACKEND_KEY"
DEFAULT_HEALTH_PATH = "/health"
_KEYS = ("command", "health_path", "model", "host", "port")
_EXAMPLE = "write command: [python, -m, my_server, --host, '{host}', --port, '{port}']"


class Custom(Untabled):
    """``backend_type: custom``."""

    kind = "custom"
    start_timeout = START_TIMEOUT
    parse_routes: tuple[str, ...] = ()

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        """JSON schema (2020-12) of ``backend_options``."""
        text = {"type": "string", "pattern": NO_CONTROL, "minLength": 1}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "backend_options of custom",
            "description": "Any OpenAI-compatible server, by its whole command.",
            "type": "object",
            "properties": {
                "command": {
                    "description": "Program and arguments; {host} and {port} are put in. No shell is involved.",
                    "type": "array",
                    "items": {"type": "string"},
                    "minItems": 1,
                },
                "health_path": _health_path("Path that answers 2xx once requests can be served."),
                "health-path": _health_path("The same as health_path."),
                "model": {"description": "Name the server wants in a request's model.", **text},
                "host": {"description": "Address for {host}; loopback unless the server section allows it.", **HOST},
                "port": {"description": "Pins the port.", **PORT},
            },
            "patternProperties": {"^x-": {}},
            "required": ["command"],
            "additionalProperties": False,
        }

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        """Everything wrong with the options; extra_args and executable have no meaning here."""
        return tuple(self._check(spec, allow_hosts))

    def _check(self, spec: InstanceSpec, allow_hosts: frozenset[str]) -> Iterator[OptionProblem]:
        options, problems = check_keys(spec, _KEYS, self.kind)
        yield from problems
        yield from _check_command(spec, options)
        if "health_path" in options:
            key, value = options["health_path"]
            yield from check_plain_text(key, value)
            if isinstance(value, str) and not value.startswith("/"):
                yield OptionProblem(
                    path=("backend_options", key), message=f"{key} must begin with a slash", hint=f"write /{value}"
                )
        if "model" in options:
            yield from check_plain_text(*options["model"])
        if "host" in options:
            key, value = options["host"]
            yield from check_host(("backend_options", key), value, allow_hosts=allow_hosts)
        if "port" in options:
            key, value = options["port"]
            yield from check_port(("backend_options", key), value, spec)
        if spec.extra_args:
            yield OptionProblem(path=("extra_args",), message="custom takes no extra_args", hint="add them to command")
        if spec.executable is not None:
            message = "custom takes no executable: the first word of command is the program"
            yield OptionProblem(path=("executable",), message=message, hint="remove it")

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        """The command as it stands, ``{host}`` and ``{port}`` still in it."""
        command = spec.backend_options.get("command")
        argv = tuple(word for word in command if isinstance(word, str)) if isinstance(command, list) else ()
        host = single_host(spec.backend_options.get("host"))
        return make_launch(
            argv, spec, backends, host=host or DEFAULT_HOST, port=port_number(spec.backend_options.get("port"))
        )

    def command(self, launch: Launch, *, host: str, port: int) -> tuple[str, ...]:
        """The command with the address put in; other braces stay as they are."""
        return tuple(word.replace("{host}", host).replace("{port}", str(port)) for word in launch.argv)

    def key_environment(self, api_key: str) -> Mapping[str, str]:
        """``LLAMACTL_BACKEND_KEY``; whether the program demands it is its own matter."""
        return {KEY_VARIABLE: api_key}

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        """None: it is started by us."""
        return None

    def served_model(self, spec: InstanceSpec) -> str | None:
        """The ``model`` option; without it the client's value stays."""
        return text_option(spec, "model")

    def readiness(self, spec: InstanceSpec) -> Probe:
        """GET ``health_path``."""
        return Probe(path=text_option(spec, "health_path") or DEFAULT_HEALTH_PATH)

    def liveness(self, spec: InstanceSpec) -> Probe:
        """GET ``health_path``."""
        return self.readiness(spec)

    def judge(self, status: int, body: bytes) -> Verdict:
        """A 2xx answer is ready."""
        return health_verdict(status)

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        """Always Rejected: an unknown server's flags cannot be read."""
        no_command(self.kind)


def _health_path(description: str) -> Mapping[str, object]:
    return {
        "description": description,
        "type": "string",
        "pattern": r"^/[^\u0000-\u001f\u007f-\u009f]*$(?!\n)|\$\{",
        "errorMessage": "expected a path that begins with a slash",
        "default": DEFAULT_HEALTH_PATH,
    }


def _check_command(spec: InstanceSpec, options: Mapping[str, tuple[str, JsonValue]]) -> Iterator[OptionProblem]:
    path = ("backend_options", "command")
    command = options["command"][1] if "command" in options else None
    if "command" not in options:
        yield OptionProblem(path=("backend_options",), message="a custom instance needs a command", hint=_EXAMPLE)
        return
    if not isinstance(command, list) or not command:
        yield OptionProblem(path=path, message=f"command takes a list of words, not {shown(command)}", hint=_EXAMPLE)
        return
    for at, word in enumerate(command):
        if not isinstance(word, str):
            hint = f'quote it: "{word}"' if isinstance(word, int | float) else None
            yield OptionProblem(path=(*path, at), message=f"a word of command is text, not {shown(word)}", hint=hint)
            continue
        try:
            check_text(word, multiline=True)
        except ValueProblem as problem:
            yield OptionProblem(path=(*path, at), message=f"this word {problem.message}", hint=problem.hint)
    words = [word for word in command if isinstance(word, str)]
    if command[0] == "":
        yield OptionProblem(path=(*path, 0), message="the program's name is empty", hint=_EXAMPLE)
    if not any("{port}" in word for word in words) and spec.port is None and "port" not in options:
        message = "the command does not say where the port goes"
        yield OptionProblem(
            path=path, message=message, hint="put '{port}' in it, or pin the port that it listens on with port:"
        )


BACKEND = Custom()
