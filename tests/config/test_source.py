"""Finding and reading: the search order, every kind of thing that is not a file, and the identity that tells a file at rest."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.config import source
from reconciler.core.errors import Rejected

TEXT = b"instances: {}\n"
QUICK_S = 0.5
"""Wall clock for one refusal; it takes microseconds, the rest is for two busy cores."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "llamactl.yaml"
    path.write_bytes(TEXT)
    return path


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(100 * 1024 * 1024)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "100 MB": (_huge, "larger than"),
    "a sparse terabyte": (_sparse, "larger than"),
    "a FIFO": (lambda path: os.mkfifo(path), "a FIFO"),
    "a link to /dev/zero": (_link_to("/dev/zero"), "a device"),
    "an empty folder": (lambda path: path.mkdir(), "no *.yaml file"),
    "a socket": (_socket, "a socket"),
    "a link to itself": (_loop, "loop"),
    "a link to nothing": (_link_to("nowhere"), "no such file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_not_a_small_regular_file_is_refused_quickly(kind: str) -> None:
    make, says = HOSTILE[kind]
    with tempfile.TemporaryDirectory(prefix="cfg") as folder:  # a short path: socket names are limited to 107 bytes
        path = Path(folder, "f.yaml")
        make(path)
        started = time.monotonic()
        with pytest.raises(Rejected) as refusal:
            source.read(path)
        assert time.monotonic() - started < QUICK_S
        problem = refusal.value.problems[0]
        assert problem.code == "CONFIG_NOT_READABLE"
        assert says in problem.message
        assert problem.file == str(path)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "an empty folder"])
def test_the_same_is_refused_inside_a_folder(kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cfg") as folder:
        Path(folder, "good.yaml").write_bytes(TEXT)
        HOSTILE[kind][0](Path(folder, "f.yaml"))
        with pytest.raises(Rejected) as refusal:
            source.read(Path(folder))
        assert [Path(problem.file or "").name for problem in refusal.value.problems] == ["f.yaml"]


def test_a_file_without_permission_says_so(file: Path) -> None:
    file.chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may read everything, nobody may not
    try:
        with pytest.raises(Rejected, match="permission denied"):
            source.read(file)
    finally:
        os.seteuid(was)


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected):
        source.read(tmp_path / "a\0b")


def test_exactly_the_limit_is_read_and_one_byte_more_is_not(file: Path) -> None:
    file.write_bytes(b"#" * source.MAX_BYTES)
    assert len(source.read(file).files[0].data) == source.MAX_BYTES
    file.write_bytes(b"#" * (source.MAX_BYTES + 1))
    with pytest.raises(Rejected, match="larger than"):
        source.read(file)


