"""Many clients at once against `dlm serve`: is every answer the one it gives alone, and what does sharing batches gain.

    PYTHONPATH=. python scripts/load_serve.py [--minutes 10] [--clients 64] [--model device=cuda dtype=float64]

The server is a process of its own. Requests differ in prompt, length, sampler, cache and seed; half of them stream, one
in twenty leaves in the middle. Every answer is held against the one the library gives to the same request alone. Then
the same requests one after the other, for the throughput. Needs pip install 'dlm[serve]'.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

NAMES = ["Anna", "Bob", "Cleo", "Dave", "Eve", "Fay", "Gus", "Hana"]
SAMPLERS: list[Any] = ["threshold", "topk", {"name": "threshold", "threshold": 0.7}, "credit"]
CACHES = ["none", "dual"]


def requests(count: int, seed: int) -> list[dict[str, Any]]:
    """So many different ones."""
    rng, made = random.Random(seed), []
    for number in range(count):
        names = ", ".join(f'"{name}"' for name in rng.sample(NAMES, rng.randint(2, 6)))
        verb = rng.choice(["Copy", "Reverse", "Sort"])
        prompt = rng.choice([f"{rng.randint(10, 99)}+{rng.randint(10, 99)}=", f"{verb} the list: [{names}]"])
        made.append({
            "prompt": prompt, "max_tokens": rng.choice([32, 48, 64]), "sampler": rng.choice(SAMPLERS),
            "cache": rng.choice(CACHES), "temperature": rng.choice([0, 0, 0.7]), "seed": number,
        })  # fmt: skip
    return made


@dataclass
class Seen:
    """What the clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def ask(port: int, body: dict[str, Any], seen: Seen, leave: bool) -> str | None:
    """One request; the text of its answer, None where the client left."""
    stream, begun = leave or hash(json.dumps(body)) % 2 == 0, time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    options = {"stream": True, "stream_options": {"canvas": True, "include_usage": True}} if stream else {}
    connection.request("POST", "/v1/completions", json.dumps(body | options), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        said = response.read().decode()
        with seen.lock:
            seen.outcomes[f"{response.status}"] += 1
        raise RuntimeError(said)
    text, usage, first = "", None, None
    for chunk in _events(response) if stream else [json.loads(response.read())]:
        if "canvas" in chunk and first is None:
            first = time.monotonic() - begun
            if leave:
                connection.close()
                return None
        text += "".join(choice.get("text", "") for choice in chunk["choices"])
        usage = chunk.get("usage") or usage
    connection.close()
    with seen.lock:
        seen.whole.append(time.monotonic() - begun)
        seen.tokens += (usage or {}).get("completion_tokens", 0)
        if first is not None:
            seen.first.append(first)
    return text


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])


