"""Writers: what answers the prompts, a Hugging Face model or an OpenAI-compatible endpoint. torch and openai on first use."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol


class Writer(Protocol):
    """Answers prompts by sampling."""

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return one reply per prompt, in order; equal arguments give equal replies where the backend can promise it."""
        ...


class HFWriter:
    """A Hugging Face model as a writer: chat template where there is one, left-padded batches, top-k 50."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it has to be at least 1")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        """Replies; temperature 0 is greedy. The caller's random state is left as it was."""
        import torch

        replies: list[str] = []
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            for start in range(0, len(prompts), self.batch_size):
                rows = [self.encode(prompt) for prompt in prompts[start : start + self.batch_size]]
                width = max(len(row) for row in rows)
                pad = self._pad()
                ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
                mask = torch.tensor(
                    [[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device
                )
                sampling = (
                    {"do_sample": True, "temperature": temperature, "top_k": 50, "top_p": 1.0} if temperature else {}
                )
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad,
                    **(sampling or {"do_sample": False}),
                )
                replies += self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return replies

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt as the model reads it."""
        if not self.tokenizer.chat_template:
            return list(self.tokenizer(prompt + "\n\n")["input_ids"])
        chat = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _pad(self) -> int:
        choices = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in choices if token is not None)


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
