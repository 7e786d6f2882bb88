"""Which program some words of a command line start: its file, its interpreter, and what says that it is still the same one.

Only looks at files; nothing is started here. ``reading`` beside it runs what is found, ``tables`` keeps what was read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from reconciler.core.errors import Problem, Rejected
from reconciler.host.clock import SystemClock

NOT_FOUND = "PROGRAM_NOT_FOUND"
"""Code of the problem that there is no such program, or no right to run it."""
OPAQUE = "PROGRAM_OPAQUE"
"""Code of the problem that the words start something whose options cannot be read."""

_CONTAINERS = frozenset({"docker", "podman", "nerdctl", "apptainer", "singularity", "kubectl", "docker-compose"})
_STARTERS = frozenset(
    {
        *(
            "env",
            "nice",
            "ionice",
            "taskset",
            "numactl",
            "chrt",
            "stdbuf",
            "setarch",
            "nohup",
            "exec",
            "time",
            "timeout",
        ),
        *("uv", "uvx", "pipx", "poetry", "pipenv", "pdm", "rye", "pixi", "hatch", "conda", "mamba", "micromamba"),
        *("sudo", "doas", "su", "runuser", "systemd-run", "ssh", "sh", "bash", "dash", "zsh", "fish", "torchrun"),
    }
)
"""Programs that run another one, which only they can find."""
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")
_HEAD = 4096
"""How much of a file tells its interpreter, bytes; Linux reads 256 for a shebang, pip's longer form takes a second line."""
_CHUNK = 1 << 20
_LIBRARY = re.compile(r"\.(?:so(?:\.[0-9][0-9.]*)?|dylib)$")
_MOST_LIBRARIES = 256
"""Of one folder; llama.cpp's releases bring 15 to 30."""
_GRANULARITY_S = 2.0
"""Two changes within so many seconds may leave the same times: FAT's step is 2 s; that of Linux' own file systems 4 to 10 ms."""
UNSETTLED = "unsettled"
"""Stands for the last time of a file that was changed moments ago."""
_RELOCATABLE = '"$(dirname -- "$(realpath -- "$0")")"/'
"""How uv writes the folder of the script itself into a script that may be moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What some words start, found on this host."""

    path: str
    """The file, absolute, links kept; of a module, how it is called. What messages show, and the same for every version."""
    command: tuple[str, ...]
    """The words, the first one absolute."""
    interpreter: tuple[str, ...] = ()
    """The Python that runs it, with the flags it gets; empty for a program that runs by itself."""
    content: str | None = None
    """The file whose bytes belong to the identity; None for a module, whose distribution says everything."""
    caveat: str | None = None
    """What may change without its identity changing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a program is made of."""

    digest: str
    """SHA-256, in hex."""
    seen: tuple[tuple[str, ...], ...]
    """Path, device, inode, size, and times of every file that went in: as long as these hold, the digest does. A file that was
    written the moment before has no such times yet (its next change may have the same), so it is always looked into."""
    site: str | None
    """The folder where its distribution was found; None for a program without one."""


def find(words: Sequence[str], *, environ: Mapping[str, str], directory: str, python: bool) -> Program:
    """The program that these words start, by ``PATH`` or as seen from ``directory``; ``~`` is an ordinary character.

    ``python`` wants one that Python runs. Rejected with :data:`NOT_FOUND` or :data:`OPAQUE`.
    """
    if not words:
        _refuse(NOT_FOUND, "no program is named", "write its path")
    name = os.path.basename(words[0])
    if name in _CONTAINERS:
        hint = "the options of the packaged version are used for it; put what only the container's version knows into extra_args"
        _refuse(OPAQUE, f"cannot read options through {name}: the program is inside the container", hint)
    if name in _STARTERS:
        hint = "name the program itself by its path, with its variables under environment"
        _refuse(OPAQUE, f"cannot read options through {name}: it starts another program", hint)
    path = _located(words[0], environ, directory)
    if python and _PYTHON.fullmatch(name):
        return _run_by_python(path, words, directory)
    if python:
        return Program(path=path, command=(path, *words[1:]), interpreter=_interpreter(path, environ), content=path)
    caveat = "it is a script: a change of what it starts is not noticed" if _head(path).startswith(b"#!") else None
    return Program(path=path, command=(path, *words[1:]), content=path, caveat=caveat)


def _refuse(code: str, message: str, hint: str) -> NoReturn:
    raise Rejected(Problem(message=message, hint=hint, code=code))


