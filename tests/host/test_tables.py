"""Kept tables survive whatever happens to their folder: a file that makes no sense is no table, and never a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.host.programs import Identity, Program
from reconciler.host.tables import FOLDER_NAME, MOST_KEPT, Kept, Tables


def kept(digest: str = "ab" * 32, kind: str = "vllm", **table: object) -> Kept:
    """A table of a program."""
    return Kept(
        kind=kind,
        program=Program(path="/opt/vllm", command=("/opt/vllm",), interpreter=("/opt/python",), content="/opt/vllm"),
        identity=Identity(digest=digest, seen=(("/opt/vllm", "1", "2", "3", "4", "5"),), site=None),
        reader="cd" * 32,
        read_at="2026-11-22T10:00:00.000Z",
        table={"backend": kind, "options": [], **table},
    )


@pytest.fixture
def said() -> list[str]:
    """What the tables told."""
    return []


@pytest.fixture
def tables(tmp_path: Path, said: list[str]) -> Tables:
    """In a state folder that is not there yet."""
    return Tables(tmp_path / "state", said.append)


def test_what_is_kept_is_read_back_by_others_of_its_kind_alone(tables: Tables, tmp_path: Path, said: list[str]) -> None:
    made = kept(version="1")
    path = tables.keep(made)
    assert path.name == f"vllm-{'ab' * 8}.json"
    other = Tables(tmp_path / "state", said.append)
    assert other.of("vllm") == (made,)
    assert other.of("llama_cpp") == ()
    assert said == []


def test_the_same_file_is_the_same_object_until_it_changes(tables: Tables, tmp_path: Path, said: list[str]) -> None:
    made = kept(version="1")
    tables.keep(made)
    assert tables.of("vllm")[0] is made
    other = Tables(tmp_path / "state", said.append)
    first = other.of("vllm")[0]
    assert other.of("vllm")[0] is first
    tables.keep(kept(version="2"))
    assert other.of("vllm")[0].table["version"] == "2"


def test_no_folder_is_no_table_and_nothing_is_made(tables: Tables, tmp_path: Path) -> None:
    assert tables.of("vllm") == ()
    assert tables.unreadable is None
    assert list(tmp_path.iterdir()) == []


def test_the_newest_comes_first_and_the_oldest_go(tables: Tables, tmp_path: Path) -> None:
    for number in range(MOST_KEPT + 3):
        path = tables.keep(kept(f"{number:016x}" + "0" * 48))
        os.utime(path, ns=(number, number))
    found = tables.of("vllm")
    assert len(found) == MOST_KEPT
    assert [one.identity.digest for one in found] == sorted((one.identity.digest for one in found), reverse=True)
    assert f"{MOST_KEPT + 2:016x}" in {one.identity.digest[:16] for one in found}, "the one just written stays"


GARBAGE = {
    "empty": b"",
    "half": b'{"format": 1, "kind": "vllm", "table": {',
    "no object": b"[1]",
    "another": b"{}",
    "deep": b"[" * 100_000,
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_put_aside_and_told(
    data: bytes, tables: Tables, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tables.keep(kept())
    path.write_bytes(data)
    assert tables.of("vllm") == ()
    assert not path.exists()
    assert path.with_name(path.name + ".bad").read_bytes() == data
    assert f"cannot use {path}" in caplog.text


@pytest.mark.parametrize("field", ["kind", "program", "identity", "reader", "sum", "table", "read_at"])
def test_a_file_that_lacks_or_mistakes_anything_is_no_table(field: str, tables: Tables) -> None:
    path = tables.keep(kept())
    whole = json.loads(path.read_text())
    values: tuple[object, ...] = (None, 3, {}, [])
    for value in values:
        path.write_text(json.dumps({**whole, field: value}))
        assert tables.of("vllm") == (), f"{field}: {value}"


def test_a_changed_table_is_not_what_was_written(tables: Tables) -> None:
    path = tables.keep(kept(version="1"))
    path.write_text(path.read_text().replace('"version": "1"', '"version": "2"'))
    assert tables.of("vllm") == ()


def test_another_format_is_left_alone_and_told_once(tables: Tables, said: list[str]) -> None:
    path = tables.keep(kept())
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert tables.of("vllm") == ()
    assert tables.of("vllm") == ()
    assert path.exists()
    assert len(said) == 1
    assert "another version of llamactl" in said[0]


def test_a_file_under_another_name_is_no_table(tables: Tables) -> None:
    path = tables.keep(kept())
    path.rename(path.with_name(f"vllm-{'cd' * 8}.json"))
    assert tables.of("vllm") == ()


def test_what_cannot_be_opened_is_told_and_ignored(tables: Tables, said: list[str]) -> None:
    path = tables.keep(kept())
    path.unlink()
    path.mkdir()
    assert tables.of("vllm") == ()
    assert tables.of("vllm") == ()
    assert len(said) == 1
    assert str(path) in said[0]


def test_a_folder_that_cannot_be_looked_into_counts_as_none(tmp_path: Path, said: list[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / FOLDER_NAME).symlink_to(state / FOLDER_NAME)
    tables = Tables(state, said.append)
    assert tables.of("vllm") == ()
    assert tables.unreadable is not None
    assert str(state / FOLDER_NAME) in tables.unreadable
    with pytest.raises(OSError, match="File exists"):
        tables.keep(kept())


def test_the_folder_of_another_user_is_not_written_to(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="run this as that user"):
        tables.keep(kept())


def test_several_processes_write_at_once(tables: Tables, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.host.test_tables import kept\n"
        "from reconciler.host.tables import Tables\n"
        "tables = Tables(Path(sys.argv[1]), lambda text: sys.exit(text))\n"
        "for number in range(30):\n"
        "    tables.keep(kept(f'{number % 20:016x}' + '0' * 48, version=sys.argv[2] * 5000))\n"
        "    tables.of('vllm')\n"
    )
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state"), who], cwd=root, stderr=subprocess.PIPE)
        for who in "ab"
    ]
    for writer in writers:
        _, told = writer.communicate(timeout=60)
        assert writer.returncode == 0, told
        assert told == b""
    found = tables.of("vllm")
    assert 1 <= len(found) <= MOST_KEPT
    assert not [name for name in os.listdir(tables.folder) if name.endswith((".bad", ".tmp"))]


def test_a_table_that_its_backend_refuses_can_be_put_aside(tables: Tables) -> None:
    made = kept()
    path = tables.keep(made)
    tables.reject(made, "no such option")
    assert not path.exists()
    assert tables.of("vllm") == ()


def foreign(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this another user's: by giving it away, which only root can, or by being another one."""
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
    else:
        other = os.getuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)


