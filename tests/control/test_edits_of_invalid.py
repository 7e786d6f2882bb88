"""Edits of a file that is invalid: one that puts it right goes through, any other is refused and says what was wrong before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from reconciler.core.errors import Missing, Rejected
from reconciler.core.spec import OptionValue
from tests.control.rooms import Room, declare

Edit = Callable[[], Awaitable[object]]
GOOD = declare(a={"size": 1})
MISTAKE = "  new:\n    backend_type: tiny\n    backend_options: {modle: m, size: 2}\n"


async def test_the_instance_that_makes_the_file_invalid_can_be_deleted(tmp_path: Path) -> None:
    async with Room(tmp_path, GOOD).daemon() as daemon:
        await daemon.save(GOOD + MISTAKE)
        assert not daemon.status()["config"]["valid"]
        await daemon.finished(daemon.controller.delete("new"))
        assert daemon.room.file.read_text() == GOOD
        assert daemon.status()["config"]["valid"]


async def test_and_be_declared_anew(tmp_path: Path) -> None:
    async with Room(tmp_path, GOOD).daemon() as daemon:
        await daemon.save(GOOD + MISTAKE)
        body: dict[str, OptionValue] = {"backend_type": "tiny", "backend_options": {"model": "m", "size": 2}}
        await daemon.finished(daemon.controller.replace("new", body))
        assert daemon.room.file.read_text() == GOOD + MISTAKE.replace("modle: m, size: 2", "size: 2, model: m")
        await daemon.ready("a", "new")


async def test_an_edit_that_leaves_it_invalid_is_refused_with_what_was_wrong_before_it(tmp_path: Path) -> None:
    text = GOOD + MISTAKE
    async with Room(tmp_path, GOOD).daemon() as daemon:
        await daemon.save(text)
        edits: tuple[Edit, ...] = (
            lambda: daemon.controller.set_enabled("new", False),
            lambda: daemon.controller.delete("a"),
            lambda: daemon.controller.create("b", {"backend_type": "tiny", "backend_options": {"size": 1}}),
        )
        for edit in edits:
            with pytest.raises(Rejected) as refused:
                await daemon.finished(edit())
            first, before, *others = refused.value.problems
            assert first.code == "CONFIG_INVALID_BEFORE"
            assert "invalid already" in first.message
            assert (first.file, first.line) == (str(daemon.room.file), 5)
            assert before.path == "instances.new"
            assert before.line == 5, "where it stands in the file as it is"
            assert [problem.path for problem in others] in ([], ["instances.b"])
            assert daemon.room.file.read_text() == text
        with pytest.raises(Missing):
            await daemon.finished(daemon.controller.delete("nobody"))


@pytest.mark.parametrize("text", [GOOD + "  b: {model: [\n", GOOD + GOOD, "", "# only this\n", "[]\n"])
async def test_what_is_no_document_is_never_edited(tmp_path: Path, text: str) -> None:
    async with Room(tmp_path, GOOD).daemon() as daemon:
        await daemon.save(text)
        body: dict[str, OptionValue] = {"backend_type": "tiny", "backend_options": {"model": "m"}}
        edits: tuple[Edit, ...] = (lambda: daemon.controller.delete("a"), lambda: daemon.controller.create("c", body))
        for edit in edits:
            with pytest.raises(Rejected) as refused:
                await daemon.finished(edit())
            assert str(daemon.room.file) in str(refused.value)
            assert daemon.room.file.read_text() == text


async def test_a_file_that_became_invalid_without_a_save_is_told_of_once_an_edit_finds_out(tmp_path: Path) -> None:
    room = Room(tmp_path, GOOD + MISTAKE.replace("modle: m, size: 2", 'model: "${MODEL}"'))
    room.environ["MODEL"] = "m"
    async with room.daemon() as daemon:
        await daemon.ready("a", "new")
        del room.environ["MODEL"]  # as when an installed program is read and has no such option any more
        assert daemon.status()["config"]["valid"]
        with pytest.raises(Rejected, match="invalid already") as refused:
            await daemon.finished(daemon.controller.set_enabled("a", False))
        config = daemon.status()["config"]
        assert not config["valid"]
        assert [problem["message"] for problem in config["problems"]] == [
            problem.message for problem in refused.value.problems[1:]
        ]
        assert daemon.phase("new") == "ready", "what runs goes on"
        await daemon.finished(daemon.controller.delete("new"))
        assert daemon.status()["config"]["valid"]
        assert "the file is valid again" in daemon.told()