def _located(word: str, environ: Mapping[str, str], directory: str) -> str:
    """The absolute path of an executable file."""
    if os.sep in word:
        path = os.path.normpath(os.path.join(directory, word))
        if not os.path.isfile(path):
            hint = "write the whole path: ~ is not expanded" if word.startswith("~") else "write its path as it is now"
            _refuse(NOT_FOUND, f"cannot find the program {word}: there is no file {path}", hint)
        if not os.access(path, os.X_OK):
            _refuse(NOT_FOUND, f"cannot run {path}: no right to execute it", f"try `chmod +x {shlex.quote(path)}`")
        return path
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(directory, folder, word)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    _refuse(
        NOT_FOUND, f"cannot find the program {word}: it is in no folder of the PATH", "install it, or write its path"
    )


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        _refuse(NOT_FOUND, f"cannot read {path}: {error.strerror or error}", "give this user the right to read it")


def _run_by_python(path: str, words: Sequence[str], directory: str) -> Program:
    """``python [flags] -m module`` or ``python [flags] script``."""
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c", "-"):
        at += 2 if words[at] in ("-W", "-X") else 1
    interpreter = (path, *words[1:at])
    if at + 1 < len(words) and words[at] == "-m":
        module = shlex.join((path, *words[1 : at + 2]))
        return Program(path=module, command=(path, *words[1:]), interpreter=interpreter)
    if at >= len(words) or words[at].startswith("-"):
        hint = "write `python -m MODULE`, or the path of the program"
        _refuse(OPAQUE, f"cannot tell what {shlex.join(words)} runs", hint)
    script = os.path.normpath(os.path.join(directory, words[at]))
    if not os.path.isfile(script):
        _refuse(NOT_FOUND, f"cannot find the script {words[at]}: there is no file {script}", "write its path")
    command = (*interpreter, script, *words[at + 1 :])
    return Program(path=script, command=command, interpreter=interpreter, content=script)