def test_a_folder_is_limited_as_a_whole(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_bytes(b"#" * (source.MAX_BYTES // 2 + 1))
    with pytest.raises(Rejected, match="together"):
        source.read(tmp_path)


def test_one_file_is_read_with_its_hash_and_identity(file: Path) -> None:
    read = source.read(file)
    assert [(item.name, item.data) for item in read.files] == [(str(file), TEXT)]
    assert read.content_hash == hashlib.sha256(TEXT).hexdigest()
    assert read.identity == source.identify(file)
    assert read.root == file


def test_a_folder_is_read_sorted_without_dotfiles_and_other_names(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", ".hidden.yaml", ".#a.yaml", "c.yml", "a.yaml~", "notes.txt"):
        (tmp_path / name).write_bytes(TEXT)
    assert [Path(item.name).name for item in source.read(tmp_path).files] == ["a.yaml", "b.yaml"]


def test_a_folders_hash_knows_which_file_holds_what(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"x: 1\n")
    (tmp_path / "b.yaml").write_bytes(b"y: 1\n")
    before = source.read(tmp_path).content_hash
    (tmp_path / "a.yaml").rename(tmp_path / "c.yaml")
    assert source.read(tmp_path).content_hash != before


@pytest.mark.parametrize("how", ["append", "replace", "touch", "same size", "removed", "swapped link"])
def test_identity_changes_with_every_kind_of_edit(file: Path, how: str) -> None:
    link = file.parent / "link.yaml"
    link.symlink_to(file.name)
    before = source.identify(link)
    assert before
    other = file.parent / "other"
    if how == "append":
        file.write_bytes(TEXT + b"# more\n")
    elif how == "replace":
        other.write_bytes(TEXT)
        other.replace(file)
    elif how in ("touch", "same size"):
        os.utime(file, ns=(1, 1))
    elif how == "removed":
        file.unlink()
    else:
        other.write_bytes(TEXT)
        link.unlink()
        link.symlink_to(other.name)
    assert source.identify(link) != before


def test_identity_of_nothing_is_empty_and_never_an_error(tmp_path: Path) -> None:
    assert source.identify(tmp_path / "missing") == ()
    assert source.identify(tmp_path) == ()


def test_identity_of_a_folder_changes_when_a_file_joins(tmp_path: Path, file: Path) -> None:
    before = source.identify(tmp_path)
    (tmp_path / "more.yaml").write_bytes(TEXT)
    after = source.identify(tmp_path)
    assert len(before) == 1
    assert len(after) == 2


def test_the_search_order_is_the_documented_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    users = home / ".config" / "llamactl"
    users.mkdir(parents=True)
    monkeypatch.chdir(here)
    environ = {"HOME": str(home)}
    (users / "llamactl.yaml").write_bytes(TEXT)
    assert source.find_file(None, environ) == users / "llamactl.yaml"
    (here / "llamactl.yaml").write_bytes(TEXT)
    assert source.find_file(None, environ) == Path("llamactl.yaml")
    (tmp_path / "variable.yaml").write_bytes(TEXT)
    environ["LLAMACTL_CONFIG_PATH"] = str(tmp_path / "variable.yaml")
    assert source.find_file(None, environ) == tmp_path / "variable.yaml"
    (tmp_path / "flag.yaml").write_bytes(TEXT)
    assert source.find_file(tmp_path / "flag.yaml", environ) == tmp_path / "flag.yaml"


def test_a_missing_file_is_an_error_that_names_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if Path("/etc/llamactl/llamactl.yaml").exists():
        pytest.skip("this host has a configuration of its own")
    with pytest.raises(Rejected) as refusal:
        source.find_file(None, {"HOME": str(tmp_path)})
    problem = refusal.value.problems[0]
    assert problem.code == "CONFIG_NOT_READABLE"
    for place in ("llamactl.yaml", str(tmp_path / ".config/llamactl/llamactl.yaml"), "/etc/llamactl/llamactl.yaml"):
        assert place in problem.message


def test_a_place_that_was_named_is_never_skipped(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(Rejected, match="missing"):
        source.find_file(Path("missing.yaml"), {})
    with pytest.raises(Rejected, match="LLAMACTL_CONFIG_PATH"):
        source.find_file(None, {"LLAMACTL_CONFIG_PATH": "missing.yaml"})


def test_a_dangling_link_is_found_so_that_reading_can_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llamactl.yaml").symlink_to("gone")
    assert source.find_file(None, {"HOME": str(tmp_path)}) == Path("llamactl.yaml")


def test_every_link_on_the_way_is_watched(tmp_path: Path) -> None:
    """As a ConfigMap is mounted: the file is a link through a folder that is itself a link."""
    tmp_path = tmp_path.resolve()
    mount, outside = tmp_path / "mount", tmp_path / "outside"
    (mount / "..2024").mkdir(parents=True)
    outside.mkdir()
    (outside / "real.yaml").write_bytes(TEXT)
    (mount / "..2024" / "llamactl.yaml").symlink_to(outside / "real.yaml")
    (mount / "..data").symlink_to("..2024")
    (mount / "llamactl.yaml").symlink_to("..data/llamactl.yaml")
    folders = set(source.watch_folders(mount / "llamactl.yaml"))
    assert {mount, mount / "..2024", outside} <= folders


def test_a_folder_is_watched_with_its_parent(tmp_path: Path) -> None:
    folder = tmp_path.resolve() / "conf"
    folder.mkdir()
    assert set(source.watch_folders(folder)) >= {folder, folder.parent}


def test_watching_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert tmp_path.resolve() in source.watch_folders(tmp_path.resolve() / "a")
