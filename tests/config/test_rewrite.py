"""Editing a file on disk without a daemon: whole or not at all, its mode and links kept, and never over somebody else's change."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.config import source
from reconciler.config.document import set_enabled
from reconciler.config.rewrite import rewrite
from reconciler.config.schema import EDITOR_HINT, MODELINE, SCHEMA_NAME
from reconciler.core.errors import Conflict, Rejected

TEXT = "# mine\ninstances:\n  a: {t: v}  # one\n"
OFF = TEXT.replace("{t: v}", "{enabled: false, t: v}")


def off(text: str) -> str:
    return set_enabled(text, "a", False)


def anything(content: source.Source) -> None:
    del content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(TEXT)
    return path


def test_mode_and_link_stay(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to("fleet.yaml")
    done = rewrite(link, off, check=anything)
    assert (done.created, done.changed, done.notes) == (False, True, ())
    assert link.is_symlink()
    assert file.read_text() == OFF
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_another_hard_link_is_told_of(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "other")
    done = rewrite(file, off, check=anything)
    assert "1 more hard link," in done.notes[0]
    assert (tmp_path / "other").read_text() == TEXT


def test_a_new_file_names_a_schema_that_is_there_and_else_says_how_to_get_one(tmp_path: Path) -> None:
    rewrite(tmp_path / "early.yaml", lambda text: text + "instances: {}\n", check=anything)
    early = (tmp_path / "early.yaml").read_text()
    assert early == EDITOR_HINT + "instances: {}\n"
    assert not any(re.match(r"#\s+yaml-language-server\s*:", line) for line in early.splitlines()), (
        "an error in editors"
    )
    assert f"llamactl schema -o {SCHEMA_NAME}" in early
    (tmp_path / SCHEMA_NAME).write_text("{}")
    done = rewrite(tmp_path / "new.yaml", lambda text: text + "instances: {}\n", check=anything)
    assert done.created
    assert (tmp_path / "new.yaml").read_text() == MODELINE + "instances: {}\n"
    assert stat.S_IMODE((tmp_path / "new.yaml").stat().st_mode) == 0o644


def test_nothing_to_change_touches_nothing(file: Path) -> None:
    before = file.stat()
    assert not rewrite(file, lambda text: text, check=anything).changed
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("theirs", [TEXT + "# theirs\n", None], ids=["changed", "gone"])
def test_what_somebody_else_wrote_meanwhile_is_not_lost(file: Path, theirs: str | None) -> None:
    def meanwhile(content: source.Source) -> None:
        del content
        file.unlink() if theirs is None else file.write_text(theirs)

    with pytest.raises(Conflict, match="somebody else"):
        rewrite(file, off, check=meanwhile)
    assert (file.read_text() if file.exists() else None) == theirs
    assert [each.name for each in file.parent.iterdir() if each.name.startswith(".")] == []


def test_a_file_that_appeared_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    with pytest.raises(Conflict):
        rewrite(path, lambda text: text + "instances: {}\n", check=lambda content: path.write_text(TEXT))
    assert path.read_text() == TEXT


def test_what_the_check_refuses_is_not_written(file: Path) -> None:
    def refuse(content: source.Source) -> None:
        assert content.files[0].data == OFF.encode()
        assert content.files[0].name == str(file)
        raise Rejected

    with pytest.raises(Rejected):
        rewrite(file, off, check=refuse)
    assert file.read_text() == TEXT


def test_a_file_in_another_encoding_is_refused_by_name(file: Path) -> None:
    file.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(Rejected) as refused:
        rewrite(file, off, check=anything)
    assert refused.value.problems[0].file == str(file)
    assert file.read_bytes() == TEXT.encode("utf-16")


FULL = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
KILLED = "import os\nwrite = os.replace\nos.replace = lambda *names: os.kill(os.getpid(), 9)\n"


@pytest.mark.parametrize("trouble", [FULL, KILLED], ids=["full disk", "killed"])
def test_a_full_disk_or_a_kill_in_the_middle_leaves_the_old_bytes(file: Path, trouble: str) -> None:
    program = (
        f"{trouble}\nimport sys\nfrom pathlib import Path\nfrom reconciler.config.rewrite import rewrite\n"
        "from reconciler.config.document import set_enabled\n"
        "rewrite(Path(sys.argv[1]), lambda text: set_enabled(text, 'a', False), check=lambda content: None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Error" not in done.stderr or "File too large" in done.stderr
    assert file.read_text() == TEXT


def test_edits_at_the_same_time_are_made_one_after_the_other(file: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom reconciler.config.rewrite import rewrite\n"
        "from reconciler.config.document import set_instance\n"
        "rewrite(Path(sys.argv[1]), lambda text: set_instance(text, sys.argv[2], {'t': 'v'}), check=lambda content: None)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(file), f"n{number}"]) for number in range(4)]
    assert [one.wait(60) for one in running] == [0] * 4
    assert sorted(file.read_text().removeprefix(TEXT).split()) == sorted(
        word for number in range(4) for word in (f"n{number}:", "t:", "v")
    )
