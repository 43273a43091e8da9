"""3,000 judgements against a local server that takes 50 ms for each, 16 at a time: to take under 20 s.

Run: python benchmarks/judge_throughput.py [calls] [concurrency]
"""

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from steer_bench.judge.config import OpenAIConfig
from steer_bench.judge.judgement import Case
from steer_bench.judge.openai_judge import OpenAIJudge
from steer_bench.judge.ratings import rate_recorded
from steer_bench.records import Records

LATENCY = 0.05
BODY = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes.\nRating: [[2]]"}}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(length)
            await asyncio.sleep(LATENCY)
            writer.write(REPLY)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(port: "multiprocessing.Queue[int]") -> None:
    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def main() -> None:
    calls, concurrency = [int(value) for value in (*sys.argv[1:], *("3000", "16")[len(sys.argv) - 1 :])][:2]
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    multiprocessing.Process(target=serve, args=(port,), daemon=True).start()
    config = OpenAIConfig(model="fake", base_url=f"http://127.0.0.1:{port.get()}/v1", concurrency=concurrency)
    judge = OpenAIJudge(config, progress=False)
    cases = [Case("sea", "the sea", f"prompt {i}", f"reply {i}") for i in range(calls // 3)]
    judge.probe()
    with tempfile.TemporaryDirectory() as folder, Records(Path(folder) / "records.sqlite") as store:
        start, start_cpu = time.monotonic(), time.process_time()
        judgements = rate_recorded(judge, cases, store)
        seconds, cpu = time.monotonic() - start, time.process_time() - start_cpu
        assert all(one.score == 2.0 for one in judgements)
    floor = calls * LATENCY / concurrency
    print(f"{calls} judgements, {concurrency} at a time, {LATENCY * 1000:.0f} ms each: {seconds:.1f} s")
    print(f"({cpu:.1f} s of CPU; no less than {floor:.1f} s)")


if __name__ == "__main__":
    main()