def _interpreter(path: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The Python behind a script's first line, with its flags."""
    words = _shebang(path)
    if words and os.path.basename(words[0]) == "env":
        rest = words[2:] if words[1:2] == ["-S"] else words[1:]
        words = [_located(rest[0], environ, os.path.dirname(path)), *rest[1:]] if rest else []
    if not words or not _PYTHON.fullmatch(os.path.basename(words[0])):
        what = f"{words[0]} runs it" if words else "it is no script"
        hint = "name the program itself: the one in the bin folder of its Python environment"
        _refuse(OPAQUE, f"cannot read options from {path}: {what}, not Python", hint)
    if not (os.path.isfile(words[0]) and os.access(words[0], os.X_OK)):
        hint = "install it anew: its environment was moved or removed"
        _refuse(NOT_FOUND, f"cannot run {path}: its interpreter {words[0]} is not there", hint)
    return tuple(words)


def _shebang(path: str) -> list[str]:
    """The words of a script's interpreter; the long form, where ``/bin/sh`` runs Python on the same file, is looked through."""
    lines = _head(path).split(b"\n", 2)
    if not lines[0].startswith(b"#!"):
        return []
    try:
        first = lines[0][2:].decode().strip()
        second = lines[1].decode() if len(lines) > 1 else ""
        found = re.match(r"""'''exec' (.+?) "\$0" "\$@\"""", second)
        if found and first.split()[:1] == ["/bin/sh"]:
            folder = shlex.quote(os.path.dirname(os.path.realpath(path))) + "/"
            return shlex.split(found[1].replace(_RELOCATABLE, folder))
        return shlex.split(first)
    except ValueError:  # not UTF-8, or an open quote: no line that Python's installers write
        return []


def identify(program: Program, distribution: str | None, site: str | None = None) -> Identity:
    """The program's identity now: its content and, for a distribution, what its metadata say in the interpreter's environment.

    For a program that runs by itself names, sizes and times of the shared libraries beside it belong to it too.

    ``site`` is a folder where the metadata were found by asking the interpreter. Rejected when a file cannot be read.
    """
    digest = hashlib.sha256("\0".join(("1", *program.command, "", *program.interpreter)).encode())
    seen: list[tuple[str, ...]] = []
    found = None
    try:
        if program.content is not None:
            _take(program.content, digest, seen)
        if program.content is not None and not program.interpreter:
            _take_libraries(program.content, digest, seen)
        if distribution is not None and program.interpreter:
            for folder in (*_sites(program.interpreter[0]), *((site,) if site else ())):
                for file in _metadata(folder, distribution):
                    found = folder
                    digest.update(os.path.basename(os.path.dirname(file)).encode())
                    _take(file, digest, seen)
                if found:
                    break
    except OSError as error:
        hint = "try again; if it is being installed, when that is done"
        _refuse(NOT_FOUND, f"cannot read {error.filename}: {error.strerror or error}", hint)
    return Identity(digest=digest.hexdigest(), seen=tuple(seen), site=found)


def same(one: Program, other: Program) -> bool:
    """Whether two are started in the same way, whatever their files hold."""
    return replace(one, caveat=None) == replace(other, caveat=None)


def unchanged(seen: Sequence[Sequence[str]]) -> bool:
    """Whether all files are still those that :func:`identify` saw; False for none."""
    try:
        return bool(seen) and all(tuple(one) == _mark(one[0], os.stat(one[0])) for one in seen)
    except (OSError, ValueError, IndexError):
        return False


def _take(path: str, digest: hashlib._Hash, seen: list[tuple[str, ...]]) -> None:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(22, "it is no regular file", path)
        seen.append(_settled(path, status))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    digest.update(b"\0")


def _take_libraries(program: str, digest: hashlib._Hash, seen: list[tuple[str, ...]]) -> None:
    """The shared libraries that a program brings along; not their bytes, which may be gigabytes of GPU code.

    Those in its own folder, and those of its name in the ``lib`` beside: the rest of a system's libraries is not its own.
    """
    whole = os.path.realpath(program)
    here = os.path.dirname(whole)
    words = "|".join(re.escape(word) for word in re.split(r"[^A-Za-z0-9]+", os.path.basename(whole)) if len(word) > 2)
    own = re.compile(rf"lib(?:{words}|common)(?![A-Za-z]).*" if words else "libcommon(?![A-Za-z]).*")
    for folder, named in ((here, None), (os.path.join(os.path.dirname(here), "lib"), own)):
        found = sorted(
            name for name in _names(folder) if _LIBRARY.search(name) and (named is None or named.match(name))
        )
        marks = [
            _settled(path, os.stat(path))
            for name in found[:_MOST_LIBRARIES]
            if os.path.exists(path := f"{folder}/{name}")
        ]
        for path, _, _, size, changed, _ in marks:
            digest.update("\0".join((path, size, changed, "")).encode(errors="surrogateescape"))
        if marks:  # and the folder, for those that come
            seen += [_settled(folder, os.stat(folder)), *marks]


def _mark(path: str, status: os.stat_result) -> tuple[str, ...]:
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return (path, *map(str, numbers))


def _settled(path: str, status: os.stat_result) -> tuple[str, ...]:
    """A mark that holds only if a later change must show in it; one that never holds for a file of the last moments."""
    mark = _mark(path, status)
    if SystemClock().now() - max(status.st_mtime, status.st_ctime) < _GRANULARITY_S:
        return (*mark[:-1], UNSETTLED)
    return mark


def _sites(interpreter: str) -> Iterator[str]:
    """Where an interpreter's environment keeps packages, told from its path alone (a link in it is the environment's own)."""
    prefix = os.path.dirname(os.path.dirname(interpreter))
    for library in ("lib", "lib64"):
        base = os.path.join(prefix, library)
        if os.path.islink(base):
            continue  # lib64 of a virtual environment is lib
        for name in sorted(_names(base)):
            if re.fullmatch(r"(?:python|pypy)[0-9.]*t?", name):
                yield os.path.join(base, name, "site-packages")
                yield os.path.join(base, name, "dist-packages")


def _metadata(site: str, distribution: str) -> Iterator[str]:
    """The files that change with a distribution's version, of everything in the folder that has its name."""
    wanted = _plain_name(distribution)
    for name in sorted(_names(site)):
        stem, kind = os.path.splitext(name)
        if kind not in (".dist-info", ".egg-info") or _plain_name(stem.split("-", 1)[0]) != wanted:
            continue
        whole = os.path.join(site, name)
        if os.path.isfile(whole):
            yield whole
        for part in ("METADATA", "RECORD", "PKG-INFO"):
            if os.path.isfile(file := os.path.join(whole, part)):
                yield file


def _plain_name(name: str) -> str:
    """As package tools compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