@pytest.mark.parametrize("what", ["pipe", "link to a device", "link to a pipe"])
def test_what_is_no_regular_file_holds_nothing_up(what: str, tables: Tables, said: list[str], tmp_path: Path) -> None:
    path = tables.keep(kept())
    path.unlink()
    pipe = path if what == "pipe" else tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    if what != "pipe":
        path.symlink_to("/dev/zero" if what == "link to a device" else pipe)
    other = tables.keep(kept("cd" * 32))
    assert [one.identity.digest for one in tables.of("vllm")] == ["cd" * 32], "the others count"
    assert len(tables.of("vllm")) == 1
    assert other.exists()
    assert len(said) == 1, "told once"
    assert str(path) in said[0]


def test_a_file_is_read_up_to_a_bound_whatever_its_size_was_said_to_be(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tables.keep(kept(version="x" * 5000))
    monkeypatch.setattr("reconciler.host.tables.MOST_BYTES", 4000)
    os.utime(path, ns=(1, 1))
    assert tables.of("vllm") == ()
    assert path.with_name(path.name + ".bad").exists()


def test_a_table_that_another_user_wrote_does_not_count(
    tables: Tables, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tables.keep(kept())
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away; the folder's owner is tested as any user")
    foreign(path, monkeypatch)
    assert tables.of("vllm") == ()
    assert tables.of("vllm") == ()
    assert path.exists(), "what is not ours is left alone"
    assert len(said) == 1
    assert f"cannot use {path}: it belongs to user 54321" in said[0]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_table_that_others_may_write_does_not_count_until_that_is_repaired(
    mode: int, tables: Tables, said: list[str]
) -> None:
    path = tables.keep(kept())
    path.chmod(mode)
    assert tables.of("vllm") == ()
    assert "others may write to it; it is ignored (see what is in it, then `chmod 600 " in said[0]
    path.chmod(0o600)
    assert len(tables.of("vllm")) == 1
    assert len(said) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_tables_in_a_folder_that_others_may_write_do_not_count_and_none_is_kept_there(
    mode: int, tables: Tables, said: list[str]
) -> None:
    tables.keep(kept())
    tables.folder.chmod(mode)
    assert tables.of("vllm") == ()
    assert tables.of("vllm") == ()
    assert len(said) == 1
    assert f"cannot use {tables.folder}: others may write to it" in said[0]
    with pytest.raises(PermissionError, match="chmod 700"):
        tables.keep(kept("cd" * 32))
    tables.folder.chmod(0o700)
    assert len(tables.of("vllm")) == 1


def test_tables_in_a_folder_of_another_user_do_not_count(
    tables: Tables, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.keep(kept())
    foreign(tables.folder, monkeypatch)
    assert tables.of("vllm") == ()
    assert "belongs to user" in said[0]
