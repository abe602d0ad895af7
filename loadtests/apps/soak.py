"""What the soak serves: something of everything, through FastAPI."""

import _interpreters
import asyncio

from fastapi import FastAPI, Request, Response

from loadtests.apps.asgi import LARGE

app = FastAPI()


@app.get("/")
async def fast() -> dict[str, str]:
    """Answer at once."""
    return {"hello": "world"}


@app.post("/")
async def echo(request: Request) -> Response:
    """Answer with the request's body."""
    return Response(await request.body())


@app.get("/large")
def large() -> Response:
    """Answer 1 MB, from a thread."""
    return Response(LARGE * 10)


@app.get("/slow")
async def slow() -> dict[str, str]:
    """Answer after 100 ms."""
    await asyncio.sleep(0.1)
    return {"hello": "late"}


@app.get("/interpreters")
async def interpreters() -> int:
    """Say how many interpreters there are in this process."""
    return len(_interpreters.list_all())
