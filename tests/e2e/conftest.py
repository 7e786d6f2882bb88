"""A real daemon on simulators for each test; whatever a failed test leaves behind is ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon to be started by the test, in a folder, with a port and a state folder of its own."""
    made = Daemon(tmp_path)
    yield made
    made.clean_up()
