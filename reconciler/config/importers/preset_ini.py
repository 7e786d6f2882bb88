"""llama.cpp's presets (``llama-server --models-preset FILE``): each section becomes an instance, ``[*]`` is put into all of them.

Keys are the server's own options without their dashes, or their variables' names. Each is understood by itself, as the one option of a
command line, so that different spellings of one option are known to be the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from reconciler.config._guard import BadScalar, check_text, decode, rejected
from reconciler.config._parse import split_lines
from reconciler.config._tree import Place
from reconciler.config.importers.contract import Draft, Imported, Lost, Understand, Unknown
from reconciler.core.errors import Rejected
from reconciler.core.options import ParsedCommand
from reconciler.core.spec import OptionValue

PROGRAM = "llama-server"
EVERYWHERE = "*"
_NAMELESS = "default"
"""What the keys before the first section belong to."""
_HEADER = re.compile(r"\[[ \t]*([^\]]*?)[ \t]*\][ \t]*(?:[;#].*)?")
_PAIR = re.compile(r"[ \t]*([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*([^;#]*?)[ \t]*(?:[;#].*)?")
_GLUED = re.compile(r"[^ \t=;#]([;#])(?=[^ \t;#])")
_BLANK = re.compile(r"[ \t]*(?:[;#].*)?")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
_PREFIX = "LLAMA_ARG_"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_TRUE = frozenset({"on", "enabled", "true", "1"})
_FALSE = frozenset({"off", "disabled", "false", "0"})
"""As the server reads them."""
_MODELS = ("model", "model_url", "hf_repo", "docker_repo")
"""Options that say which model is served, as the understood command names them."""
_SUGGESTED = re.compile(r"did you mean -{0,2}([\w-]+)\?")
_ALIKE = 0.7
"""Of 1, how near a name must be to be suggested: ``n-gpu-layer`` is 0.96 of ``n-gpu-layers``, ``foo`` 0.5 of ``tools``."""
_MOST = 2_000
"""Sections; each key is understood by itself, which takes about 0.1 ms."""


@dataclass(frozen=True, slots=True)
class _Pair:
    value: str
    line: int


@dataclass(slots=True)
class _Preset:
    """What a section says, understood."""

    options: dict[str, OptionValue] = field(default_factory=dict)
    environment: dict[str, OptionValue] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    settings: dict[str, OptionValue] = field(default_factory=dict)
    backend_type: str = ""


class PresetIni:
    """``llamactl import preset-ini``."""

    kind = "preset-ini"
    help = "llama.cpp's presets, as llama-server --models-preset reads them"
    needs_file = True

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """The file's sections; Rejected with the place for a line that is none of an INI file."""
        del unknown  # every line is an option of one server
        lost: list[Lost] = []
        sections, lines = _read(data, name, lost)
        reader = _Reader(understand, lost)
        drafts = []
        for section, pairs in sections.items():
            if section == EVERYWHERE or (section == _NAMELESS and not pairs):
                continue
            both = [*sections.get(EVERYWHERE, {}).items(), *pairs.items()]
            draft = reader.draft(section, both, lines[section])
            drafts += [] if draft is None else [draft]
        if len(drafts) > 1:
            why = "the server ends the model that was not used for longest beyond --models-max; llamactl ends none for another yet"
            lost.append(
                Lost(what="the router", why=why, cure="give each an idle_timeout, and let run together only what fits")
            )
        return Imported(drafts=tuple(drafts), lost=tuple(lost))


