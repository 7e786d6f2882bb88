"""Servers that run on this host already: each becomes an instance with its command line, its folder and its servers' variables.

Nothing is stopped or touched. What llamactl itself started, the workers of a server, and what runs in a container are left out, and the
last two kinds are told only where that matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.config.importers._carry import VARIABLE, Ledger, body_of, names_no_server, understood
from reconciler.config.importers._words import Text, Unsayable, command_line, literal, literals
from reconciler.config.importers.contract import Draft, Imported, Understand, Unknown
from reconciler.core.errors import Rejected
from reconciler.core.options import ParsedCommand
from reconciler.core.spec import OptionValue
from reconciler.host import processes
from reconciler.host.processes import Details, Running

_MARK = "LLAMACTL_TOKEN"
"""What llamactl gives each backend's tree."""
_SUPERVISOR = re.compile(r"(?:^|[/\\])runtimes[/\\]_shim\.py$")
_SIMULATOR = re.compile(
    r"^(?:(?:.*/)?llamactl\nsimulate|-m\nreconciler(?:\nsimulate|\.simulator))\n(?P<server>[a-z_]+)$", re.MULTILINE
)
"""Words, one a line, that start llamactl's own simulator, and the server that it acts as."""
_THEIRS = re.compile(
    r"(?:HF|HUGGING_?FACE|TRANSFORMERS|SAFETENSORS|VLLM|LLAMA|GGML|MLX|CUDA|NVIDIA|NCCL|CUDNN|CUBLAS|HIP|ROCR|ROCM|HSA|AMD|GPU|METAL|SYCL"
    r"|ONEAPI|VK|TORCH|PYTORCH|TRITON|FLASHINFER|XFORMERS|TOKENIZERS|MODELSCOPE|RAY|GLOO|UCX|OMP|MKL|OPENBLAS|SAFETENSORS)_\w+"
    r"|MODEL|LD_LIBRARY_PATH|LD_PRELOAD|PYTHONPATH|(?:HTTPS?|NO|ALL)_PROXY"
)
"""Variables that servers and the libraries below them look at; the others are those of a login and llamactl has its own."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The importer of what runs."""

    kind: str = "processes"
    help: str = "servers that are running on this host already (no FILE)"
    needs_file: bool = False
    running: Callable[[], Sequence[Running]] = processes.running
    details: Callable[[Running], Details | None] = processes.details

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """In the order in which they were started."""
        del data, name, unknown
        return _Search(self.running(), self.details, understand).result()


