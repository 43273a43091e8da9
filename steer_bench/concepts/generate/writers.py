"""Writers: what answers the prompts, a model of this machine (`models.writer`) or an OpenAI-compatible endpoint. openai on first use."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Writer(Protocol):
    """Answers prompts by sampling."""

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return one reply per prompt, in order; equal arguments give equal replies where the backend can promise it."""
        ...


class OpenAIWriter:
    """An OpenAI-compatible endpoint as a writer. The key is read from OPENAI_API_KEY alone; local servers need none."""

    def __init__(
        self, base_url: str, model: str, *, concurrency: int = 8, timeout: float = 120.0, retries: int = 4
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it has to be at least 1")
        self.base_url, self.model, self.concurrency = base_url, model, concurrency
        self.timeout, self.retries = timeout, retries

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return the replies, "" for a filtered one. Raises ValueError naming the endpoint where a request fails for good."""
        import asyncio

        # A thread of its own, so that it also works where an event loop is running (notebooks).
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._write(prompts, max_new_tokens, temperature, seed)).result()

    async def _write(self, prompts: Sequence[str], max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        import asyncio

        import openai

        key = os.environ.get("OPENAI_API_KEY") or "none"
        gate = asyncio.Semaphore(self.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.retries
        ) as client:

            async def one(i: int, prompt: str) -> str:
                async with gate:
                    reply = await client.chat.completions.create(
                        model=self.model,
                        messages=[{"role": "user", "content": prompt}],
                        max_tokens=max_new_tokens,
                        temperature=temperature,
                        seed=seed + i,
                    )
                return (reply.choices[0].message.content or "") if reply.choices else ""

            try:
                return list(await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(prompts))))
            except openai.OpenAIError as error:
                cause = " ".join(str(error).split())[:200].replace(key, "***" if key != "none" else key)
                raise ValueError(
                    f"{self.base_url} did not write with model {self.model!r} ({cause}); "
                    "check the address, the model's name and OPENAI_API_KEY"
                ) from None