def alone(asked: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """What the library answers to each by itself."""
    import dlm
    from dlm.serving.asked import Asking, Completion

    model = dlm.load("tiny", **settings)
    asking, texts = Asking(model, [], 32, model.description.context_length), []
    for body in asked:
        parts = asking.read(Completion, json.dumps(body).encode()).parts.decoder
        given = {
            "sampler": parts.sampler,
            "cache": parts.cache,
            "max_new_tokens": body["max_tokens"],
            "seed": body["seed"],
        }
        texts.append(dlm.generate(model, [body["prompt"]], **given)[0].text)
    return texts


def run(port: int, asked: list[dict[str, Any]], right: list[str], clients: int, until: float) -> tuple[Seen, float]:
    """So many clients until then, or until each request was asked once."""
    seen, todo, begun = Seen(), _endless(len(asked), until), time.monotonic()

    def client(number: int) -> None:
        rng = random.Random(number)
        while (at := next(todo, None)) is not None:
            leave = clients > 1 and rng.random() < 0.05
            try:
                text = ask(port, asked[at], seen, leave)
            except (OSError, RuntimeError, http.client.HTTPException, ValueError) as error:
                with seen.lock:
                    seen.outcomes["lost"] += 1
                    seen.wrong.append((asked[at], str(error)[:200]))
                continue
            with seen.lock:
                seen.outcomes["left" if text is None else "right" if text == right[at] else "crossed"] += 1
                if text not in (None, right[at]):
                    seen.wrong.append((asked[at], text, right[at]))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, time.monotonic() - begun


def _endless(count: int, until: float) -> Iterator[int]:
    lock, number = threading.Lock(), [0]

    class Turns:
        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            with lock:
                if time.monotonic() > until:
                    raise StopIteration
                number[0] += 1
                return (number[0] - 1) % count

    return iter(Turns())


def resident(pid: int) -> float:
    """Megabytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def step_seconds(port: int) -> float:
    """Mean seconds of a forward of the batch, by the server's own counters."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    seconds = sum(value for key, value in values.items() if key.startswith("dlm_seconds_total"))
    return seconds / max(1.0, values["dlm_forwards_total"])


def main() -> int:
    """Start the server, load it, and write the table; exit status 1 where an answer was lost or crossed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--requests", type=int, default=400, help="different ones, asked in turns")
    parser.add_argument("--model", nargs="*", default=[], help="settings of the model, device=cuda dtype=float64")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    asked = requests(given.requests, 0)
    print("each request alone ...", flush=True)
    right = alone(asked, dict(word.split("=", 1) for word in given.model))
    command = [sys.executable, "-m", "dlm", "serve", "port=0", f"batch_size={given.rows}", "waiting=1000"]
    command += [f"model.{word}" for word in given.model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
        try:
            with urlopen(f"http://127.0.0.1:{port}/v1/settings") as known:  # every choice has been composed then
                known.read()
            single, took = run(port, asked[:120], right, 1, time.monotonic() + 60 * given.minutes / 10)
            one = (sum(single.outcomes.values()) / took, single.tokens / took)
            run(port, asked, right, given.clients, time.monotonic() + 5)
            before = resident(server.pid)
            seen, took = run(port, asked, right, given.clients, time.monotonic() + 60 * given.minutes)
            after, step = resident(server.pid), step_seconds(port)
        finally:
            server.terminate()
    many = (sum(seen.outcomes.values()) / took, seen.tokens / took)
    wrong = sum(n for outcome, n in seen.outcomes.items() if outcome not in ("right", "left"))
    rows = [
        ("clients, rows together", f"{given.clients}, {given.rows}"), ("minutes", f"{took / 60:.1f}"),
        *((outcome, str(n)) for outcome, n in sorted(seen.outcomes.items())),
        ("requests a second", f"{many[0]:.1f}"), ("one client", f"{one[0]:.1f}"), ("ratio", f"{many[0] / one[0]:.2f}"),
        ("tokens a second, ratio", f"{many[1]:.0f}, {many[1] / one[1]:.2f}"),
        ("first canvas: median, 95 % (ms)", f"{_ms(seen.first, 0.5)}, {_ms(seen.first, 0.95)}"),
        ("whole answer: median, 95 % (ms)", f"{_ms(seen.whole, 0.5)}, {_ms(seen.whole, 0.95)}"),
        ("first canvas, one client (ms)", _ms(single.first, 0.5)),
        ("rows' shares of seconds over forwards (ms)", f"{1000 * step:.1f}"),
        ("memory before, after (MB)", f"{before:.0f}, {after:.0f}"),
    ]  # fmt: skip
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    print(table)
    for found in seen.wrong[:5]:
        print(found)
    if given.output is not None:
        given.output.write_text(table + "\n", encoding="utf-8")
    return 1 if wrong else 0


def _ms(values: list[float], share: float) -> str:
    ordered = sorted(values)
    return f"{1000 * ordered[int(share * (len(ordered) - 1))]:.0f}" if ordered else "-"


if __name__ == "__main__":
    sys.exit(main())