@dataclass(slots=True)
class _Search:
    """One look at the host."""

    found: Sequence[Running]
    details: Callable[[Running], Details | None]
    understand: Understand
    ledger: Ledger = field(default_factory=Ledger)
    parents: Mapping[int, Running] = field(init=False)
    meant: dict[int, ParsedCommand | Rejected] = field(default_factory=dict)
    """By pid: the commands that are a server's, understood or refused."""

    def __post_init__(self) -> None:
        self.parents = {one.pid: one for one in self.found}

    def result(self) -> Imported:
        for one in self.found:
            if _simulates(one) is not None:
                self._simulator(one)
                continue
            meaning = self._meaning(one)
            if meaning is not None:
                self.meant[one.pid] = meaning
        drafts: list[Draft] = []
        for one in self.found:
            draft = self._draft(one, {each.name for each in drafts}) if one.pid in self.meant else None
            drafts += [] if draft is None else [draft]
        hidden = sum(one.argv is None for one in self.found)
        if hidden:
            why = f"{hidden} processes of other users may not be looked at: servers among them are not seen"
            self.ledger.add("processes of other users", why, "run it again as root, or as the user of the servers")
        return Imported(drafts=tuple(drafts), lost=tuple(self.ledger.lost))

    def _meaning(self, one: Running) -> ParsedCommand | Rejected | None:
        """What the command line means; None for anything but a server's."""
        if not one.argv or one.argv[0].startswith("-"):  # a login shell
            return None
        # a bare or relative name is a program here, never a model or a subcommand that stands alone
        program = one.argv[0] if one.argv[0].startswith("/") else f"./{one.argv[0]}"
        try:
            self.understand(command_line(literals((program, *one.argv[1:]))))
            return self.understand(command_line(literals(one.argv)))
        except Rejected as rejected:
            return None if names_no_server(rejected) else rejected

    def _above(self, one: Running) -> Sequence[Running]:
        chain: list[Running] = []
        at = one
        while at.parent is not None and at.parent in self.parents and self.parents[at.parent] not in chain:
            at = self.parents[at.parent]
            chain.append(at)
        return chain

    def _simulator(self, one: Running) -> None:
        """Told, because it may look as a server to whoever asks its port."""
        details = None if any(_simulates(each) for each in self._above(one)) else self.details(one)
        if details is not None and not self._is_ours(one, details):
            why = f"left out: it is llamactl's simulator of {_simulates(one)}, which has no model"
            self.ledger.add(f"pid {one.pid}", why, "declare an instance with backend_type: simulator in its place")

    def _is_ours(self, one: Running, details: Details) -> bool:
        below = any(_SUPERVISOR.search(word) for each in self._above(one) for word in each.argv or ())
        if below or _MARK in (details.environment or {}):
            self.ledger.add(f"pid {one.pid}", "left out: llamactl runs it already")
            return True
        return False

    def _draft(self, one: Running, taken: set[str]) -> Draft | None:
        above = self._above(one)
        if any(isinstance(self.meant.get(each.pid), ParsedCommand) for each in above):
            return None  # a worker of a server, or the server behind `uv run`
        details = self.details(one)
        if details is None:
            return None
        what = f"pid {one.pid}"
        if self._is_ours(one, details):
            return None
        meaning = self.meant[one.pid]
        if isinstance(meaning, Rejected):
            self._refused(one, meaning)
            return None
        if details.contained:
            cure = "import its compose file, or give its docker run line to llamactl parse"
            self.ledger.add(f"{what} {meaning.name}", "left out: it runs in a container", cure)
            return None
        name = meaning.name if meaning.name not in taken else f"{meaning.name}-{(*details.ports, one.pid)[0]}"
        return self._instance(one, name, details)

    def _refused(self, one: Running, rejected: Rejected) -> None:
        below = (each for each in self.found if one in self._above(each))
        if any(isinstance(self.meant.get(each.pid), ParsedCommand) for each in below):
            return  # sudo, a shell or a terminal around the server that is imported itself
        for problem in rejected.problems:
            self.ledger.add(f"pid {one.pid}", f"not carried over: {problem.message}", problem.hint)

    def _instance(self, one: Running, name: str, details: Details) -> Draft | None:
        what = f"pid {one.pid} {name}"
        ledger = Ledger()
        environment, others = self._environment(details, ledger, what)
        try:
            command = command_line(literals(one.argv or ()), environment)
        except Unsayable as problem:
            self.ledger.problem(what, problem)
            return None
        parsed = understood(command, what, ledger, self.understand)
        if parsed is None:
            self.ledger.lost += ledger.lost
            return None
        ledger.warnings(what, parsed)
        more: dict[str, OptionValue] = {}
        if details.files and details.directory is not None:
            more["working_directory"] = details.directory
        body = body_of(parsed, more, ledger, what)
        self._notes(one, details, others, what)
        self.ledger.lost += ledger.lost
        return Draft(name=name, body=body)

    def _environment(self, details: Details, ledger: Ledger, what: str) -> tuple[list[tuple[str, Text]], int]:
        """The variables that servers look at, secrets as references; how many others there are."""
        if details.environment is None:
            why = f"its environment may not be read: it belongs to {details.user or 'another user'}"
            ledger.add(what, why, "run it again as that user or as root, or write its variables under environment")
            return [], 0
        kept: list[tuple[str, Text]] = []
        others = 0
        for name, value in sorted(details.environment.items()):
            if not _THEIRS.fullmatch(name.upper()) or not VARIABLE.fullmatch(name) or not value.isprintable():
                others += 1
            elif not ledger.listening(name, f"{what} {name}"):
                kept.append((name, ledger.environment(name, literal(value), f"{what} {name}")))
        return kept, others

    def _notes(self, one: Running, details: Details, others: int, what: str) -> None:
        held = " and ".join(f"port {port}" for port in details.ports)
        why = f"it is still running{f' and holds {held}' if held else ''}, beside the instance that is made from it"
        cure = f"stop it before you apply (pid {one.pid})"
        if details.service is not None:
            cure += f", by its unit {details.service} if that is what runs it; `llamactl import systemd` reads units"
        self.ledger.add(what, why, cure)
        if details.directory is None:
            self.ledger.add(what, "its folder may not be read", "set working_directory if its paths are relative")
        if others:
            why = f"{others} variables of its environment that no server looks at are not carried over"
            self.ledger.add(what, why, "write those that matter under environment; llamactl's own are inherited")


def _simulates(one: Running) -> str | None:
    """The server that llamactl's simulator acts as in this process; None for any other process."""
    found = _SIMULATOR.search("\n".join(one.argv or ()))
    return None if found is None else found["server"]


IMPORTER = Processes()
