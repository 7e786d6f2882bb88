"""A command of llama-swap as words, and what llamactl does otherwise about them: ports, builds in a program's name, relative paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from reconciler.config.importers._macros import PLACEHOLDER, as_text
from reconciler.config.importers._words import Text, bare, joined, literal

_BUILD = re.compile(
    r"(.*/)?([A-Za-z][A-Za-z_.-]*?)[-_.](?:[0-9a-f]{5,40}|b?[0-9][0-9.]*|latest|cuda|vulkan|rocm|cpu|metal)"
)
"""A program's name with a build behind it, as in ``llama-server-ec9e0301``."""
_PORT_FLAG = re.compile(r"--?(?:[a-z]+[-_])*port", re.IGNORECASE)
_RELATIVE = re.compile(r"\.{1,2}/.*|(?![/~$<{-])[^:=]*\.(?:gguf|safetensors|jinja|gbnf|json|ya?ml|ini|conf|py|sh|bin)")
"""A path from the folder that a program runs in: it says so, or ends as files of models, templates and settings do."""


def uncommented(text: str) -> str:
    """Without the lines that are comments; a macro named in one is none that is used."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def words_of(expanded: str) -> list[Text]:
    """The command's words as llama-swap splits them: comment lines out, lines joined, quotes undone, no shell."""
    joined_lines = " ".join(re.sub(r"\\\s*$", "", line) for line in uncommented(expanded).splitlines())
    return [as_text(word) for word in shlex.split(joined_lines)]


def without_port(words: list[Text]) -> list[Text]:
    """The words less ``--port ${PORT}``, which is how it is here anyway."""
    kept: list[Text] = []
    for word in words:
        said = bare(word) or ""
        before = bare(kept[-1]) if kept else None
        if said == PLACEHOLDER and before is not None and (_PORT_FLAG.fullmatch(before) or before == "-p"):
            kept.pop()
        elif not (said.endswith(f"={PLACEHOLDER}") and _PORT_FLAG.fullmatch(said.partition("=")[0])):
            kept.append(word)
    return kept


def program_names(first: Text) -> list[Text]:
    """The program as it is called, then as it may be called without the build in its name."""
    said = bare(first) or ""
    found = _BUILD.fullmatch(said)
    return [first] if found is None else [first, literal(found[2])]


def with_placeholder(words: list[Text], at: int, port: str) -> Text:
    """A word with a fixed port given up for the one that is assigned: ``--port 9000``, ``--listen=:9000``, ``-p 9000:80``."""
    said = bare(words[at])
    if at == 0 or said is None:
        return words[at]
    return joined(literal(re.sub(rf"(^|[=:]){port}(?=$|:)", rf"\g<1>{PLACEHOLDER}", said, count=1)))


def relative_paths(words: Iterable[Text]) -> list[str]:
    """The words that are paths from the folder a program runs in, or options with one (``--model=x.gguf``)."""
    found = []
    for word in words:
        said = bare(word) or ""
        path = said.partition("=")[2] if said.startswith("-") else said
        if _RELATIVE.fullmatch(path):
            found.append(path)
    return found
