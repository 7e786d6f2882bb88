"""``docker run`` in a pasted command: its words up to the image become the executable, changed only as llamactl needs it.

Ports are assigned by llamactl and keys travel through the environment, so the container must share the host's network and the
variables must be passed by name. What is changed or left out is said in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def peel_run(
    words: Sequence[Word],
    at: int,
    environment: dict[str, str],
    executable: list[str],
    warnings: list[str],
    *,
    variables: Sequence[str],
) -> int:
    """Read ``docker run … IMAGE`` from ``at``; the place of the first word behind the image. Raises Rejected."""
    tool = words[at]
    if at + 1 < len(words) and words[at + 1].text == "compose":
        hint = "paste the server's own command, as the service has it under command:"
        refuse(words[at + 1], "cannot read a compose command", hint)
    place = at + 1 + (at + 1 < len(words) and words[at + 1].text == "container")
    if place >= len(words) or words[place].text != "run":
        refuse(words[min(place, len(words) - 1)], f"only {tool.text} run starts a server", "paste the run command")
    kept: list[str] = []
    place += 1
    while place < len(words) and words[place].text.startswith("-"):
        place = _option(words, place, kept, environment, warnings)
    if place >= len(words):
        refuse(words[-1], f"{tool.text} run names no image", "paste the whole command")
    _require(tool, kept, warnings)
    for name in variables:
        if name not in kept:
            kept.extend(("-e", name))
    executable.extend((tool.text, "run", *kept, words[place].text))
    return place + 1


def _option(words: Sequence[Word], at: int, kept: list[str], environment: dict[str, str], warnings: list[str]) -> int:
    word = words[at]
    name, equals, value = word.text.partition("=")
    cluster = re.fullmatch(r"-([dit]{2,})", word.text)
    if cluster is not None:
        letters = dict.fromkeys(cluster[1])
        warnings.extend(f"{word.place}: -{letter} was dropped: {_DROPPED_SWITCHES['-' + letter]}" for letter in letters)
        return at + 1
    if name in _SWITCHES:
        if name in _DROPPED_SWITCHES:
            warnings.append(f"{word.place}: {name} was dropped: {_DROPPED_SWITCHES[name]}")
        else:
            kept.append(word.text)
        return at + 1
    if not equals and re.fullmatch(r"-[a-z].+", word.text) and not word.text.startswith("--"):
        name, value, equals = word.text[:2], word.text[2:], "="  # -p8000:8000
    end = at + 1
    if not equals:
        if end >= len(words):
            refuse(word, f"{name} wants a value, and none follows")
        value = words[end].text
        end += 1
    if name in _DROPPED_VALUES:
        warnings.append(f"{word.place}: {name} was dropped: {_DROPPED_VALUES[name]}")
    elif name in ("-e", "--env"):
        _variable(word, value, kept, environment)
    else:
        kept.extend((name, value))
    return end


def _variable(word: Word, text: str, kept: list[str], environment: dict[str, str]) -> None:
    """The value goes to ``environment``, so that no secret stands in argv; the container is given the name."""
    variable = _VARIABLE.fullmatch(text)
    if variable is None:
        refuse(word, "this is no variable for a container", "write -e NAME=value")
    if variable[2] is not None:
        environment[variable[1]] = variable[2]
    kept.extend(("-e", variable[1]))


def _require(tool: Word, kept: list[str], warnings: list[str]) -> None:
    if not _network(kept):
        kept.extend(("--network", "host"))
        warnings.append(f"{tool.place}: --network host was added, so that the port llamactl assigns can be reached")
    elif _network(kept) != "host":
        refuse(tool, "the container has a network of its own", "use --network host, or declare the server as external")
    if "--rm" not in kept:
        kept.append("--rm")
        warnings.append(f"{tool.place}: --rm was added, so that ended containers do not pile up")


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
