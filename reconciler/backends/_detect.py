"""Which server a pasted command starts, when nobody said it; and a command of no known server as an instance of ``custom``.

Told by the program's name, through whatever stands before it; for arguments alone by the one vocabulary that knows every flag.
Pure, as all parsing is: no program is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from reconciler.backends import _tokens
from reconciler.backends._argv import read_words
from reconciler.backends._base import VocabularyBackend
from reconciler.backends._hide import named
from reconciler.backends._mask import Known, Takes, with_source
from reconciler.backends._outer import REFUSED, WRAPPERS
from reconciler.backends._parse import parse_unknown, split_command, takes
from reconciler.backends._tokens import Word
from reconciler.backends._vocabulary import Vocabulary
from reconciler.backends._wrappers import REPOSITORY, Peeled, base_name, peel_outer, program_place
from reconciler.core.contracts import Backend, ParsedCommand
from reconciler.core.errors import Rejected
from reconciler.core.options import NO_SERVER
from reconciler.core.spec import BackendsSpec

CUSTOM = "custom"


def understand(command: str, backends: Mapping[str, Backend], programs: BackendsSpec | None = None) -> ParsedCommand:
    """Understand a command of whichever server it starts; Rejected with line and column when none of them can.

    ``programs`` say which program a plain name is, as for :meth:`Backend.parse`.
    """
    readers = [one for one in backends.values() if isinstance(one, VocabularyBackend) and one.parse_routes]
    try:
        chosen = _choose(command, readers, programs)
    except Rejected as rejected:
        known = Known(
            takes=partial(_takes, [one.usual_vocabulary(programs) for one in readers]),
            program=lambda word: any(one.program.is_program(word) or word in one.program.modules for one in readers),
            subcommand=frozenset(one.program.subcommand for one in readers if one.program.subcommand),
        )
        raise with_source(rejected, command, known) from None
    return chosen.parse(command, programs)


def unknown(command: str) -> ParsedCommand:
    """A command of no known server as an instance that runs exactly its words; Rejected with line and column.

    Assignments before the program become its environment. Where the words hold ``--port NUMBER`` the port is pinned to it.
    """
    return parse_unknown(command, kind=CUSTOM)


def _takes(tables: Sequence[Vocabulary], flag: str) -> Takes:
    """What follows a flag: a secret where any server takes one there, else the most that one of them takes."""
    found = {takes(table, flag) for table in tables}
    order = (Takes.SECRET, Takes.VALUES, Takes.VALUE, Takes.SWITCH)
    return next((one for one in order if one in found), Takes.UNKNOWN)


def _choose(command: str, readers: Sequence[VocabularyBackend], programs: BackendsSpec | None) -> VocabularyBackend:
    words, _ = split_command(command, _examples(readers))
    at = peel_outer(words, Peeled(arguments=()))
    texts = [word.text for word in words[at:]]
    places = [(program_place(texts, one.program), one.kind, one) for one in readers]
    calls = sorted(((place, kind, one) for place, kind, one in places if place is not None), key=lambda call: call[:2])
    if len(calls) == 1:
        return calls[0][2]
    if calls:  # one of the names may be the value of a flag, of a wrapper or of the server
        return next((one for _, _, one in calls if _parses(one, command, programs)), calls[0][2])
    if at >= len(words):
        _tokens.refuse(words[-1], "the command ends before any program", f"paste a whole command: {_examples(readers)}")
    word, name = words[at], base_name(words[at])
    if name in REFUSED:
        _tokens.refuse(word, f"cannot carry {name} over", REFUSED[name], code=NO_SERVER)
    if word.text.startswith("-") or REPOSITORY.fullmatch(word.text):
        return _by_vocabulary(words[at:], readers, programs)
    known = ", ".join(one.program.plain for one in readers)
    what = f"behind {name} there is none of" if name in WRAPPERS else f"{named(word.text)} is none of"
    _tokens.refuse(word, f"cannot tell which server this starts: {what} {known}", _say_which(readers), code=NO_SERVER)


def _parses(one: VocabularyBackend, command: str, programs: BackendsSpec | None) -> bool:
    try:
        one.parse(command, programs)
    except Rejected:
        return False
    return True


def _by_vocabulary(
    words: Sequence[Word], readers: Sequence[VocabularyBackend], programs: BackendsSpec | None
) -> VocabularyBackend:
    """The one backend that knows every flag of arguments that stand alone."""
    whole: list[VocabularyBackend] = []
    nearly: list[VocabularyBackend] = []
    strange: set[Word] | None = None
    for one in readers:
        table = one.usual_vocabulary(programs)
        try:
            reading = read_words(table, words)
        except Rejected:
            if all(table.by_flag(word.text.partition("=")[0]) for word in words if word.text.startswith("--")):
                nearly.append(one)
            continue
        if not reading.unknown:
            whole.append(one)
        strange = {*reading.unknown} if strange is None else strange & {*reading.unknown}
    if len(whole) == 1:
        return whole[0]
    if whole:
        names = ", ".join(one.program.plain for one in whole)
        _tokens.refuse(
            words[0], f"cannot tell which server these arguments are for: {names} know all of them", _say_which(whole)
        )
    if len(nearly) == 1:
        return nearly[0]  # its own error says what is wrong and where
    first = min(strange or (), key=lambda word: (word.line, word.column), default=words[0])
    message = "cannot tell which server these arguments are for: none knows all of them"
    _tokens.refuse(first, message, _say_which(readers), code=NO_SERVER)


def _say_which(readers: Sequence[VocabularyBackend]) -> str:
    routes = ", ".join(sorted(one.parse_routes[0] for one in readers))
    return f"say which with --backend ({routes}), or put the program in front: {_examples(readers)}"


def _examples(readers: Sequence[VocabularyBackend]) -> str:
    return ", ".join(sorted(one.program.example for one in readers))
