"""The watch on real files: whatever way a file is saved, both that edit and the one after it are seen, and nothing torn is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest
import watchfiles

from reconciler.control.watch import FileWatch, Pace, Seen
from reconciler.core.errors import Rejected
from reconciler.host.clock import SystemClock

QUICK = Pace(settle=0.02, doubt=0.15, patience=1.5, look_every=0.4, rearm_first=0.05, rearm_slowest=0.2)
"""The ordinary pace with every long pause shortened."""
DEADLINE_S = 20.0


class Following:
    """What a watch handed over so far."""

    def __init__(self, watch: FileWatch) -> None:
        self.watch = watch
        self.seen: list[Seen] = []

    @property
    def texts(self) -> list[str]:
        """Contents in order; what is refused as ``!`` and the reason."""
        return [_text(one) for one in self.seen]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}; seen {self.texts}"
            await asyncio.sleep(0.01)

    async def sees(self, text: str) -> None:
        """Until this content is the last one handed over."""
        await self.until(lambda: self.seen and _text(self.seen[-1]).startswith(text), f"{text!r} is seen")


def _text(seen: Seen) -> str:
    if isinstance(seen.content, Rejected):
        return f"!{seen.content}"
    return "".join(file.data.decode() for file in seen.content.files)


@contextlib.asynccontextmanager
async def following(path: Path, pace: Pace = QUICK) -> AsyncIterator[Following]:
    watch = FileWatch(path, SystemClock(), pace)
    found = Following(watch)

    async def follow() -> None:
        async with contextlib.aclosing(watch.changes()) as changes:
            async for seen in changes:
                found.seen.append(seen)

    task = asyncio.create_task(follow())
    try:
        await found.until(lambda: found.seen, "the first content")
        yield found
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---- ways to save -----------------------------------------------------------------------------------------------


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    new = path.with_name("new.tmp")
    new.write_text(text)
    new.replace(path)


def like_vim(path: Path, text: str) -> None:
    path.rename(path.with_name(path.name + "~"))
    path.write_text(text)


def delete_and_recreate(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def folder_replaced(path: Path, text: str) -> None:
    new = path.parent.with_name("fresh")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    (new / path.name).write_text(text)
    old = path.parent.with_name(f"old{time.monotonic_ns()}")
    path.parent.rename(old)
    new.rename(path.parent)


def folder_deleted(path: Path, text: str) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    path.write_text(text)


WAYS = [in_place, rename_over, like_vim, delete_and_recreate, folder_replaced, folder_deleted]


@pytest.mark.parametrize("way", WAYS)
async def test_an_edit_and_the_one_after_it_are_seen(tmp_path: Path, way: Callable[[Path, str], None]) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "llamactl.yaml"
    path.write_text("first\n")
    async with following(path) as found:
        await found.sees("first")
        way(path, "second\n")
        await found.sees("second")
        in_place(path, "third, in place\n")
        await found.sees("third")
        way(path, "fourth\n")
        await found.sees("fourth")
        assert [text for text in found.texts if not text.startswith("!")] == [
            "first\n",
            "second\n",
            "third, in place\n",
            "fourth\n",
        ]


async def test_a_configmap_swap_and_the_one_after_it_are_seen(tmp_path: Path) -> None:
    def publish(number: int, text: str) -> None:
        target = tmp_path / f"..2026_{number}"
        target.mkdir()
        (target / "llamactl.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(target.name)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        if number > 1:
            shutil.rmtree(tmp_path / f"..2026_{number - 1}")

    publish(1, "first\n")
    path = tmp_path / "llamactl.yaml"
    path.symlink_to("..data/llamactl.yaml")
    async with following(path) as found:
        for number, text in ((2, "second\n"), (3, "third\n"), (4, "fourth\n")):
            publish(number, text)
            await found.sees(text)


async def test_a_link_to_a_file_elsewhere_is_followed_and_so_is_a_new_link(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "real.yaml"
    target.write_text("first\n")
    path = tmp_path / "here" / "llamactl.yaml"
    path.symlink_to(target)
    async with following(path) as found:
        in_place(target, "second\n")
        await found.sees("second")
        rename_over(target, "third\n")
        await found.sees("third")
        other = tmp_path / "other.yaml"
        other.write_text("fourth\n")
        path.unlink()
        path.symlink_to(other)
        await found.sees("fourth")
        in_place(other, "fifth\n")
        await found.sees("fifth")


async def test_a_removed_file_is_told_and_seen_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "llamactl.yaml"
    path.parent.mkdir()
    path.write_text("first\n")
    async with following(path) as found:
        path.unlink()
        await found.sees("!")
        assert "no such file" in found.texts[-1]
        in_place(path, "second\n")
        await found.sees("second")
        shutil.rmtree(path.parent)
        await found.sees("!")
        path.parent.mkdir()
        in_place(path, "third\n")
        await found.sees("third")


async def test_a_file_that_is_back_at_once_was_never_away(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    async with following(path) as found:
        path.rename(path.with_name("away"))
        await asyncio.sleep(QUICK.settle * 2)
        in_place(path, "second\n")
        await found.sees("second")
        assert found.texts == ["first\n", "second\n"]


@pytest.mark.parametrize("kind", ["fifo", "folder without files", "socket", "link loop", "device"])
async def test_something_else_at_the_path_is_told_at_once_and_harmless(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    async with following(path) as found:
        path.unlink()
        with contextlib.ExitStack() as stack:
            match kind:
                case "fifo":
                    os.mkfifo(path)
                case "folder without files":
                    path.mkdir()
                case "socket":
                    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                    here = Path.cwd()
                    os.chdir(tmp_path)  # the path of a socket is limited to 107 bytes
                    try:
                        listener.bind(path.name)
                    finally:
                        os.chdir(here)
                case "link loop":
                    path.symlink_to(path.name)
                case _:
                    path.symlink_to("/dev/zero")
            await found.sees("!")
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
            in_place(path, "second\n")
            await found.sees("second")


async def test_a_folder_of_files_is_followed_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "a.yaml").write_text("a1\n")
    async with following(folder) as found:
        (folder / "b.yaml").write_text("b1\n")
        await found.sees("a1\nb1\n")
        rename_over(folder / "a.yaml", "a2\n")
        await found.sees("a2\nb1\n")
        (folder / "b.yaml").unlink()
        await found.sees("a2\n")
        (folder / "a.yaml").unlink()
        await found.sees("!")


async def test_without_events_the_periodic_look_finds_it_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def exhausted(*paths: Path, **given: object) -> AsyncGenerator[set[tuple[watchfiles.Change, str]], None]:
        nonlocal tries
        tries += 1
        if paths:
            raise RuntimeError("error creating recommended watcher: Too many open files (os error 24)")
        yield set()

    monkeypatch.setattr(watchfiles, "awatch", exhausted)
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    with caplog.at_level(logging.WARNING):
        async with following(path) as found:
            await found.until(lambda: tries >= 3, "it tries again")
            assert "os error 24" in (found.watch.error or "")
            rename_over(path, "second\n")
            await found.sees("second")
            monkeypatch.undo()
            await found.until(lambda: found.watch.error is None, "events are back")
            rename_over(path, "third\n")
            await found.sees("third")
    warnings = [record.getMessage() for record in caplog.records if record.name == "llamactl.watch"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"cannot watch {path} by events: ")


async def test_a_same_sized_edit_that_kept_its_date_is_found_by_the_periodic_look(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("one\n")
    async with following(path) as found:
        facts = path.stat()
        with path.open("r+") as file:
            file.write("two\n")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        await found.sees("two")


async def test_the_same_content_is_not_handed_over_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    async with following(path) as found:
        await asyncio.sleep(QUICK.look_every * 4)
        assert found.texts == ["first\n"]
        found.watch.look()
        await found.until(lambda: len(found.seen) == 2, "what is asked for is handed over")


async def test_a_thousand_writes_end_with_the_last_one_and_cost_few_reads(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    async with following(path) as found:
        for number in range(1000):
            rename_over(path, f"write {number:04}\n")
            if number % 10 == 0:
                await asyncio.sleep(0.01)
        done = time.monotonic()
        await found.sees("write 0999")
        assert time.monotonic() - done < 2.0
        assert len(found.seen) < 60, found.texts


async def test_a_file_rewritten_without_pause_is_reported_and_does_not_blind_the_watch(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    stop = asyncio.Event()

    async def keep_writing() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path.write_text(f"write {number}\n")
            await asyncio.sleep(0.005)
        path.write_text("the last one\n")

    async with following(path) as found:
        writer = asyncio.create_task(keep_writing())
        await found.sees("!")
        assert "without a pause" in found.texts[-1]
        assert len(found.seen) == 2
        stop.set()
        await writer
        await found.sees("the last one")


async def test_a_file_rewritten_without_pause_with_the_same_text_counts(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    stop = asyncio.Event()

    async def keep_writing() -> None:
        while not stop.is_set():
            rename_over(path, "second\n")
            await asyncio.sleep(0.005)

    async with following(path) as found:
        writer = asyncio.create_task(keep_writing())
        await found.sees("second")
        stop.set()
        await writer


def sixty(size: int) -> str:
    """A file of sixty instances in about 4 kB, one line of them changed by ``size``."""
    lines = ["instances:"]
    for number in range(60):
        options = f"{{model: m{number:02}, size: {size if number == 30 else number}}}"
        lines += [f"  n{number:02}:", "    backend_type: tiny", f"    backend_options: {options}"]
    return "\n".join(lines) + "\n"


async def test_an_edit_in_the_middle_of_a_file_is_not_made_to_wait_even_when_it_is_shorter(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text(sixty(22222))
    async with following(path, Pace(doubt=10.0, patience=30.0)) as found:
        rename_over(path, sixty(1))
        before = time.monotonic()
        await found.sees(sixty(1))
        assert time.monotonic() - before < 5.0


async def test_the_watch_ends_at_once_when_it_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "llamactl.yaml"
    path.write_text("first\n")
    async with following(path, Pace()):
        await asyncio.sleep(0.1)
        before = time.monotonic()
    assert time.monotonic() - before < 1.0
