"""What could be written and could never be started, or asked for, is refused before it is in force."""

from __future__ import annotations

import pytest

from reconciler.backends import discover
from reconciler.config.load import load_text
from reconciler.core.errors import Rejected

ONE = """\
instances:
  tiny:
    backend_type: simulator
    {setting}
"""


@pytest.mark.parametrize(
    ("setting", "said", "column"),
    [
        ('environment: {"A=B": x}', "'A=B' cannot be the name of a variable", None),
        ('environment: {"": x}', "cannot be the name of a variable", None),
        ('aliases: ["a\\nb"]', "must not hold control characters", 15),
    ],
)
def test_it_is_refused_at_its_line(setting: str, said: str, column: int | None) -> None:
    with pytest.raises(Rejected) as caught:
        load_text(ONE.format(setting=setting).encode(), name="f.yaml", backends=discover(), environ={})
    problem = caught.value.problems[0]
    assert said in problem.message
    assert problem.line == 4
    assert column is None or problem.column == column
