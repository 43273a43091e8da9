"""The judge behind any OpenAI-compatible endpoint.

    questions -> prompts -> [server] -> replies -> ratings

Asynchronous, in a thread of its own (so it works inside a running event loop, a notebook's for one). This module owns the one
retry budget: the client's own retries are off. Keys come from the environment only and are cut out of every string that leaves.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit, urlunsplit

from steer_bench.judge.calls import (
    TRIES_OF_ONE,
    AdaptiveConcurrency,
    Answer,
    Failed,
    Fatal,
    Refused,
    Transient,
    bounded_http,
    classify,
    read_answer,
    retry_until,
    tokens_of,
)
from steer_bench.judge.config import OpenAIConfig
from steer_bench.judge.judgement import READING, JudgeError, Judgement, Keep, Question, Usage, digest, holds_rating
from steer_bench.judge.prompts import PROBE, VERSION, FormatGuard, fence_of, messages, seen

KEY_VARIABLES = ("STEER_JUDGE_API_KEY", "OPENAI_API_KEY")
REASKS = 2
"""How often a question is asked again whose answer holds no rating."""
HINT = (
    "; raise max_tokens where answers are cut off; a model that does not keep to the format can be held to it by a grammar in "
    "judge.options (README, Judges)"
)
"""What helps where answers hold no rating."""
_PROBE_WAIT = 3.0
"""Seconds the probe waits for a server that refuses connections or is busy."""
_LANDING = 5.0
"""Seconds that Ctrl-C leaves the answers in flight, which are paid for."""

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")


class OpenAIJudge:
    """Rates by asking a language model, one aspect per call, at temperature 0."""

    def __init__(
        self,
        config: OpenAIConfig,
        *,
        resume: str = "steer-bench judge RUN",
        backoff: float = 0.5,
        progress: bool = True,
    ) -> None:
        """`backoff`: seconds of the first wait after a fault; doubles up to 60, with jitter."""
        self.config, self.model = config, config.model
        parts = urlsplit(config.base_url)
        self.base_url = urlunsplit(parts).rstrip("/")
        self.name = f"{config.model} at {parts.hostname}"
        self.resume, self.backoff, self.progress = resume, backoff, progress
        self.usage = Usage(cost=0.0 if config.price else None)
        self._guard = FormatGuard(max_ignored=config.max_ignored, hint=HINT)
        self._failed = 0
        """Questions without an answer, in a row."""

    def fingerprint(self) -> str:
        """Hash the address, the model, the prompts, what else shapes a request, and how an answer is read."""
        shape = [self.config.max_tokens, self.config.seed, self.config.options]
        return digest(["openai", VERSION, READING, self.base_url, self.model, *shape])

    def key(self, question: Question) -> str:
        """See Judge."""
        return digest([self.fingerprint(), seen(question)])

    def answer(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
        """See Judge. Raises JudgeError when the server takes no more questions; answers in flight are kept."""
        return _in_own_loop(lambda: self._answer_all(questions, keep))

    def probe(self) -> None:
        """Ask one question with a plain answer, in seconds; raise ValueError unless a rating comes back."""

        async def ask() -> Judgement:
            wait = min(_PROBE_WAIT, self.config.max_wait)
            self._begin()
            async with self._client() as client:
                return await self._ask(client, AdaptiveConcurrency(1), PROBE, max_wait=wait, watch=False)

        try:
            judgement = _in_own_loop(ask)
        except (Fatal, Failed) as fault:
            raise ValueError(f"judge {self.model}: {fault}") from None
        if judgement.reason:
            raw = judgement.raw.get(PROBE.aspect)
            said = f"; it said: {raw[-1][:300]!r}" if raw else ""
            raise ValueError(
                f"judge {self.model} at {self.base_url} gave no rating to a test question ({judgement.reason}){said}; "
                f"check judge.base_url and judge.model{HINT}"
            )

    async def _answer_all(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
        from tqdm.auto import tqdm

        judgements: list[Judgement | None] = [None] * len(questions)
        todo = iter(enumerate(questions))
        slots = AdaptiveConcurrency(self.config.concurrency)
        self._begin()
        disable = None if self.progress else True  # None: only where there is a terminal
        with tqdm(total=len(questions), desc="judging", unit="rating", disable=disable, dynamic_ncols=True) as bar:
            async with self._client() as client:

                async def work() -> None:
                    for index, question in todo:
                        judgement = await self._ask(client, slots, question, max_wait=self.config.max_wait)
                        if not judgement.reason:
                            keep(question, judgement)
                        judgements[index] = judgement
                        bar.set_postfix_str(self._spent(), refresh=False)
                        bar.update()
                        if self._stopping:
                            return

                workers = [asyncio.create_task(work()) for _ in range(min(self.config.concurrency, len(questions)))]
                grace = _LANDING
                try:
                    done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                    grace = self.config.timeout
                finally:
                    await self._land(workers, grace)
        fault = next((worker.exception() for worker in done if worker.exception()), None)
        if isinstance(fault, Fatal):
            rated = sum(judgement is not None and not judgement.reason for judgement in judgements)
            raise JudgeError(
                f"judge stopped: {fault}. {rated}/{len(questions)} ratings of this round were received. "
                f"Mend it and continue: {self.resume}"
            )
        if fault is not None:
            raise fault
        return [judgement for judgement in judgements if judgement is not None]

    def _begin(self) -> None:
        self._stopping, self._doubt = False, asyncio.Lock()
        self._in_flight = set[asyncio.Task[None] | None]()

    async def _land(self, workers: Sequence[asyncio.Task[None]], grace: float) -> None:
        """End all work: ask nothing more, and leave the calls in flight `grace` seconds for their answers."""
        self._stopping = True
        for worker in workers:
            if worker not in self._in_flight:
                worker.cancel()
        try:
            await asyncio.wait(workers, timeout=grace)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _ask(
        self,
        client: AsyncOpenAI,
        slots: AdaptiveConcurrency,
        question: Question,
        *,
        max_wait: float,
        watch: bool = True,
    ) -> Judgement:
        """Rate one question within `max_wait` seconds: ask, and ask again where the answer holds no rating.

        Raises Fatal when the server takes no more questions; without `watch` (the probe) Refused, when it refuses this one.
        """
        raw: list[str] = []
        answer, deadline = Answer("", "parse"), time.monotonic() + max_wait
        for attempt in range(1 + REASKS):
            try:
                answer = await self._call(client, slots, question, self.config.seed + attempt, deadline)
            except Failed as fault:
                if watch:
                    await self._check_server(client, fault)
                elif isinstance(fault, Refused):
                    raise
                return Judgement(reason=fault.reason, raw={question.aspect: tuple(raw)} if raw else {})
            self._failed = 0
            raw.append(answer.text)
            if attempt == 0 and watch and not self._stopping:
                self._guard.note(answer.reason, answer.text)
            if not answer.reason or answer.reason == "filtered" or self._stopping:
                break
        flags = ("rating_in_reply",) if holds_rating(question.case.reply) else ()
        kept = {question.aspect: tuple(raw)}
        if answer.rating is None:
            return Judgement(reason=answer.reason, raw=kept, flags=flags)
        ratings = {question.aspect: answer.rating.value}
        return Judgement(ratings, "", {question.aspect: answer.rating.explanation}, kept, flags)

    async def _check_server(self, client: AsyncOpenAI, fault: Failed) -> None:
        """Count a question without an answer; raise Fatal when many in a row have none, and a test question neither."""
        self._failed += 1
        many = max(8, self.config.concurrency)
        async with self._doubt:
            if self._failed <= many or self._stopping:
                return
            if not await self._is_well(client):
                raise Fatal(f"the last {self._failed} questions and a test question had no answer: {fault}")
            self._failed = 0

    async def _is_well(self, client: AsyncOpenAI) -> bool:
        """Tell whether the server answers a test question."""
        deadline = time.monotonic() + min(_PROBE_WAIT, self.config.max_wait)
        try:
            await self._call(client, AdaptiveConcurrency(1), PROBE, self.config.seed, deadline)
        except Failed:
            return False
        return True

    async def _call(
        self, client: AsyncOpenAI, slots: AdaptiveConcurrency, question: Question, seed: int, deadline: float
    ) -> Answer:
        """Return one answer; raise Refused, Transient when server or network failed until the deadline, Fatal when they always will."""
        # Not client.chat.completions.create: it refuses fields it does not know, and walks through every message's type (a fifth
        # of the time of a call).
        from openai.types.chat import ChatCompletion

        asked = {"model": self.model, "messages": messages(question), "temperature": 0, "seed": seed}
        asked |= {"max_tokens": self.config.max_tokens, **self.config.options}
        request = {name: value for name, value in asked.items() if value is not None}

        async def once(attempt: int) -> Answer:
            self.usage.retries += attempt > 1
            async with slots.slot(deadline):
                self.usage.calls += 1
                task = asyncio.current_task()
                self._in_flight.add(task)
                try:
                    # the client's own bound is on each read: a body that drips would never end
                    async with asyncio.timeout(min(self.config.timeout, deadline - time.monotonic())):
                        reply = await client.post("/chat/completions", body=request, cast_to=ChatCompletion)
                except Exception as error:
                    fault = classify(error, where=self.base_url, model=self.model, secrets=_secrets())
                    if isinstance(fault, Answer):
                        return fault
                    if isinstance(fault, Transient) and fault.reason == "http_429":
                        # a wait that is too long for this question is no reason for the others to wait
                        slots.shrink(fault.retry_after if fault.retry_after <= self.config.max_wait else 0.0)
                    failed_again = (
                        isinstance(fault, Transient) and fault.reason == "http_500" and attempt == TRIES_OF_ONE
                    )
                    if failed_again and question != PROBE and await self._is_well(client):
                        raise Refused(str(fault), reason="http_500") from None
                    raise fault from None
                finally:
                    self._in_flight.discard(task)
            slots.grow()
            self.usage.input_tokens += tokens_of(reply, "prompt_tokens")
            self.usage.output_tokens += tokens_of(reply, "completion_tokens")
            if price := self.config.price:
                spent = self.usage.input_tokens * price.input + self.usage.output_tokens * price.output
                self.usage.cost = spent / 1_000_000
            return read_answer(reply, fence=fence_of(question), secrets=_secrets())

        return await retry_until(once, deadline=deadline, first_wait=self.backoff)

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        key = next(iter(_secrets()), "none")
        timeout, http = self.config.timeout, bounded_http()
        return AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=0, timeout=timeout, http_client=http)

    def _spent(self) -> str:
        cost = "" if self.usage.cost is None else f", ${self.usage.cost:.2f}"
        return f"{self.usage.input_tokens + self.usage.output_tokens:,} tokens{cost}"


def _secrets() -> list[str]:
    return [os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)]


def _in_own_loop(make: Callable[[], Coroutine[object, None, T]]) -> T:
    """Run a coroutine in a new thread's event loop; Ctrl-C in the calling thread cancels it and waits until it has ended."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="steer-bench judge", daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(make(), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
    finally:
        asyncio.run_coroutine_threadsafe(_finish(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


async def _finish() -> None:
    """Wait for what was cancelled, and cancel what does not end."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if rest:
        await asyncio.wait(rest, timeout=_LANDING + 1)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
