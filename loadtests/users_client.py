"""Users of the release board: they look around, plan a release, change it, and think in between.

``python -m loadtests.users_client --port 8000 --users 40 --seconds 5`` prints what they met; run by
the Python of the environment, which has httpx.
"""

import argparse
import asyncio
import json
import random
import sys
import time

import httpx

from loadtests import openloop

THINK_SECONDS = (0.05, 0.25)
REQUEST_SECONDS = 30.0
RELEASES = "/api/releases"


class Visit:
    """What all users did together: latencies in seconds, errors by what was asked."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.latencies: list[float] = []
        self.errors: dict[str, int] = {}

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, data: object = None
    ) -> httpx.Response | None:
        """Make a request; None where it failed, which is counted."""
        begin = time.perf_counter()
        try:
            answer = await client.request(method, path, json=data)
        except httpx.HTTPError:
            self.errors["connection"] = self.errors.get("connection", 0) + 1
            return None
        if answer.is_error:
            self.errors["status"] = self.errors.get("status", 0) + 1
            return None
        self.latencies.append(time.perf_counter() - begin)
        return answer

    async def user(self, number: int, until: float) -> None:
        """Be one user until the clock says so; each has connections of their own."""
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=self.base, timeout=REQUEST_SECONDS) as client:
            turn = 0
            while time.perf_counter() < until:
                turn += 1
                await self.ask(client, "GET", f"{RELEASES}?limit=20")
                await asyncio.sleep(chance.uniform(*THINK_SECONDS))
                planned = {"project": f"p{number}", "version": f"1.{turn}.0", "title": "A release"}
                answer = await self.ask(client, "POST", RELEASES, planned)
                if answer is not None:
                    path = f"{RELEASES}/{answer.json()['id']}"
                    await self.ask(client, "GET", path)
                    await asyncio.sleep(chance.uniform(*THINK_SECONDS))
                    await self.ask(client, "PATCH", path, {"notes": "word " * 100})
                await asyncio.sleep(chance.uniform(*THINK_SECONDS))


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    visit = Visit(options.port)
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(options.users):
            group.create_task(visit.user(number, begin + options.seconds))
    found = {
        "requests": len(visit.latencies),
        "seconds": time.perf_counter() - begin,
        "errors": visit.errors,
        "p50_ms": openloop.percentile(visit.latencies, 0.5) * 1e3,
        "p99_ms": openloop.percentile(visit.latencies, 0.99) * 1e3,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
