"""Fixtures for the real servers: a server that is not installed is a skip on a desk and a failure in CI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon
from tests.real.cache import default_cache
from tests.real.install import product
from tests.real.servers import Declared, RealServer

Declare = Callable[[str, RealServer], Declared]


def required() -> bool:
    """Whether a missing server is a failure: in CI, or when asked for by LLAMACTL_REQUIRE_REAL=1."""
    return bool(os.environ.get("CI")) or os.environ.get("LLAMACTL_REQUIRE_REAL") == "1"


def absent(component: str, cache: Path) -> None:
    reason = f"{component} is not installed in {cache}: run `python3 tests/real/install.py {component}`"
    if required():
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_cache() -> Path:
    """The cache folder that the installer fills."""
    return default_cache()


@pytest.fixture
def declare(real_cache: Path) -> Declare:
    """Name an instance of a real server, with its executable and model on this machine."""

    def build(name: str, server: RealServer) -> Declared:
        executable, model = server.executable(real_cache), product(real_cache, "models", server.model)
        if executable is None:
            absent(server.component, real_cache)
        if model is None:
            absent("models", real_cache)
        assert executable is not None
        assert model is not None
        return Declared(name, server, executable, model)

    return build


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon to be started by the test; whatever it leaves behind is ended afterwards, passed or failed."""
    made = Daemon(tmp_path)
    yield made
    made.clean_up()
