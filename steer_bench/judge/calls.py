"""One call to a server: how often it is tried, what its faults mean, and what can be read from its reply.

Four kinds of outcome: an `Answer` (with a rating or the reason why not), `Transient` (worth waiting for), `Refused` (this question,
perhaps not the next), `Fatal` (every further call would fail alike). Every wait is bounded, and so is every answer.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from steer_bench.judge.judgement import Rating, Unscored, parse_rating

if TYPE_CHECKING:
    import httpx
    import openai

LONGEST_BACKOFF = 60.0
LONGEST_ANSWER = 200_000
"""Characters of an answer, thoughts included, that is read."""
LONGEST_BODY = 4 << 20
"""Bytes of a body that are received; a 64th of it where it is compressed."""
TRIES_OF_ONE = 6
"""How often a question is tried that the server fails on (500) while it answers a test question."""


class Answer(NamedTuple):
    """What the judge said."""

    text: str
    reason: str = ""
    """Why there is no rating; empty when there is one."""
    rating: Rating | None = None


class Failed(Exception):
    """There is no answer to this question, for this reason."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Refused(Failed):
    """The server refused the question."""


class Transient(Failed):
    """The server or the network failed in a way that may pass."""

    def __init__(self, message: str, *, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class TooLong(Exception):
    """A body is longer than any answer can be."""


class Fatal(Exception):
    """Every further call would fail in the same way."""


class AdaptiveConcurrency:
    """How many calls may be in flight: halved when the server says 429, one more after each full round of successes."""

    def __init__(self, limit: int) -> None:
        self.limit = self.most = limit
        self._in_flight = self._successes = 0
        self._not_before, self._shrunk = 0.0, -math.inf
        self._free = asyncio.Condition()

    @asynccontextmanager
    async def slot(self, deadline: float) -> AsyncIterator[None]:
        """Wait until one more call may be in flight, and count it as such; raise Transient where that is after `deadline`."""
        async with self._free:
            await self._free.wait_for(lambda: self._in_flight < self.limit)
            self._in_flight += 1
        try:
            while (pause := self._not_before - time.monotonic()) > 0:
                if self._not_before > deadline:
                    raise Transient(f"the server asks to wait {pause:.0f} s", reason="http_429", retry_after=pause)
                await asyncio.sleep(pause)
            yield
        finally:
            async with self._free:
                self._in_flight -= 1
                self._free.notify_all()

    def shrink(self, retry_after: float) -> None:
        """Halve the limit after a 429 (once for all calls in flight together); start no call before `retry_after` seconds."""
        now = time.monotonic()
        self._not_before = max(self._not_before, now + retry_after)
        if now - self._shrunk >= 1.0:
            self.limit = max(1, self.limit // 2)
            self._shrunk = now
        self._successes = 0

    def grow(self) -> None:
        """Count a success; raise the limit by one once as many succeeded in a row as may be in flight."""
        self._successes += 1
        if self._successes >= self.limit and self.limit < self.most:
            self.limit += 1
            self._successes = 0


async def retry_until(once: Callable[[int], Awaitable[Answer]], *, deadline: float, first_wait: float) -> Answer:
    """Call until there is an answer; raise the last Transient when the next try would come after `deadline` (time.monotonic).

    Waits double from `first_wait` up to a minute, with jitter; a longer Retry-After of the server is honoured.
    """
    import tenacity

    exponential = tenacity.wait_random_exponential(multiplier=first_wait, max=LONGEST_BACKOFF)

    def wait(state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        asked = fault.retry_after if isinstance(fault, Transient) else 0.0
        return asked + first_wait / 4 + float(exponential(state))

    again, stop = tenacity.retry_if_exception_type(Transient), tenacity.stop_before_delay(deadline - time.monotonic())
    retrying = tenacity.AsyncRetrying(retry=again, wait=wait, stop=stop, reraise=True)
    async for attempt in retrying:
        with attempt:
            answer = await once(attempt.retry_state.attempt_number)
    return answer


def bounded_http() -> httpx.AsyncClient:
    """Make the HTTP client of the openai client: it raises TooLong in the middle of a body of more than LONGEST_BODY bytes."""
    import openai

    library = sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]]  # httpx, or httpx2

    class Bounded(library.AsyncByteStream):  # type: ignore[name-defined]
        def __init__(self, response: httpx.Response) -> None:
            self.stream, self.left = response.stream, LONGEST_BODY
            if "content-encoding" in response.headers:
                self.left //= 64

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self.stream:
                self.left -= len(chunk)
                if self.left < 0:
                    raise TooLong
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def bound(response: httpx.Response) -> None:
        response.stream = Bounded(response)

    return openai.DefaultAsyncHttpxClient(event_hooks={"response": [bound]}, headers={"Accept-Encoding": "identity"})


def classify(error: Exception, *, where: str, model: str, secrets: Sequence[str]) -> Answer | Failed | Fatal:
    """Say what an exception of the openai client means for this call and for the next."""
    import openai

    said = redact(f"{type(error).__name__}: {error}"[:2000], secrets)
    if isinstance(error, TooLong) or isinstance(error.__cause__, TooLong):
        return Answer(f"a body of more than {LONGEST_BODY} bytes", "parse")
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Transient(f"no answer from {where} in time", reason="timeout")
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return Transient(redact(f"no connection to {where} ({cause})", secrets), reason="connection")
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error, where=where, model=model, secrets=secrets)
    if isinstance(error, openai.APIResponseValidationError):
        return Answer(said, "parse")
    if isinstance(error, openai.OpenAIError | UnicodeEncodeError):  # the request could not be made
        return Refused(f"{where} cannot be asked ({said})", reason="request")
    return Answer(said, "parse")  # the client could not read what came: no JSON, nested too deeply, of other types


