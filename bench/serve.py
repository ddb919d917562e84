"""What the server costs: the engine alone on a list of requests, and clients asking for the same.

    JAX_PLATFORMS=cpu python bench/serve.py [--requests 500] [--clients 64]
    JAX_PLATFORMS=cpu python bench/serve.py --starts

The engine rolls all requests out in batch, in this process. `lfpc serve` runs beside it, and a
process of clients asks it for the same with the `openai` client, so many at a time. Both are
repeated, by turns, and every id that the server sends is compared with the engine's. Prints tokens
a second of both, their ratio and the seconds of an answer.

With --starts the server is started twice, without any program kept and with those of the first
start. Prints the seconds from the command to its first answer and until all programs are there, and
the CPU seconds until then.
"""

import argparse
import asyncio
import base64
import json
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfpc_jax.cli.parsers.serve import parser as flags_of_the_server
from lfpc_jax.data.scene import WORLDS
from lfpc_jax.data.world import World
from lfpc_jax.rollout.dialogue import question
from lfpc_jax.trajectory import Record

ROOT = Path(__file__).parents[1]


def asked(count: int) -> list[Record]:
    """Questions of the small world at the size that hides their answers: each needs a crop."""
    world = World(WORLDS["micro"], 11, "heldout", count)
    return [replace(world[n], id="asked", longest_side=56) for n in range(count)]


# -------------------------------------------------------------------- the engine alone


class Alone:
    """The engine of the server, without one."""

    def __init__(self, flags: list[str]) -> None:
        from lfpc_jax.cli import serve

        self.engine = serve.engine_of(flags_of_the_server().parse_args(flags))
        self.engine.warm_up(requests=True)

    def roll_out(self, records: list[Record], temperature: float) -> tuple[float, list[list[int]]]:
        """Seconds, and the sampled ids of every request; the seed is its number."""
        from lfpc_jax.rollout.requests import Request, RequestRun
        from lfpc_jax.rollout.sampling import Sampling

        ids: dict[int, list[int]] = {}
        engine, dialogue = self.engine, self.engine.dialogue
        rules = replace(engine.rules, sampling=Sampling(temperature))

        def told(request: Request, episode: Any) -> None:
            if episode.end is not None:
                ids[request.seed] = [n for n, own in zip(episode.ids, episode.sampled) if own]

        def refused(request: Request, why: str) -> None:
            raise ValueError(why)

        begun = time.perf_counter()
        with RequestRun(engine, on_episode=told, on_skipped=refused) as run:
            for seed, record in enumerate(records):
                run.add(Request(dialogue.open(record), seed, rules, dialogue))
            while not run.idle:
                run.turn()
        return time.perf_counter() - begun, [ids[seed] for seed in range(len(records))]


# -------------------------------------------------------------------- clients


async def ask_all(url: str, count: int, clients: int, temperature: float) -> dict[str, Any]:
    """Asks for all, `clients` at a time. Failures are counted."""
    import openai

    bodies = [
        {
            "model": "bench:look",
            "messages": [{"role": "user", "content": [_image(r), _text(question(r))]}],
            "seed": seed,
            "temperature": temperature,
            "extra_body": {"return_token_ids": True, "longest_side": r.longest_side},
        }
        for seed, r in enumerate(asked(count))
    ]
    ids: list[list[int]] = [[] for _ in bodies]
    seconds, failures = [], []
    waiting = iter(range(count))
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)

    async def work() -> None:
        for seed in waiting:
            begun = time.perf_counter()
            try:
                reply = await client.chat.completions.create(**bodies[seed])
            except openai.OpenAIError as error:
                failures.append(str(error))
                continue
            seconds.append(time.perf_counter() - begun)
            ids[seed] = reply.choices[0].token_ids

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    whole = time.perf_counter() - begun
    await client.close()
    return {"seconds": whole, "each": sorted(seconds), "ids": ids, "failures": failures}


def _image(record: Record) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(record.picture.data or b'').decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


class Started:
    """`lfpc serve` in a process of its own."""

    def __init__(self, flags: list[str]) -> None:
        self.begun = time.perf_counter()
        command = [sys.executable, "-m", "lfpc_jax", "serve", *flags, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("serving"):
            raise SystemExit(f"the server did not start: {line}")
        self.url = line.split(" at ")[1].split("/v1")[0]

    def ask(self, count: int, clients: int, temperature: float) -> dict[str, Any]:
        """The clients run in a process of their own, as they would."""
        arguments = [self.url, str(count), str(clients), str(temperature)]
        command = [sys.executable, __file__, "--ask", *arguments]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    def wait_for_programs(self) -> float:
        """Waits until every program is there; returns the seconds since the command."""
        while True:
            with urllib.request.urlopen(f"{self.url}/metrics") as reply:
                found = re.search(r"^lfpc_programs_left (\S+)", reply.read().decode(), re.MULTILINE)
            assert found is not None
            if not float(found[1]):
                return time.perf_counter() - self.begun
            time.sleep(0.2)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


# -------------------------------------------------------------------- the comparison


def compare(args: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    flags = ["--model", str(args.model), "--slots", str(args.slots), "--name", "bench"]
    flags += ["--queue", str(args.clients)]
    server = Started(flags)
    server.wait_for_programs()
    alone, records = Alone(flags), asked(args.requests)
    if args.wait:
        input("ready; press Enter to measure\n")
    rates: dict[str, list[float]] = {"engine": [], "server": []}
    mixed, failures, each = 0, 0, []
    for _ in range(args.repeats):
        seconds, wanted = alone.roll_out(records, args.temperature)
        rates["engine"].append(sum(map(len, wanted)) / seconds)
        found = server.ask(args.requests, args.clients, args.temperature)
        rates["server"].append(sum(map(len, found["ids"])) / found["seconds"])
        mixed += sum(a != b for a, b in zip(found["ids"], wanted))
        failures += len(found["failures"])
        each += found["each"]
        say(", ".join(f"{name} {values[-1]:.0f} tokens/s" for name, values in rates.items()))
    code = server.stop()
    ratios = [b / a for a, b in zip(rates["engine"], rates["server"])]
    result = {
        "requests": args.requests * args.repeats,
        "clients": args.clients,
        "failures": failures,
        "other_ids": mixed,
        "engine_tokens_per_second": statistics.median(rates["engine"]),
        "server_tokens_per_second": statistics.median(rates["server"]),
        "ratio": statistics.median(ratios),
        "answer_seconds": statistics.median(each),
        "exit_code": code,
    }
    for name, value in result.items():
        say(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    return result


def starts(args: argparse.Namespace) -> dict[str, float]:
    result = {}
    with tempfile.TemporaryDirectory() as kept:
        flags = ["--model", str(args.model), "--slots", str(args.slots), "--name", "bench"]
        for kind in ("cold", "kept"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            server = Started([*flags, "--cache", kept])
            server.ask(1, 1, 0.0)
            result[f"{kind}_first_answer_seconds"] = time.perf_counter() - server.begun
            result[f"{kind}_every_program_seconds"] = server.wait_for_programs()
            server.stop()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            result[f"{kind}_cpu_seconds"] = used
            for name, value in result.items():
                if name.startswith(kind):
                    print(f"{name}: {value:.1f}", flush=True)
    return result


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        url, count, clients, temperature = sys.argv[2:]
        found = asyncio.run(ask_all(url, int(count), int(clients), float(temperature)))
        print(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "configs/micro/warm")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16, help="as `lfpc serve` has them")
    parser.add_argument("--starts", action="store_true", help="measure these instead")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="for Enter, once all is compiled: make the machine quiet",
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = starts(args) if args.starts else compare(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
