"""What the backends with a vocabulary share: check, launch, command, schema and parse over one option table.

A concrete backend says its names, its readiness rule and what is its own; it adds no plumbing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

from pydantic import JsonValue

from reconciler.backends._check import (
    check_executable,
    check_extra,
    check_options,
    port_number,
    single_host,
    split_executable,
)
from reconciler.backends._flags import OPTIONS, Given, render, resolve
from reconciler.backends._parse import parse_command
from reconciler.backends._schema import options_schema
from reconciler.backends._values import ValueProblem
from reconciler.backends._vocabulary import Syntax, Vocabulary, from_table, load
from reconciler.backends._wrappers import Program
from reconciler.core.contracts import (
    Endpoint,
    Launch,
    OptionProblem,
    OptionSource,
    OptionTable,
    ParsedCommand,
    Probe,
    TableLookup,
    Verdict,
)
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import BackendsSpec, InstanceSpec

DEFAULT_HOST = "127.0.0.1"
START_TIMEOUT = 300.0
"""Seconds a start may take unless the instance says other; vLLM takes longer."""
OURS = frozenset({"host", "port"})
_RELATIVE = re.compile(r"\.{1,2}(?:/|$)")
"""What no name of a model on a hub looks like."""


def merged_environment(spec: InstanceSpec, backends: BackendsSpec) -> Mapping[str, str | None]:
    """Declared variables: the backends', then the instance's; None unsets."""
    return {**backends.environment, **spec.environment}


def make_launch(
    argv: tuple[str, ...],
    spec: InstanceSpec,
    backends: BackendsSpec,
    *,
    host: str = DEFAULT_HOST,
    port: int | None = None,
) -> Launch:
    """A launch with everything that does not depend on the backend."""
    return Launch(
        argv=argv,
        environment=merged_environment(spec, backends),
        inherit_environment=spec.inherit_environment,
        working_directory=spec.working_directory,
        host=host,
        port=spec.port if port is None else port,
        backend_type=spec.backend_type,
    )


def health_verdict(status: int) -> Verdict:
    """2xx is ready; anything else may still become so (a start that never does ends by its timeout)."""
    return Verdict.READY if 200 <= status < 300 else Verdict.LOADING


def executable_words(spec: InstanceSpec | None, default: str, place: str) -> tuple[str, ...]:
    """The program to run: the instance's own, else the backends' section's; Rejected names the one that cannot be split."""
    own = spec.executable if spec is not None else None
    text, path = (own, "executable") if own is not None else (default, place)
    try:
        return split_executable(text)
    except ValueProblem as problem:
        raise Rejected(Problem(message=problem.message, hint=problem.hint, path=path)) from None