def _read(data: bytes, name: str, lost: list[Lost]) -> tuple[dict[str, dict[str, _Pair]], dict[str, int]]:
    """Sections by name, and where each begins."""
    sections: dict[str, dict[str, _Pair]] = {_NAMELESS: {}}
    lines = {_NAMELESS: 1}
    current = _NAMELESS
    for number, line in enumerate(split_lines(decode(data, name)), 1):
        if header := _HEADER.fullmatch(line):
            current = header[1]
            if not current or len(sections) > _MOST:
                why = "a section without a name" if not current else f"more than {_MOST} sections"
                raise rejected(Place(name, number, 1), why)
            if sections.get(current):
                why = "the section stands here a second time further down, and the server takes the last one only"
                lost.append(Lost(what=f"[{current}]", why=why, line=lines[current]))
            sections[current], lines[current] = {}, number
        elif pair := _PAIR.fullmatch(line):
            if pair[1] in sections[current]:
                first = sections[current][pair[1]].line
                lost.append(
                    Lost(what=f"[{current}] {pair[1]}", why="it is given again below, and the last counts", line=first)
                )
            if cut := _GLUED.search(line, pair.end(1)):
                why = f"what stands behind {cut[1]} is a comment to the server, and no part of the value"
                lost.append(Lost(what=f"[{current}] {pair[1]}", why=why, line=number, column=cut.start(1) + 1))
            if pair[1] != "version":  # the server skips it too, in every section
                sections[current][pair[1]] = _Pair(_checked(pair[2], Place(name, number, pair.start(2) + 1)), number)
        elif not _BLANK.fullmatch(line):
            raise rejected(
                Place(name, number, 1), "this is no line of a preset", hint="write [name], key = value, or a comment"
            )
    if not any(sections.values()):
        raise rejected(
            Place(name, 1, 1), "there is no preset in this file", hint="a preset is [name] and lines of key = value"
        )
    return sections, lines


def _checked(value: str, place: Place) -> str:
    try:
        return check_text(value)
    except BadScalar as bad:
        raise rejected(place, str(bad), hint=bad.hint) from None


