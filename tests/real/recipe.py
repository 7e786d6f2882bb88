"""What every recipe offers, and the key that says when an install is to be done again. Standard library only."""

from __future__ import annotations

import ast
import inspect
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.real.cache import Slot, key_of

_PARSING: Final = threading.Lock()
"""CPython 3.11 and 3.12 count the depth of a parse per interpreter, not per thread: two at once can fail with SystemError."""


def _meaning(recipe: type) -> list[str]:
    """A recipe's source without comments and layout, so that only a real change of it reinstalls."""
    own = [owner for owner in recipe.__mro__ if owner not in (Recipe, object)]
    with _PARSING:
        return [ast.dump(ast.parse(textwrap.dedent(inspect.getsource(owner)))) for owner in own]


class Recipe:
    """What every recipe offers: a name, a version, a key over all it depends on, and the steps that fill a folder."""

    name: str
    version: str
    inputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()

    def slot(self, root: Path) -> Slot:
        """The keyed folder of this recipe under a cache root."""
        parts = [self.name, self.version, *_meaning(type(self)), *(path.read_text() for path in self.inputs)]
        return Slot(root, self.name, self.version, key_of(parts))

    def products(self, folder: Path) -> Mapping[str, Path]:
        """What the tests use, by name; all must exist in a finished install."""
        raise NotImplementedError

    def fill(self, slot: Slot) -> None:
        """Run the steps; raises InstallFailed."""
        raise NotImplementedError
