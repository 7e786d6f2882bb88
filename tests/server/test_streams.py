"""Answers that go on: events and followed logs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from reconciler.core.contracts import LogFile
from reconciler.server import streams
from reconciler.server.logfiles import Follower, tail_starts
from tests.server.fakes import Connection, FakeControl, Server, encoded, routes, serving


class Stream:
    """A chunked answer that is read as it comes."""

    def __init__(self, client: Connection) -> None:
        self.client = client
        self.text = b""

    async def until(self, wanted: bytes) -> bytes:
        """Read until ``wanted`` has come; everything that came so far."""
        async with asyncio.timeout(10):
            while wanted not in self.text:
                size = int(await self.client.reader.readuntil(b"\r\n"), 16)
                assert size, f"ended without {wanted!r}: {self.text!r}"
                self.text += (await self.client.reader.readexactly(size + 2))[:-2]
        return self.text

    async def end(self) -> bytes:
        """Read to the proper end."""
        async with asyncio.timeout(10):
            while size := int(await self.client.reader.readuntil(b"\r\n"), 16):
                self.text += (await self.client.reader.readexactly(size + 2))[:-2]
        return self.text


@asynccontextmanager
async def reading(server: Server, path: str, headers: dict[str, str] | None = None) -> AsyncIterator[Stream]:
    async with server.connected() as client:
        await client.send(encoded("GET", path, headers=headers))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        yield Stream(client)


def ids(text: bytes) -> list[int]:
    return [int(line[4:]) for line in text.decode().split("\n") if line.startswith("id: ")]


async def test_events_come_from_the_ring_and_then_as_they_happen() -> None:
    control = FakeControl(routes())
    control.events.add("config", "first")
    control.events.add("action", 'start "tiny"\nsecond line', instance="tiny")
    async with serving(control) as server, reading(server, "/api/v1/events") as stream:
        text = await stream.until(b"id: 2\n")
        control.events.add("exit", "third \u00e9", instance="tiny")
        text = await stream.until(b"id: 3\n")
    assert ids(text) == [1, 2, 3]
    blocks = text.decode().strip().split("\n\n")
    assert blocks[1].split("\n")[1] == "event: action"
    event = json.loads(blocks[1].split("\n")[2].removeprefix("data: "))
    assert event["message"] == 'start "tiny"\nsecond line'
    assert set(event) == {"id", "at", "kind", "instance", "message"}


async def test_a_reader_resumes_after_the_last_event_it_saw() -> None:
    control = FakeControl(routes())
    for number in range(5):
        control.events.add("config", str(number))
    async with serving(control) as server:
        async with reading(server, "/api/v1/events", {"Last-Event-ID": "3"}) as stream:
            assert ids(await stream.until(b"id: 5\n")) == [4, 5]
        async with reading(server, "/api/v1/events", {"Last-Event-ID": "900"}) as stream:  # of an earlier daemon
            assert ids(await stream.until(b"id: 5\n")) == [1, 2, 3, 4, 5]
        bad = await server.request("GET", "/api/v1/events", headers={"Last-Event-ID": "x"})
        assert bad.status == 400


async def test_a_past_that_is_asked_for_alone_ends() -> None:
    control = FakeControl(routes())
    for number in range(3):
        control.events.add("config", str(number))
    async with serving(control) as server:
        async with reading(server, "/api/v1/events?follow=0", {"Last-Event-ID": "1"}) as stream:
            assert ids(await stream.end()) == [2, 3]
        assert (await server.request("GET", "/api/v1/events?follow=perhaps")).status == 400


async def test_a_quiet_stream_shows_that_it_lives_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.05)
    control = FakeControl(routes())
    async with serving(control) as server, reading(server, "/api/v1/events") as stream:
        await stream.until(b": still here\n\n: still here\n\n")
        control.events.add("config", "one")
        await stream.until(b"id: 1\n")
        await stream.until(b"}\n\n: still here\n\n")
        control.events.add("config", "two")
        assert ids(await stream.until(b"id: 2\n")) == [1, 2]


async def test_a_shutdown_does_not_wait_for_readers() -> None:
    control = FakeControl(routes(), log_files={"tiny": []})
    async with AsyncExitStack() as readers, asyncio.timeout(5), serving(control) as server:
        for path in ("/api/v1/events", "/api/v1/instances/tiny/logs?follow=1"):
            client = await readers.enter_async_context(server.connected())  # stays until the server is gone
            await client.send(encoded("GET", path))
            assert b"200" in await client.reader.readuntil(b"\r\n\r\n")


class Logs:
    """Log folders of replicas, written and rotated as their supervisor does."""

    def __init__(self, folder: Path, control: FakeControl) -> None:
        self.folder = folder
        self.control = control
        self.live: dict[int, bool] = {}
        self.publish()

    def path(self, serial: int, part: int = 0) -> Path:
        (self.folder / str(serial)).mkdir(exist_ok=True)
        return self.folder / str(serial) / (f"log.{part}" if part else "log")

    def write(self, serial: int, text: str) -> None:
        self.live.setdefault(serial, True)
        with self.path(serial).open("a") as stream:
            stream.write(text)
        self.publish()

    def rotate(self, serial: int) -> None:
        for part in (1, 0):
            if self.path(serial, part).exists():
                self.path(serial, part).rename(self.path(serial, part + 1))

    def end(self, serial: int) -> None:
        self.live[serial] = False
        self.publish()

    def publish(self) -> None:
        self.control.log_files["tiny"] = [
            LogFile(
                serial=serial,
                paths=tuple(path for part in (2, 1, 0) if (path := self.path(serial, part)).exists()),
                live=live,
                started_at=0.0,
            )
            for serial, live in sorted(self.live.items())
        ]


URL = "/api/v1/instances/tiny/logs"


async def test_logs_are_the_whole_output_of_what_runs_or_last_ran(tmp_path: Path) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    async with serving(control) as server:
        assert (await server.request("GET", URL)).body == b""
        logs.write(1, "old\n")
        logs.end(1)
        assert (await server.request("GET", URL)).body == b"old\n"
        assert (await server.request("GET", URL + "?previous=1")).status == 404
        logs.write(2, "a\nb\n")
        logs.rotate(2)
        logs.write(2, "c\nhalf")
        answer = await server.request("GET", URL)
        assert (answer.body, answer.headers["content-type"]) == (b"a\nb\nc\nhalf", "text/plain; charset=utf-8")
        assert (await server.request("GET", URL + "?previous=1")).body == b"old\n"
        logs.end(2)
        assert (await server.request("GET", URL)).body == b"a\nb\nc\nhalf"
        assert (await server.request("GET", URL + "?previous=true")).body == b"old\n"
        assert (await server.request("GET", URL.replace("tiny", "nope"))).status == 404


@pytest.mark.parametrize(
    ("tail", "wanted"),
    [(0, b""), (1, b"half"), (2, b"c\nhalf"), (3, b"b\nc\nhalf"), (4, b"a\nb\nc\nhalf"), (100, b"a\nb\nc\nhalf")],
)
async def test_the_tail_counts_lines_across_rotation(tmp_path: Path, tail: int, wanted: bytes) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    logs.write(1, "a\nb\n")
    logs.rotate(1)
    logs.write(1, "c\nhalf")
    async with serving(control) as server:
        assert (await server.request("GET", f"{URL}?tail={tail}")).body == wanted


def test_the_tail_of_a_large_part_is_found_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(50_000)))
    for lines in (1, 10, 9_000, 50_000, 60_000):
        ((found, offset),) = tail_starts([path], lines)
        text = found.read_bytes()[offset:].decode()
        assert text.count("\n") == min(lines, 50_000)
        assert text.startswith(f"line {max(0, 50_000 - lines)}\n")


@pytest.mark.parametrize(
    "query", ["tail=x", "tail=-1", "tail=99999999999", "tail=\u0663", "follow=maybe", "follow=1&previous=1"]
)
async def test_a_query_that_makes_no_sense_is_400(tmp_path: Path, query: str) -> None:
    control = FakeControl(routes())
    Logs(tmp_path, control)
    async with serving(control) as server:
        answer = await server.request("GET", f"{URL}?{query}".replace("\u0663", "%D9%A3"))
    assert answer.status == 400


async def test_followed_logs_go_on_across_rotation_and_replacement(tmp_path: Path) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    logs.write(1, "before\none\n")
    async with serving(control) as server, reading(server, URL + "?follow=1&tail=1") as stream:
        await stream.until(b"one\n")
        logs.write(1, "no end yet")
        await stream.until(b"no end yet")
        logs.write(1, "\n")
        logs.rotate(1)
        logs.write(1, "rotated\n")
        await stream.until(b"rotated\n")
        logs.rotate(1)
        logs.write(1, "last words\n")
        logs.end(1)
        logs.write(2, "hello from the next\n")
        await stream.until(b"hello from the next\n")
        del control.log_files["tiny"]  # the instance is removed: the answer ends in good order
        text = await stream.end()
    assert text == b"one\nno end yet\nrotated\nlast words\nhello from the next\n"


def test_a_rotation_between_listing_and_reading_loses_and_repeats_nothing(tmp_path: Path) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    logs.write(1, "one\n")
    follower = Follower()
    files = control.log_files["tiny"]
    follower.begin(files, None)
    got = [block for _, block in follower.look(files)]
    logs.write(1, "two\n")
    logs.rotate(1)
    logs.write(1, "three\n")
    got += [block for _, block in follower.look(files)]  # a list from before the rotation
    for _ in range(2):
        got += [block for _, block in follower.look(control.log_files["tiny"])]
    follower.close()
    assert b"".join(got) == b"one\ntwo\nthree\n"


def test_a_reader_that_was_left_behind_by_rotation_goes_on_with_what_there_is(tmp_path: Path) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    logs.write(1, "one\n")
    follower = Follower()
    follower.begin(control.log_files["tiny"], None)
    got = [block for _, block in follower.look(control.log_files["tiny"])]
    for text in ("lost\n", "two\n", "three\n", "four\n"):
        logs.rotate(1)
        logs.write(1, text)
    for _ in range(3):
        got += [block for _, block in follower.look(control.log_files["tiny"])]
    follower.close()
    assert b"".join(got) == b"one\ntwo\nthree\nfour\n"


async def test_lines_of_replicas_that_write_together_are_told_apart(tmp_path: Path) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    logs.write(1, "a1\na2\n")
    logs.write(2, "b1\n")
    async with serving(control) as server:
        assert (await server.request("GET", URL)).body == b"[#1] a1\n[#1] a2\n[#2] b1\n"
        async with reading(server, URL + "?follow=1&tail=1") as stream:
            await stream.until(b"[#2] b1\n")
            logs.write(1, "a3\nha")
            await stream.until(b"[#1] a3\n")
            logs.write(1, "lf\n")
            assert await stream.until(b"[#1] half\n") == b"[#1] a2\n[#2] b1\n[#1] a3\n[#1] half\n"


async def test_a_reader_that_leaves_is_noticed(tmp_path: Path) -> None:
    control = FakeControl(routes())
    logs = Logs(tmp_path, control)
    async with serving(control) as server:
        before = len(asyncio.all_tasks())
        async with reading(server, URL + "?follow=1") as stream:
            logs.write(1, "x\n")
            await stream.until(b"x\n")
            stream.client.reset()
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  # tasks tell nobody that they end
                await asyncio.sleep(0.01)
