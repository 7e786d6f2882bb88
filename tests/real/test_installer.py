"""The installer's promises, with a recipe that takes no time: finished once, redone when cut off, one at a time, loud."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.real.cache import InstallFailed, Slot, run_step
from tests.real.install import ensure, is_installed, main
from tests.real.language_server import LanguageServer
from tests.real.recipe import Recipe
from tests.real.recipes import RECIPES

PINNED = re.compile(r"[a-z0-9][\w.-]*==\d[\w.]*")
DIGESTED = re.compile(r"[\w@/.-]+ \d[\w.-]* sha512-[\w+/]{86}==")


class Note(Recipe):
    """Writes one file, and counts beside the cache how often it was asked to."""

    name = "note"
    version = "1"

    def products(self, folder: Path) -> Mapping[str, Path]:
        return {"note": folder / "note.txt"}

    def fill(self, slot: Slot) -> None:
        with (slot.root.parent / "fills").open("a") as count:
            count.write("x")
        program = "import sys, time; time.sleep(0.3); open(sys.argv[1], 'w').write('done')"
        run_step(slot, "writing", [sys.executable, "-c", program, self.products(slot.folder)["note"]])


class Broken(Note):
    """Fails in its only step, after saying why."""

    name = "broken"

    def fill(self, slot: Slot) -> None:
        run_step(slot, "trying", [sys.executable, "-c", "print('the reason why'); raise SystemExit(3)"])


def fills(cache: Path) -> int:
    """How often the recipe ran."""
    counted = cache.parent / "fills"
    return len(counted.read_text()) if counted.exists() else 0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder that does not exist yet."""
    return tmp_path / "cache"


def test_a_finished_install_is_not_done_again(cache: Path) -> None:
    ensure(Note(), cache)
    ensure(Note(), cache)
    assert fills(cache) == 1
    assert is_installed(Note(), cache)


def test_an_interrupted_install_is_done_again(cache: Path) -> None:
    slot = Note().slot(cache)
    slot.folder.mkdir(parents=True)
    (slot.folder / "half").write_text("cut off here")
    (slot.folder / "note.txt").write_text("half")
    assert not is_installed(Note(), cache)
    ensure(Note(), cache)
    assert not (slot.folder / "half").exists()
    assert Note().products(slot.folder)["note"].read_text() == "done"


def test_an_install_whose_product_vanished_is_done_again(cache: Path) -> None:
    ensure(Note(), cache)
    Note().products(Note().slot(cache).folder)["note"].unlink()
    ensure(Note(), cache)
    assert fills(cache) == 2


def test_two_installers_at_once_do_the_work_once(cache: Path) -> None:
    threads = [threading.Thread(target=ensure, args=(Note(), cache)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert fills(cache) == 1
    assert is_installed(Note(), cache)


def test_a_failed_step_shows_the_end_of_its_log_and_leaves_no_stamp(cache: Path) -> None:
    with pytest.raises(InstallFailed, match=r"cannot install broken: trying: exit 3(?s:.)*the reason why"):
        ensure(Broken(), cache)
    assert not is_installed(Broken(), cache)


def test_a_program_that_is_not_there_is_a_failed_step(cache: Path) -> None:
    slot = Slot(cache, "note", "1", "key")
    slot.clear()
    with pytest.raises(InstallFailed, match="No such file"):
        run_step(slot, "running", [cache / "no-such-program"])


def test_every_change_of_a_recipe_gets_a_folder_of_its_own(cache: Path) -> None:
    class Newer(Note):
        version = "2"

    class Other(Note):
        def fill(self, slot: Slot) -> None:
            slot.folder.joinpath("note.txt").write_text("another way")

    folders = {recipe.slot(cache).folder for recipe in (Note(), Newer(), Other())}
    assert len(folders) == 3


def test_an_unknown_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["vlm"])
    assert "unknown: vlm" in capsys.readouterr().err


def test_it_runs_as_a_plain_script_on_a_bare_python(cache: Path) -> None:
    script = Path(__file__).with_name("install.py")
    done = subprocess.run(
        [sys.executable, "-I", script, "--print-env", "--cache", cache],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"export LLAMACTL_REAL_CACHE={cache}\n"


def test_locks_pin_every_package_once() -> None:
    for recipe in (make() for make in RECIPES.values()):
        for lock in (path for path in recipe.inputs if path.suffix == ".txt"):
            pins = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
            assert pins
            one = DIGESTED if lock == LanguageServer.lock else PINNED
            assert [pin for pin in pins if not one.fullmatch(pin)] == []
            names = [re.split("==| ", pin)[0] for pin in pins]
            assert sorted(names) == sorted(set(names))
