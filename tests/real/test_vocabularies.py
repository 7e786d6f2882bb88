"""The packaged tables are what is read from the real programs today, option by option, help texts aside."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from reconciler.backends import discover
from reconciler.backends._reading import as_text, differences, packaged
from reconciler.backends._vocabulary import from_table, load
from reconciler.core.options import RUNS_APART, OptionTable
from tests.real.cache import clean_environment
from tests.real.conftest import Declare
from tests.real.servers import SERVERS, RealServer

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real"), pytest.mark.timeout(300)]

FOLDER = Path(__file__).resolve().parents[2] / "reconciler" / "backends" / "vocabulary"
REGENERATE = "LLAMACTL_WRITE_VOCABULARIES=1"
"""Set, the tables are written anew from what is installed, and the test passes if they can be loaded."""


def read(server: RealServer, executable: Path) -> OptionTable:
    """Ask the program as its backend says."""
    backend = discover()[server.backend_type]
    source = backend.option_source
    assert source is not None
    runs: list[list[str | Path]]
    if source.script is not None:
        runs = [[executable.parent / "python", "-c", source.script]]
    else:
        runs = [[executable, *source.arguments], [executable, *source.version_arguments]]
    outputs = []
    for command in runs:
        done = subprocess.run(
            command,
            env={**clean_environment(), **source.environment},
            capture_output=True,
            text=True,
            timeout=source.timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command[0]}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        outputs.append(done.stdout + done.stderr)
    return backend.read_options(RUNS_APART.join(outputs))


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.backend_type)
def test_the_packaged_table_is_what_the_program_says(server: RealServer, declare: Declare) -> None:
    kind = server.backend_type
    table = read(server, declare("any", server).executable)
    file = FOLDER / f"{kind}.json"
    if os.environ.get(REGENERATE.partition("=")[0]) == "1":
        file.write_text(as_text(packaged(table)), encoding="utf-8")
        load.cache_clear()
        return
    ours = load(kind)
    theirs = from_table(table)
    found = list(differences(packaged_file(file), table))
    assert not found, (
        f"{len(found)} differences between {file.name} and the installed {theirs.program} {theirs.version}; after a change of the "
        f"pinned version run `{REGENERATE} pytest -m real -n 0 {Path(__file__).name}` and look at its diff:\n  "
        + "\n  ".join(found)
    )
    assert file.read_text(encoding="utf-8") == as_text(packaged(table))
    assert [option.name for option in theirs] == [option.name for option in ours]
    assert sum(bool(option.help) for option in theirs) >= len(theirs.options) * 0.9, "its own help texts come along"


def packaged_file(file: Path) -> OptionTable:
    """The packaged table as plain data."""
    table: OptionTable = json.loads(file.read_text(encoding="utf-8"))
    return table
