"""``docker run`` in a pasted command: its words up to the image become the executable, changed only as llamactl needs it.

Ports are assigned by llamactl and keys travel through the environment, so the container must share the host's network and the
variables must be passed by name. What is changed or left out is said in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from reconciler.backends._hide import at_word, flag_named
from reconciler.backends._tokens import Word, refuse

_SWITCHES = frozenset(
    {
        *("-d", "--detach", "-i", "--interactive", "-t", "--tty", "-P", "--publish-all", "-q", "--quiet"),
        *("--rm", "--rmi", "--init", "--privileged", "--read-only", "--no-healthcheck", "--oom-kill-disable"),
        *("--disable-content-trust", "--sig-proxy", "--tls-verify", "--replace"),
    }
)
"""Options of ``docker run`` and ``podman run`` that take no value; every other one takes one."""
_DROPPED_SWITCHES = {
    "-d": "llamactl must stay connected to the container",
    "--detach": "llamactl must stay connected to the container",
    "-t": "there is no terminal",
    "--tty": "there is no terminal",
    "-i": "there is no terminal",
    "--interactive": "there is no terminal",
    "-P": "llamactl assigns the port",
    "--publish-all": "llamactl assigns the port",
}
_DROPPED_VALUES = {
    "-p": "llamactl assigns the port",
    "--publish": "llamactl assigns the port",
    "--expose": "llamactl assigns the port",
    "--name": "a replacement runs beside the old container for a while, so the name cannot be fixed",
    "--restart": "llamactl restarts the server itself",
}
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:=(.*))?", re.DOTALL)
_NETWORKS = ("--network", "--net")


@dataclass(slots=True)
class Run:
    """A ``docker run`` up to its image."""

    executable: list[str] = field(default_factory=list)
    environment: dict[str, tuple[str, Word]] = field(default_factory=dict)
    """Variables that it sets, each with its place."""
    warnings: list[str] = field(default_factory=list)
    end: int = 0
    """The place of the first word behind the image."""

    def dropped(self, word: Word, name: str, why: str) -> None:
        """Warn that an option was left out."""
        self.warnings.append(at_word(word, f"{name} was dropped: {why}"))


def peel_run(words: Sequence[Word], at: int, *, variables: Sequence[str]) -> Run:
    """Read ``docker run … IMAGE`` from ``at``; ``variables`` are handed on into the container. Raises Rejected."""
    tool = words[at]
    if at + 1 < len(words) and words[at + 1].text in ("compose", "exec", "start"):
        inner = words[at + 1].text
        hint = "paste the server's own command, as the service has it under command:"
        refuse(words[at + 1], f"cannot read {_name(tool)} {inner}: the container is started elsewhere", hint)
    place = at + 1 + (at + 1 < len(words) and words[at + 1].text == "container")
    if place >= len(words) or words[place].text != "run":
        refuse(words[min(place, len(words) - 1)], f"only {_name(tool)} run starts a server", "paste the run command")
    run = Run()
    kept: list[str] = []
    place += 1
    while place < len(words) and words[place].text.startswith("-"):
        place = _option(words, place, kept, run)
    if place >= len(words):
        refuse(words[-1], f"{_name(tool)} run names no image", "paste the whole command")
    _require(tool, kept, run)
    run.executable = [tool.text, "run", *kept, words[place].text]
    for name in variables:
        hand_on(run.executable, name)
    run.end = place + 1
    return run


def _name(tool: Word) -> str:
    return tool.text.rsplit("/", 1)[-1]


def hand_on(executable: list[str], name: str) -> None:
    """Give the container this variable of its caller; ``executable`` ends with the image."""
    if any(one in ("-e", "--env") and other == name for one, other in pairwise(executable)):
        return
    executable[-1:-1] = ["-e", name]


def _option(words: Sequence[Word], at: int, kept: list[str], run: Run) -> int:
    word = words[at]
    name, equals, value = word.text.partition("=")
    cluster = re.fullmatch(r"-([dit]{2,})", word.text)
    if cluster is not None:
        for letter in dict.fromkeys(cluster[1]):
            run.dropped(word, f"-{letter}", _DROPPED_SWITCHES[f"-{letter}"])
        return at + 1
    if name in _SWITCHES:
        if name in _DROPPED_SWITCHES:
            run.dropped(word, name, _DROPPED_SWITCHES[name])
        else:
            kept.append(word.text)
        return at + 1
    if not equals and re.fullmatch(r"-[a-z].+", word.text, re.DOTALL) and not word.text.startswith("--"):
        name, value, equals = word.text[:2], word.text[2:], "="  # -p8000:8000
    elif re.match(r"-[a-z][^=-]", word.text):  # -eA=1
        name, value = word.text[:2], word.text[2:]
    end, of_value = at + 1, word
    if not equals:
        if end >= len(words):
            refuse(word, f"{flag_named(name)} wants a value, and none follows")
        of_value = words[end]
        value = of_value.text
        end += 1
    if name in _DROPPED_VALUES:
        run.dropped(word, name, _DROPPED_VALUES[name])
    elif name in ("-e", "--env"):
        _variable(of_value, value, kept, run)
    else:
        kept.extend((name, value))
    return end


def _variable(word: Word, text: str, kept: list[str], run: Run) -> None:
    """The value goes to ``environment``, so that no secret stands in argv; the container is given the name."""
    variable = _VARIABLE.fullmatch(text)
    if variable is None:
        refuse(word, "this is no variable for a container", "write -e NAME=value")
    if variable[2] is not None:
        run.environment[variable[1]] = (variable[2], word)
    kept.extend(("-e", variable[1]))


def _require(tool: Word, kept: list[str], run: Run) -> None:
    if not _network(kept):
        kept.extend(("--network", "host"))
        run.warnings.append(at_word(tool, "--network host was added, so that the port llamactl assigns can be reached"))
    elif _network(kept) != "host":
        refuse(tool, "the container has a network of its own", "use --network host, or declare the server as external")
    if "--rm" not in kept and "--rm=true" not in kept:
        kept.append("--rm")
        run.warnings.append(at_word(tool, "--rm was added, so that ended containers do not pile up"))


def _network(words: Sequence[str]) -> str | None:
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in _NETWORKS:
            return value if equals else words[at + 1] if at + 1 < len(words) else None
    return None


def is_run(executable: Sequence[str]) -> bool:
    """Whether an executable is a container command."""
    return bool(executable) and executable[0].rsplit("/", 1)[-1] in ("docker", "podman", "nerdctl")


def has_host_network(executable: Sequence[str]) -> bool:
    """Whether a container command shares the host's network."""
    return _network(executable) == "host"


def entrypoint(executable: Sequence[str]) -> str | None:
    """The ``--entrypoint`` of a container command."""
    for at, word in enumerate(executable):
        if word.startswith("--entrypoint="):
            return word.partition("=")[2]
        if word == "--entrypoint" and at + 1 < len(executable):
            return executable[at + 1]
    return None
