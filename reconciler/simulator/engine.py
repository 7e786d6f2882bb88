"""The engine without a model: it turns a request's words into tokens at a given pace and counts what it does.

It knows nothing of HTTP. Freezing it (a hung engine, or a llama-server that was told to stop) stops every token of
every request and no counter goes on, while whoever reads the counters is still answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice

BREATHE_EVERY = 16
"""Tokens without a delay between two turns given to the event loop, so that others are served and a leaver is seen."""

SILENCE = "..."
"""What an empty question is answered with: there are no words to repeat."""


@dataclass(slots=True)
class Counts:
    """Numbers since the start; `requests` are inference requests, refused ones included."""

    requests: int = 0
    in_flight: int = 0
    ended: int = 0
    aborted: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request will get: its words, each of them one token, and the number of tokens of the question."""

    words: Sequence[str]
    prompt_tokens: int
    limit: int

    @staticmethod
    def repeating(text: str, *, prompt_tokens: int, limit: int) -> Answer:
        """The words of `text`, repeated up to `limit` tokens."""
        return Answer(words=text.split() or [SILENCE], prompt_tokens=prompt_tokens, limit=limit)

    def tokens(self) -> Iterator[str]:
        """The tokens' texts; joined they are the answer."""
        for number, word in enumerate(islice(cycle(self.words), self.limit)):
            yield word if number == 0 else " " + word


class Engine:
    """Paces and counts. One event loop owns it; nothing here is safe from other threads."""

    def __init__(self, *, ttft_s: float, token_delay_s: float, hang_after_requests: int | None) -> None:
        self.counts = Counts()
        self.loaded = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._ttft_s = ttft_s
        self._token_delay_s = token_delay_s
        self._hang_after = hang_after_requests
        self._frozen = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._cut = False

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self._ttft_s

    @property
    def frozen(self) -> bool:
        """Whether nothing generates any more."""
        return self._frozen

    @property
    def cut(self) -> bool:
        """Whether the cancellation that a request sees comes from `cut_all`, not from a client that left."""
        return self._cut

    def freeze(self) -> None:
        """Stops all generation for good."""
        self._frozen = True

    def cut_all(self) -> None:
        """Ends every request in flight at once, as a server does that shuts down without waiting."""
        self._cut = True
        for task in tuple(self._tasks):
            task.cancel()

    @contextmanager
    def request(self) -> Iterator[None]:
        """One inference request, from its arrival to its end; leaving by an exception counts as aborted."""
        task = asyncio.current_task()
        assert task is not None
        counts = self.counts
        counts.requests += 1
        counts.in_flight += 1
        self.idle.clear()
        self._tasks.add(task)
        if self._hang_after is not None and counts.requests > self._hang_after:
            self.freeze()
        finished = False
        try:
            yield
            finished = True
        finally:
            self._tasks.discard(task)
            counts.in_flight -= 1
            counts.ended += 1
            if counts.in_flight == 0:
                self.idle.set()
            if not finished:
                counts.aborted += 1

    async def prefill(self, answer: Answer, *, steps: int) -> AsyncIterator[int]:
        """Spends the time to first token in equal steps; yields the number of prompt tokens done before each, and all."""
        total = answer.prompt_tokens
        for step in range(steps):
            yield total * step // steps
            await self.think(self._ttft_s / steps)
        self.counts.prompt_tokens += total
        yield total

    async def tokens(self, answer: Answer) -> AsyncIterator[str]:
        """The answer's tokens as they become ready; the first at once."""
        for number, text in enumerate(answer.tokens()):
            if number and self._token_delay_s:
                await asyncio.sleep(self._token_delay_s)
            elif number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
            if self._frozen:
                await self._for_ever()
            self.counts.tokens += 1
            yield text

    async def think(self, seconds: float) -> None:
        """Waits; never returns once the engine is frozen (the caller is cancelled when its client leaves)."""
        await asyncio.sleep(seconds)
        if self._frozen:
            await self._for_ever()

    @staticmethod
    async def _for_ever() -> None:
        await asyncio.Event().wait()
