"""The variable by which a service unit says how long a model waits for its daemon."""

from __future__ import annotations

import pytest

from reconciler.backends import discover
from reconciler.config.load import load_text
from reconciler.core.errors import Rejected

FILE = b"server: {orphan_ttl: 2h}\ninstances: {}\n"


def test_it_wins_over_the_file() -> None:
    fleet = load_text(FILE, name="f.yaml", backends=discover(), environ={"LLAMACTL_ORPHAN_TTL": "0s"})
    assert fleet.server.orphan_ttl == 0.0


def test_a_bad_value_names_the_variable() -> None:
    with pytest.raises(Rejected, match="LLAMACTL_ORPHAN_TTL"):
        load_text(FILE, name="f.yaml", backends=discover(), environ={"LLAMACTL_ORPHAN_TTL": "soon"})
