"""Variables that another tool gives a server, as the ``environment`` of an instance: secrets as references, our own keys left out.

Knows no server: which variables are llamactl's to give is what the reading of a command line says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from reconciler.config.importers._carry import Ledger
from reconciler.config.importers._words import Text, file_text, refs, shown
from reconciler.config.importers.contract import Understand
from reconciler.core.errors import Rejected
from reconciler.core.secrets import is_secret_name
from reconciler.core.spec import OptionValue


@dataclass(slots=True)
class Variables:
    """Those of all instances of one file."""

    understand: Understand
    _secrets: dict[str, str] = field(default_factory=dict)
    """Values that became references, by variable: two of them cannot have one name."""

    def carried(
        self, name: str, value: Text, what: str, ledger: Ledger, *, command: str | None = None, line: int | None = None
    ) -> OptionValue | None:
        """The value as our file writes it; None, and noted, where llamactl gives the variable itself. Unsayable as ever.

        ``command`` is the server's, where llamactl knows it.
        """
        if command is not None and is_secret_name(name) and self._is_own(name, command):
            ledger.add(what, "llamactl gives each server a random key of its own, by this variable", line=line)
            return None
        kept = ledger.environment(name, value, what, line=line)
        if kept != value and self._secrets.setdefault(name, shown(value)) != shown(value):
            reference = refs(kept)[0]
            why = f"it has another value elsewhere in this file, and {reference} is the same everywhere"
            ledger.add(what, why, f"give it a variable of its own in place of {reference}", line=line)
        return file_text(kept)

    def _is_own(self, name: str, command: str) -> bool:
        if not re.fullmatch(r"\w+", name):
            return False
        try:
            return name not in self.understand(f"{name}=x {command}").environment
        except Rejected:
            return False
