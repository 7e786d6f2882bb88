"""What a shell or a terminal puts around and between words, as data: operators and what to do about each, quotes, dashes, prompts."""

from __future__ import annotations

import re

QUOTES = "".join(
    (
        "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}",
        "\N{RIGHT SINGLE QUOTATION MARK}\N{SINGLE LOW-9 QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}",
        "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
        "\N{PRIME}\N{DOUBLE PRIME}\N{ACUTE ACCENT}\N{FULLWIDTH QUOTATION MARK}\N{FULLWIDTH APOSTROPHE}",
    )
)
"""Quotes that word processors and chats put in the place of ``'`` and ``"``."""
DASHES = "".join(
    (
        "\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}\N{EN DASH}\N{EM DASH}\N{HORIZONTAL BAR}\N{MINUS SIGN}",
        "\N{SMALL EM DASH}\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}",
    )
)
"""Dashes that they put in the place of ``-`` and ``--``."""

OPERATORS = (
    *("&&", "||", "&>>", "&>", ">>", "<<<", "<<", ">&", "<&", ">|", "<>", ";;"),
    *("&", "|", ">", "<", ";", "(", ")"),
)
"""Longer ones first."""
_OUTPUT = "leave the redirection out; the output is kept by llamactl (llamactl logs NAME)"
_CURES = {
    "&": "paste only the server's own command; llamactl runs it in the background by itself",
    "|": "paste only the server's own command; its output is kept by llamactl (llamactl logs NAME)",
    ">": _OUTPUT,
    "<": "leave the redirection out; the server gets no input",
    ";": "paste one command at a time",
    "(": "quote the text if the bracket is meant",
    ")": "quote the text if the bracket is meant",
}
_TWO_COMMANDS = "paste one command at a time; working_directory and environment of an instance replace cd and export"

PROMPT = re.compile(
    r"""
    \s*
    (?P<prompt>
        (?: \([\w.-]+\) [ ]* )?                             # (venv)
        (?: [\w.-]+@[\w.-]+ [: ] [^\s$\#%>]* [ ]? [$\#%]    # user@host:~/x$
          | \[ [\w.-]+@[\w.-]+ [ ] [^\]\n]* \] [$\#%]       # [user@host x]$
          | PS [ ] [^>\n]{0,200} >                          # PS C:\x>
          | [A-Za-z]:\\ [^>\s]{0,200} >                     # C:\x>
          | [$%] | >>>
        )
      | \([\w.-]+\) (?= [ \t]+ \S )                         # (venv) alone
    )
    [ \t]+
    """,
    re.VERBOSE,
)
"""What a terminal prints before the command. ``# `` is none: that is a comment; nor is ``> ``, which redirects."""


def cure(operator: str, *, inside: bool) -> str:
    """What to do about an operator (``2>&1`` comes as ``2>&``); ``inside`` says that it stands in the middle of a word."""
    sign = operator.lstrip("0123456789")
    if sign in ("<<", "<<<"):
        return "leave it out; the server gets no input"
    if sign in ("&&", "||"):
        return _TWO_COMMANDS
    if inside and sign in ("&", "|", ";", "(", ")"):
        return f"put quotes around the whole word if {sign} belongs to it; else {_CURES[sign]}"
    return _OUTPUT if sign.startswith("&>") else _CURES[sign[0]]
