"""Argv to options over a vocabulary: the way back of ``_flags``. What argv means is kept or refused, never dropped.

Arity comes from the vocabulary, so a negative number is a value where one is due and a bare word is the model wherever it stands.
Flags that the vocabulary does not know are handed back untouched, each with the value that follows it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from reconciler.backends import _tokens
from reconciler.backends._flags import set_deep
from reconciler.backends._gone import Renamed, unknown_said
from reconciler.backends._hide import flag_named, looks_secret, misspelt_secret, named, secret_flag
from reconciler.backends._jsontext import DEEPEST, loose_json, read_json
from reconciler.backends._shell import DASHES
from reconciler.backends._spoken import ON_OFF, meant
from reconciler.backends._tokens import Word, plain_words
from reconciler.backends._values import (
    FALSE_TEXTS,
    TRUE_TEXTS,
    ValueProblem,
    decode_json,
    expected,
    is_json,
    item_value,
)
from reconciler.backends._vocabulary import Kind, Option, Syntax, Type, Vocabulary

_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+(?:[eE][+-]?\d+)?")
_SECRET = re.compile(r"--?(?:[a-z]+[-_])*(?:api[-_]?keys?|hf[-_]?token)")
_MOST_GUESSES = 5
"""Unknown words after which no nearest name is looked for any more: guessing costs 0.2 ms each."""
_MOST_UNKNOWN = 100
"""Unknown flags after which the text is taken for something else than a command of this server."""


@dataclass(slots=True)
class Reading:
    """What an argv says."""

    options: dict[str, JsonValue] = field(default_factory=dict)
    """By canonical name, in the order given."""
    extra: list[str] = field(default_factory=list)
    """Words that the vocabulary does not explain, in order."""
    bare: list[Word] = field(default_factory=list)
    """Words that belong to no flag."""
    warnings: list[str] = field(default_factory=list)
    words: dict[str, Word] = field(default_factory=dict)
    """Where each option was given first."""
    unknown: list[Word] = field(default_factory=list)
    """Flags that the vocabulary does not have."""


def read_argv(vocabulary: Vocabulary, argv: Sequence[str]) -> Reading:
    """Read an argv that is already split (no subcommand, no program); raises Rejected, the column counting words.

    The exact opposite of ``_flags.render_options``, without a command line around it: what the two are tested against each other by.
    """
    return _Reader(vocabulary, plain_words(tuple(argv)), pasted=False).run()


def read_words(vocabulary: Vocabulary, words: Sequence[Word], *, own: bool = False) -> Reading:
    """Read the words of a pasted command behind its program; raises Rejected with line and column.

    ``own`` says that the vocabulary was read from this very program, so that it surely refuses what is gone from it.
    """
    return _Reader(vocabulary, words, pasted=True, own=own).run()


class _Reader:
    """One pass over the words."""

    def __init__(self, vocabulary: Vocabulary, words: Sequence[Word], *, pasted: bool, own: bool = False) -> None:
        self.vocabulary = vocabulary
        self.own = own
        self.renamed = Renamed(vocabulary)
        self.words = words
        self.pasted = pasted
        """The words are texts of the file, in which ``${NAME}`` is a variable and ``$${`` is escaped."""
        self.at = 0
        self.done = Reading()
        self.only_bare = False
        self.positional = next((option for option in vocabulary if option.positional), None)
        self.llama = vocabulary.syntax is Syntax.LLAMA

    def run(self) -> Reading:
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if self.only_bare or not self._flag_like(word.text):
                self._bare(word)
            elif word.text == "--":
                if self.llama:
                    _tokens.refuse(word, f"{self.vocabulary.program} knows no --", "leave it out")
                self.only_bare = True
            else:
                self._flag(word)
        return self.done

    # -- words that are no flags ------------------------------------------------------------------------------------

    def _flag_like(self, text: str) -> bool:
        """Whether the server would take the word for a flag where no value is due."""
        if len(text) < 2 or not text.startswith("-"):
            return False
        if self.llama:
            return True
        return _NEGATIVE_NUMBER.fullmatch(text) is None and (" " not in text or "=" in text.split(" ")[0])

    def _bare(self, word: Word) -> None:
        if self.positional is None or "model" in self.done.options:
            _tokens.refuse(
                word,
                f"{named(word.text)} belongs to no flag: {self.vocabulary.program} takes no further words",
                "write out the arguments that the variable holds"
                if word.text.startswith("${")
                else "a switch takes no value; put quotes around a value that holds blanks",
            )
        before = self.words[self.at - 2] if self.at > 1 else None
        switch = self.vocabulary.by_flag(before.text) if before is not None and not self.only_bare else None
        if word.text in (*TRUE_TEXTS, *FALSE_TEXTS) and switch is not None and switch[0].kind is Kind.SWITCH:
            option = switch[0]
            off = f"{option.negative[0]} for off" if option.negative else "leave it out for off"
            _tokens.refuse(word, f"{option.flag} takes no value", f"write {option.flag} for on, {off}")
        if not word.text:
            _tokens.refuse(word, "the model's name is empty", "name a model, or leave the quotes out")
        self.done.bare.append(word)
        self.done.options["model"] = self._value(self.positional, word, word.text)
        self.done.words["model"] = word

    # -- flags ------------------------------------------------------------------------------------------------------

    def _flag(self, word: Word) -> None:
        if self.vocabulary.syntax is Syntax.VLLM and re.match(r"-O(?!$)|-O$", word.text):
            self._optimization(word)
            return
        name, equals, attached = word.text.partition("=")
        value = attached if equals else None
        found = self.vocabulary.by_flag(word.text) or self.vocabulary.by_flag(name)
        if found is not None:
            if self.llama and equals:
                self._warn(word, f"llama-server reads no '='; {name} and its value became two words")
            self._known(word, name, *found, value)
            return
        if self._dotted(word, name, value) or self._gone(word, name, value):
            return
        if not self.llama and (self._abbreviated(word, name, value) or self._clustered(word)):
            return
        self._unknown(word, name, value)

    def _optimization(self, word: Word) -> None:
        """``-O3``, ``-O 3`` and ``-O=3``; ``-O.key`` and ``-O '{…}'`` are the older spelling of compilation_config."""
        rest = word.text[2:]
        if rest.startswith("."):
            name, equals, attached = ("--compilation-config" + rest).partition("=")
            self._dotted(word, name, attached if equals else None)
            return
        value = rest[1:] if rest.startswith("=") else rest
        text = value if value else self._next(word, self.vocabulary["optimization_level"])
        owner = "compilation_config" if text.lstrip().startswith("{") else "optimization_level"
        self._known(word, "-O", self.vocabulary[owner], True, text)

    def _known(self, word: Word, name: str, option: Option, positive: bool, value: str | None) -> None:
        if option.kind is Kind.SWITCH:
            self._switch(word, name, option, positive, value)
            return
        if option.optional and value is None and not self._value_follows(option):
            self._put(word, option, "")
            return
        match option.kind:
            case Kind.VALUE:
                text = self._next(word, option) if value is None else value
                self._put(word, option, self._value(option, word, text))
            case Kind.APPEND:
                text = self._next(word, option) if value is None else value
                self._extend(word, option, [self._value(option, word, text)])
            case Kind.COMMA:
                text = self._next(word, option) if value is None else value
                self._comma(word, option, text)
            case Kind.TUPLE:
                texts = [self._next(word, option) for _ in range(option.count)] if value is None else [value]
                self._put(word, option, [self._value(option, word, text) for text in texts])
            case Kind.LIST:
                texts = self._many(word, option) if value is None else [value]
                if option.name in self.done.options:
                    self._warn(word, f"{name} is given again; its values were added to the earlier ones")
                self._extend(word, option, [self._value(option, word, text) for text in texts])

    def _switch(self, word: Word, name: str, option: Option, positive: bool, value: str | None) -> None:
        if value is not None and value not in (*TRUE_TEXTS, *FALSE_TEXTS):
            _tokens.refuse(word, f"{name} takes no value, not even {named(value, 'this one')}", f"write {option.flag}")
        state = positive if value is None or value in TRUE_TEXTS else not positive
        if not state and not option.negative:
            self._warn(word, f"{name} is off unless it is given, so it was left out")
            return
        self._put(word, option, state)

    def _comma(self, word: Word, option: Option, text: str) -> None:
        parts = [text] if '"' in text else text.split(",")
        value: JsonValue = [self._value(option, word, part) for part in parts] if len(parts) > 1 else None
        if value is None:
            value = self._value(option, word, text)
        earlier = self.done.options.get(option.name)
        if earlier is None or not option.repeat:
            self._put(word, option, value)
            return
        joined = earlier if isinstance(earlier, list) else [earlier]
        self.done.options[option.name] = [*joined, *(value if isinstance(value, list) else [value])]

    def _dotted(self, word: Word, name: str, value: str | None) -> bool:
        if self.vocabulary.syntax is not Syntax.VLLM or "." not in name:
            return False
        base, *path = name.split(".")
        found = self.vocabulary.by_flag(base)
        if found is None or found[0].type is not Type.JSON or found[0].kind is not Kind.VALUE or not all(path):
            return False
        option = found[0]
        text = self._next(word, option) if value is None else value
        adds = path[-1].endswith("+")
        path[-1] = path[-1].removesuffix("+")
        held = self.done.options.get(option.name, {})
        if not isinstance(held, dict):
            _tokens.refuse(word, f"{name} adds to {base}, which is not a mapping", "use one of the two")
        if not adds and text != "null" and decode_json(text) is None and is_json(text):
            _tokens.refuse(word, "this value cannot be written to a file without loss", f"give {base} as a whole")
        if len(path) > DEEPEST or "${" in name:
            _tokens.refuse(word, "this flag cannot be written as a key of the file", f"give {base} as a whole")
        item: JsonValue = list(text.split(",")) if adds else loose_json(text)
        if self.pasted and not adds:
            item = read_json(text, loose_json)
            if item == text != loose_json(text):
                _tokens.refuse(word, "this value cannot be written to a file without loss", f"give {base} as a whole")
        whole = self.done.words.get(option.name)
        if whole is not None and whole.text.partition("=")[0] in option.flags:
            self._warn(word, f"{name} was merged into {base}; {self.vocabulary.program} itself would forget {base}")
        before = _deep(held, path)
        if adds and isinstance(before, list):
            before.extend(text.split(","))
            return True
        merged = set_deep(held, path, item)
        if merged is None:
            _tokens.refuse(word, f"{name} is given twice", "keep one of them")
        self.done.options[option.name] = merged
        self.done.words.setdefault(option.name, word)
        return True

    def _gone(self, word: Word, name: str, value: str | None) -> bool:
        """A flag of an earlier version that is an option of this one by another name, or that nothing is lost without."""
        gone = self.vocabulary.gone_flag(name) if name.startswith("--") else None
        if gone is None or gone.later or value is not None:
            return False
        said = f"{self.vocabulary.program} {self.vocabulary.version} no longer has {name}"
        if gone.becomes:
            name = "--" + name[2:].replace("_", "-")
            settled, partner = self.renamed.take(word, name, gone, self.done.options)
            for key, meaning in settled.items():
                self.done.options[key] = meaning
                self.done.words.setdefault(key, word)
            meant = ", ".join(f"{key}: {meaning}" for key, meaning in settled.items())
            self._warn(word, f"{said}; taken{f' with {partner}' if partner else ''} as {meant}")
            return True
        if gone.moot:
            self._warn(word, f"{said}, which was left out: {gone.hint}")
        return gone.moot

    def _abbreviated(self, word: Word, name: str, value: str | None) -> bool:
        if not name.startswith("--") or len(name) < 5:
            return False
        hit = self.vocabulary.by_prefix(name)
        if hit is None:
            return False
        full, option, positive = hit
        self._warn(word, f"{name} was read as {full}")
        self._known(word, full, option, positive, value)
        return True

    def _clustered(self, word: Word) -> bool:
        """``-qawq``: a one-letter flag with its value in the same word, as argparse reads it."""
        found = self.vocabulary.by_flag(word.text[:2]) if not word.text.startswith("--") else None
        if found is None or found[0].kind is Kind.SWITCH:
            return False
        self._known(word, word.text[:2], *found, word.text[2:].removeprefix("="))
        return True

    def _unknown(self, word: Word, name: str, value: str | None) -> None:
        if _SECRET.fullmatch(name) or misspelt_secret(self.vocabulary, name):
            self._secret(word, value)
            return
        if any(dash in name for dash in DASHES):
            _tokens.refuse(word, "there is a long dash in this flag", "write - and -- with the plain minus sign")
        before = self.words[self.at - 2].text if self.at > 1 else ""
        behind_secret = "=" not in before and (secret_flag(before) or _SECRET.fullmatch(before))
        said = "this flag" if behind_secret else flag_named(word.text)
        self.done.unknown.append(word)
        if len(self.done.unknown) > _MOST_UNKNOWN:
            _tokens.refuse(
                word,
                f"more than {_MOST_UNKNOWN} flags that {self.vocabulary.program} does not have",
                "paste one command of this server",
            )
        gone = self.vocabulary.gone_flag(name)
        kept = gone is None or gone.later or not self.own
        near = None
        if gone is None and said == name and len(self.done.unknown) <= _MOST_GUESSES:
            near = self.vocabulary.nearest_flag(name)
        self._warn(word, unknown_said(self.vocabulary, said, gone, kept=kept, near=near))
        if secret_flag(name) and kept:
            self._warn(word, f"what follows {said} stands in the file as it was given; ${{NAME}} would keep it out")
        extra = [word.text]
        while value is None and not (gone is not None and gone.switch) and self._own_value():
            extra.append(self.words[self.at].text)
            self.at += 1
            if self.positional is not None and "model" not in self.done.options:
                break  # one value is its own; a further word may be the model
        if kept:
            self.done.extra.extend(extra)

    def _own_value(self) -> bool:
        """Whether the next word goes with an unknown flag."""
        text = self.words[self.at].text if self.at < len(self.words) else "--"
        return not self._flag_like(text) or _NEGATIVE_NUMBER.fullmatch(text) is not None

    def _secret(self, word: Word, value: str | None) -> None:
        """A key for a server that knows none: dropped with its value, neither of which is repeated anywhere."""
        self._warn(word, f"{word.text.partition('=')[0]} was dropped: {self.vocabulary.program} knows no such option")
        if value is None and self._own_value():
            self.at += 1

    # -- values -----------------------------------------------------------------------------------------------------

    def _value_follows(self, option: Option) -> bool:
        if self.at >= len(self.words):
            return False
        text = self.words[self.at].text
        if self.llama:
            return True
        return not self._flag_like(text)

    def _next(self, word: Word, option: Option) -> str:
        text = self.words[self.at].text if self.at < len(self.words) else None
        ends = text is None or (meant(option, text) not in option.choices and self._flag_like(text))
        if self.llama and ends and set(option.choices) >= ON_OFF:
            self._warn(word, f"{word.text} wants a value today; it was read as on")
            return "on"
        if text is None or not self._value_follows(option):
            hint = None if text is None else f"write {option.flag}={text} if {text} is the value"
            if self.llama or option.secret or (text is not None and flag_named(text) == "this flag"):
                hint = None
            _tokens.refuse(word, f"{word.text} wants a value, and none follows", hint)
        self.at += 1
        return text

    def _many(self, word: Word, option: Option) -> list[str]:
        texts = [self._next(word, option)]
        while self.at < len(self.words) and not self._flag_like(self.words[self.at].text):
            texts.append(self.words[self.at].text)
            self.at += 1
        return texts

    def _value(self, option: Option, word: Word, text: str) -> JsonValue:
        try:
            if option.type is Type.JSON and self.pasted:
                return read_json(text, functools.partial(item_value, option))
            return item_value(option, meant(option, text) if self.llama else text)
        except ValueProblem as problem:
            if option.secret or looks_secret(text):  # the message would repeat it
                _tokens.refuse(word, f"{option.flag} takes {expected(option)}, which the given value is not")
            _tokens.refuse(word, problem.message, problem.hint)

    def _put(self, word: Word, option: Option, value: JsonValue) -> None:
        if option.name in self.done.options:
            first = self.done.words[option.name].place
            before = self.renamed.first(option.name)
            if before is not None:
                message = f"{word.text.partition('=')[0]} and {before.text} exclude each other (first at {first})"
                _tokens.refuse(word, message, f"keep one of them: both are {option.name} today")
            _tokens.refuse(word, f"{option.flag} is given twice (first at {first})", "keep one of them")
        self.done.options[option.name] = value
        self.done.words[option.name] = word

    def _extend(self, word: Word, option: Option, values: list[JsonValue]) -> None:
        held = self.done.options.get(option.name)
        together = [*held, *values] if isinstance(held, list) else values
        self.done.options[option.name] = together
        self.done.words.setdefault(option.name, word)

    def _warn(self, word: Word, message: str) -> None:
        self.done.warnings.append(f"{word.place}: {message}")


def _deep(base: JsonValue, path: Sequence[str]) -> JsonValue:
    for part in path:
        base = base.get(part) if isinstance(base, dict) else None
    return base
