"""A folder of files is one fleet; what stands in two of them is an error that shows both."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.config.load import load
from reconciler.config.source import read
from reconciler.core.errors import Rejected
from tests.config.fakes import BACKENDS, one


def _folder(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_the_files_of_a_folder_are_one_fleet(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a="server: {port: 1}\n" + one("one"), b=one("two"), c="defaults: {replicas: 2}\n")
    loaded = load(read(folder), backends=BACKENDS, environ={})
    assert list(loaded.instances) == ["one", "two"]
    assert loaded.server.port == 1
    assert loaded.instances["two"].replicas == 2


def test_an_instance_in_two_files_is_an_error_that_shows_both_places(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a=one("same"), b="# moved down\n" + one("same"))
    with pytest.raises(Rejected) as refusal:
        load(read(folder), backends=BACKENDS, environ={})
    (problem,) = refusal.value.problems
    assert (problem.file, problem.line, problem.column) == (str(folder / "b.yaml"), 3, 3)
    assert problem.also == ((str(folder / "a.yaml"), 2, 3),)


def test_another_section_in_two_files_is_an_error(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a="server: {port: 1}\nx-m: 1\n", b="server: {host: a}\nx-m: 1\n" + one())
    with pytest.raises(Rejected) as refusal:
        load(read(folder), backends=BACKENDS, environ={})
    (problem,) = refusal.value.problems
    assert (problem.file, problem.line, problem.path) == (str(folder / "b.yaml"), 1, "server")


def test_the_mistakes_of_all_files_are_told_together(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a="a: b: c\n", b="%YAML 1.1\n---\n", c=one())
    with pytest.raises(Rejected) as refusal:
        load(read(folder), backends=BACKENDS, environ={})
    assert [Path(problem.file or "").name for problem in refusal.value.problems] == ["a.yaml", "b.yaml"]