def _classify_status(
    error: openai.APIStatusError, *, where: str, model: str, secrets: Sequence[str]
) -> Answer | Failed | Fatal:
    status = error.status_code
    body = error.body if isinstance(error.body, dict) else {}
    code = " ".join(str(body.get(name) or "")[:200] for name in ("code", "type"))
    message = str(body.get("message") or error.message)[:5000]
    shown = re.sub(r"<[^<>]*>|[\x00-\x1f\x7f]", " ", message)  # an HTML page, for one
    said = redact(" ".join(shown.split())[:300], secrets)
    if "insufficient_quota" in code or status == 402:
        return Fatal(f"{status} insufficient_quota from {where}: {said}; add credit to the account")
    if status == 400 and "content_" in code:  # content_filter, content_policy_violation
        return Answer(said, "filtered")
    if status in (408, 409, 429) or status >= 500:
        wait = _retry_after(error.response.headers)
        return Transient(f"{status} from {where}: {said}", reason=f"http_{status}", retry_after=wait)
    hint = "the request does not suit the server; judge.options can change its fields"
    if status in (401, 403, 407):
        hint = "is the key in STEER_JUDGE_API_KEY or OPENAI_API_KEY right?"
    elif status == 404:
        hint = f"does the server have the model {model!r}, and does judge.base_url end in /v1?"
    fault = f"{status} from {where}: {said}; {hint}"
    return Fatal(fault) if status in (401, 407) else Refused(fault, reason=f"http_{status}")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds a server asks to wait (Retry-After-Ms, or Retry-After as seconds or a date); 0 by default."""
    wanted = headers.get("retry-after") or ""
    for text, unit in ((headers.get("retry-after-ms") or "", 1000), (wanted, 1)):
        try:
            seconds = float(text) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(wanted).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return 0.0


def tokens_of(reply: object, name: str) -> int:
    """Return a count of tokens that a reply states; 0 where it states none that can be."""
    count = getattr(getattr(reply, "usage", None), name, 0)
    known = isinstance(count, int | float) and not isinstance(count, bool) and 0 <= count < math.inf
    return int(count) if known else 0


def read_answer(reply: object, *, fence: str, secrets: Sequence[str]) -> Answer:
    """Return the rating in a chat completion, or why there is none; `reply` may be anything the client makes of a body."""
    if isinstance(reply, str):
        return Answer(redact(reply[:2000], secrets), "parse")
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
        return Answer(redact(repr(reply)[:2000], secrets), "parse")
    message, finish = choices[0].message, getattr(choices[0], "finish_reason", None)
    text = _text_of(getattr(message, "content", None))
    if len(text) > LONGEST_ANSWER:
        return Answer(redact(text[:2000], secrets), "parse")
    text = redact(text, secrets)
    refusal = getattr(message, "refusal", None)
    if finish == "content_filter":
        return Answer(text, "filtered")
    if isinstance(refusal, str) and refusal and not text:
        return Answer(redact(refusal, secrets), "refused")
    if finish == "length":  # the last rating may not have come yet
        return Answer(text, "truncated")
    copied = rf"<{re.escape(fence)}-[AB]>.*?(?:</{re.escape(fence)}-[AB]>|\Z)"  # the fenced data, closed or not
    found = parse_rating(re.sub(copied, "", text, flags=re.DOTALL))
    return Answer(text, found.reason) if isinstance(found, Unscored) else Answer(text, "", found)


def _text_of(content: object) -> str:
    """Return the text of a message: a string, or a list of parts, of which those that hold thoughts are left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) and _is_text(part) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _is_text(part: Mapping[str, object]) -> bool:
    return part.get("type", "text") in ("text", "output_text") and not part.get("thought")


_SECRET = re.compile(
    r"\b(?:sk|hf|gsk|xai|pk)[-_][A-Za-z0-9_\-*.]{6,}|(?i:\bbearer\s+)[A-Za-z0-9_\-.=+/]{6,}|(?<=://)[^/\s@]+@"
)


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return the text without the keys given, and without what looks like one.

    >>> redact("Incorrect API key provided: sk-abc123def456", [])
    'Incorrect API key provided: [key]'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "[key]")
    return _SECRET.sub("[key]", text)