@dataclass(slots=True)
class _Reader:
    understand: Understand
    lost: list[Lost]
    said: set[tuple[int, str]] = field(default_factory=set)
    """What was reported already: ``[*]`` is read for every section."""

    def _lose(self, what: str, why: str, cure: str | None, line: int) -> None:
        if (line, why) not in self.said:
            self.said.add((line, why))
            self.lost.append(Lost(what=what, why=why, cure=cure, line=line))

    def draft(self, section: str, pairs: list[tuple[str, _Pair]], line: int) -> Draft | None:
        """An instance; None when it is not known which model it serves."""
        preset = _Preset()
        for key, pair in pairs:
            self._take(preset, key, pair)
        if not any(preset.options.get(key) for key in _MODELS):
            if not _REPOSITORY.fullmatch(section):
                why = "no model is named in it: the server looks for one of that name in a folder that this file does not say"
                self._lose(f"[{section}]", why, "add model = FILE to the section", line)
                return None
            why = f"no model is named in it; {section} is taken as hf-repo"
            self._lose(f"[{section}]", why, None, line)
            self._take(preset, "hf-repo", _Pair(section, line))
        body: dict[str, OptionValue] = {"backend_type": preset.backend_type, "backend_options": dict(preset.options)}
        body["state"] = "on_demand"
        body.update(preset.settings)
        aliases: list[OptionValue] = list(dict.fromkeys(alias for alias in preset.aliases if alias != section))
        optional: dict[str, OptionValue] = {"environment": preset.environment, "aliases": aliases}
        body.update({key: value for key, value in optional.items() if value})
        return Draft(name=section, body=body, line=line)

    def _take(self, preset: _Preset, key: str, pair: _Pair) -> None:
        """One pair, over what stood there before for the same option."""
        if key == "load-on-startup":
            preset.settings["state"] = "running" if pair.value in _TRUE else "on_demand"
        elif key == "stop-timeout" and pair.value.isascii() and pair.value.isdigit():
            preset.settings["stop"] = {"grace": f"{int(pair.value[:9])}s"}
        elif key in ("alias", "a", f"{_PREFIX}ALIAS"):
            preset.aliases = [alias.strip() for alias in pair.value.split(",") if alias.strip()]
        elif not (self._option(preset, key, pair) or self._variable(preset, key, pair)):
            self._unknown(preset, key, pair)

    def _option(self, preset: _Preset, key: str, pair: _Pair) -> bool:
        """An option under its own name, or the name that its variable has behind the prefix."""
        names = [key.removeprefix(_PREFIX).lower().replace("_", "-")] if key.startswith(_PREFIX) else [key]
        for flag in (f"--{names[0]}", f"-{names[0]}"):
            parsed = self._alone(f"{flag} {shlex.quote(pair.value)}")
            if parsed is None or parsed.extra_args:
                parsed = self._flag(flag, pair)
            if parsed is None:
                continue
            self._told(parsed, key, pair.line)
            preset.options.update(parsed.backend_options)
            preset.backend_type = parsed.backend_type
            return True
        return False

    def _flag(self, flag: str, pair: _Pair) -> ParsedCommand | None:
        """An option that takes no value: set, unset, or (for its negative form) the other way round."""
        parsed = self._alone(flag)
        if parsed is None or parsed.extra_args or pair.value not in _TRUE | _FALSE:
            return None
        if pair.value in _TRUE:
            return parsed
        if not all(isinstance(value, bool) for value in parsed.backend_options.values()):
            return self._opposite(flag, parsed)
        turned: Mapping[str, OptionValue] = {name: not value for name, value in parsed.backend_options.items()}
        return ParsedCommand(
            backend_type=parsed.backend_type,
            backend_options=turned,
            environment={},
            extra_args=(),
            executable=None,
            name=parsed.name,
            warnings=parsed.warnings,
        )

    def _opposite(self, flag: str, parsed: ParsedCommand) -> ParsedCommand | None:
        """The negative form of a removed option that became a value of another one: ``mmap = off`` is ``--no-mmap``."""
        opposite = flag.replace("--no-", "--", 1) if flag.startswith("--no-") else flag.replace("--", "--no-", 1)
        turned = self._alone(opposite)
        if turned is None or turned.extra_args or turned.backend_options.keys() != parsed.backend_options.keys():
            return None
        return turned

    def _variable(self, preset: _Preset, key: str, pair: _Pair) -> bool:
        """A variable that is no option by another name."""
        if not _VARIABLE.fullmatch(key):
            return False
        parsed = self._alone("", f"{key}={shlex.quote(pair.value)} ")
        if parsed is None:
            return False
        self._told(parsed, key, pair.line)
        preset.environment.update(parsed.environment)
        preset.backend_type = parsed.backend_type
        return True

    def _unknown(self, preset: _Preset, key: str, pair: _Pair) -> None:
        """A key that is not in the instance, with the reason that the reading of a command line has, or the nearest name."""
        del preset
        try:
            parsed = self.understand(f"{PROGRAM} --{key} {shlex.quote(pair.value)}")
        except Rejected as refusal:
            self._lose(key, f"it was left out: {refusal.problems[0].message}", refusal.problems[0].hint, pair.line)
            return
        if not parsed.extra_args:
            why = f"it was left out: the server has no such value of it as {pair.value!r}"
            self._lose(key, why, None, pair.line)
            return
        why = "it was left out: llama-server has no option of that name, and refuses a file of presets with it"
        near = next((found[1] for warning in parsed.warnings if (found := _SUGGESTED.search(warning))), None)
        alike = near is not None and SequenceMatcher(None, key, near).ratio() >= _ALIKE
        self._lose(key, why, f"did you mean {near}?" if alike else None, pair.line)

    def _told(self, parsed: ParsedCommand, key: str, line: int) -> None:
        for warning in parsed.warnings:
            self._lose(key, _without_place(warning), None, line)

    def _alone(self, option: str, before: str = "") -> ParsedCommand | None:
        try:
            return self.understand(f"{before}{PROGRAM} {option}".strip())
        except Rejected:
            return None


def _without_place(warning: str) -> str:
    return re.sub(r"^\d+:\d+: ", "", warning)


IMPORTER = PresetIni()