class VocabularyBackend:
    """A backend whose options are a vocabulary. Subclasses set the class attributes and override what differs."""

    kind: str
    start_timeout: float = START_TIMEOUT
    parse_routes: tuple[str, ...] = ()
    program: Program
    key_variables: tuple[str, ...] = ()
    """Variables that make the server demand a key."""
    model_keys: tuple[str, ...] = ("model",)
    """Options that suggest a name for a parsed command, best first."""
    refused: Mapping[str, str] = {}
    """Options that an instance may not set, each with what to do instead."""

    def __init__(self, vocabulary: Vocabulary | None = None, lookup: TableLookup | None = None) -> None:
        self._vocabulary = vocabulary
        self._lookup = lookup

    @property
    def vocabulary(self) -> Vocabulary:
        """The options of no program in particular: those given, else the packaged ones, read when first needed."""
        return self._vocabulary if self._vocabulary is not None else load(self.kind)

    @property
    def option_source(self) -> OptionSource | None:
        """None: there is no installed program to be read."""
        return None

    def read_options(self, output: str) -> OptionTable:
        """Always Rejected, where there is no :attr:`option_source`."""
        raise Rejected(Problem(message=f"the options of {self.kind} cannot be read from a program"))

    def informed(self, lookup: TableLookup) -> Self:
        """The same backend, which prefers the tables that this lookup knows."""
        return type(self)(self._vocabulary, lookup)

    def executable(self, spec: InstanceSpec | None, backends: BackendsSpec) -> tuple[str, ...] | None:
        """The instance's own, else the ``backends`` section's; Rejected names the one that cannot be split."""
        return executable_words(spec, *self.default_executable(backends))

    def vocabulary_of(self, executable: tuple[str, ...] | None) -> Vocabulary:
        """The options of one program: those read from it, else :attr:`vocabulary`."""
        table = self._lookup(executable) if self._lookup is not None and executable is not None else None
        return from_table(table) if table is not None else self.vocabulary

    def usual_vocabulary(self, backends: BackendsSpec | None) -> Vocabulary:
        """The options of the program that runs where an instance names no other; None: of the one that has the plain name."""
        return self._vocabulary_for(None, backends)

    def _vocabulary_for(self, spec: InstanceSpec | None, backends: BackendsSpec | None) -> Vocabulary:
        try:
            return self.vocabulary_of(self.executable(spec, backends or BackendsSpec()))
        except Rejected:  # words that cannot be split are reported by check_executable, or by the check of that section
            return self.vocabulary

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        """JSON schema (2020-12) of ``backend_options``; with ``backends``, of the program that is installed where they say."""
        vocabulary = self.vocabulary if backends is None else self._vocabulary_for(None, backends)
        return options_schema(vocabulary, frozenset(self.refused))

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        """Everything wrong or doubtful with the instance's options, extra_args and executable."""
        vocabulary = self._vocabulary_for(spec, backends)
        environment = merged_environment(spec, backends or BackendsSpec())
        given, problems = check_options(vocabulary, spec, allow_hosts=allow_hosts, refused=self.refused)
        return (
            *problems,
            *self.own_rules(vocabulary, spec, given=given, environment=environment),
            *check_extra(vocabulary, spec, given, self.refused),
            *check_executable(spec),
        )

    def own_rules(
        self,
        vocabulary: Vocabulary,
        spec: InstanceSpec,
        *,
        given: Mapping[str, Given],
        environment: Mapping[str, str | None],
    ) -> Iterator[OptionProblem]:
        """Rules that are not data, over the declared variables of the process."""
        yield from ()

    def default_executable(self, backends: BackendsSpec) -> tuple[str, str]:
        """The executable of the ``backends`` section, and its path there."""
        raise NotImplementedError

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        """What to run for a checked instance; Rejected for an executable or a value that cannot be used."""
        executable = executable_words(spec, *self.default_executable(backends))
        vocabulary = self.vocabulary_of(executable)
        given, problems = resolve(vocabulary, spec.backend_options)
        try:
            if problems:
                raise ValueProblem(problems[0].message, hint=problems[0].hint)
            argv = (*executable, *self.arguments(vocabulary, executable, given), *spec.extra_args)
        except ValueProblem as problem:
            raise Rejected(Problem(message=problem.message, hint=problem.hint, path="backend_options")) from None
        host = single_host(given["host"].value) if "host" in given else None
        port = port_number(given["port"].value) if "port" in given else None
        return make_launch(argv, spec, backends, host=host or DEFAULT_HOST, port=port)

    def arguments(
        self, vocabulary: Vocabulary, executable: tuple[str, ...], given: Mapping[str, Given]
    ) -> tuple[str, ...]:
        """The words between executable and extra_args."""
        return render(vocabulary, given, leave=OURS)

    def command(self, launch: Launch, *, host: str, port: int) -> tuple[str, ...]:
        """The final argv: host and port come last, so that they win over anything before."""
        return (*launch.argv, "--host", host, "--port", str(port))

    def key_environment(self, api_key: str) -> Mapping[str, str]:
        """Variables that make the backend demand this key; empty when it knows no keys."""
        return dict.fromkeys(self.key_variables, api_key)

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        """None: it is started by us."""
        return None

    def served_model(self, spec: InstanceSpec) -> str | None:
        """None: the server takes any ``model``."""
        return None

    def option(self, spec: InstanceSpec, name: str) -> JsonValue:
        """One option's value under whatever spelling it was given; None when absent."""
        given, _ = resolve(self.vocabulary, spec.backend_options)
        return given[name].value if name in given else None

    def readiness(self, spec: InstanceSpec) -> Probe:
        """GET /health."""
        return Probe()

    def liveness(self, spec: InstanceSpec) -> Probe:
        """GET /health."""
        return Probe()

    def judge(self, status: int, body: bytes) -> Verdict:
        """A 2xx answer is ready."""
        return health_verdict(status)

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        """Understand a pasted command line; raises Rejected with line and column."""

        def vocabulary_of(words: tuple[str, ...] | None) -> tuple[Vocabulary, bool]:
            found = self.usual_vocabulary(backends) if words is None else self.vocabulary_of(words)
            return found, found is not self.vocabulary

        parsed = parse_command(
            command,
            kind=self.kind,
            vocabulary_of=vocabulary_of,
            program=self.program,
            key_variables=frozenset(self.key_variables),
            model_keys=self.model_keys,
            refused=self.refused,
        )
        return replace(parsed, doubts=tuple(self._doubts(parsed, backends)))

    def _doubts(self, parsed: ParsedCommand, backends: BackendsSpec | None) -> Iterator[str]:
        """What the instance as a whole would be refused for, and a model that is found in one folder only."""
        spec = InstanceSpec.model_construct(
            backend_type=self.kind,
            backend_options=dict(parsed.backend_options),
            environment=dict(parsed.environment),
            extra_args=parsed.extra_args,
            executable=parsed.executable,
        )
        vocabulary = self._vocabulary_for(spec, backends)
        given, _ = resolve(vocabulary, parsed.backend_options)
        environment = merged_environment(spec, backends or BackendsSpec())
        if not any("no model is named" in warning for warning in parsed.warnings):
            for problem in self.own_rules(vocabulary, spec, given=given, environment=environment):
                if not problem.warning and problem.path == (OPTIONS,):
                    yield f"1:1: no model is named: {problem.message}; {problem.hint}"
        model = given["model"].value if "model" in given else None
        whole = ("/", "~", "${") if vocabulary.syntax is Syntax.LLAMA else ()
        relative = isinstance(model, str) and (not model.startswith(whole) if whole else _RELATIVE.match(model))
        if relative and not any("working_directory" in warning for warning in parsed.warnings):
            looked = "it is looked up in the folder that llamactl was started in"
            yield f"1:1: the model's path is relative: {looked}; set working_directory, or give the whole path"
