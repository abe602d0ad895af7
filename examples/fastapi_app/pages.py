"""The pages for people.  They get their data from the same API as everybody else."""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from examples.fastapi_app.middleware import worker_name

_HERE = Path(__file__).parent
STATIC = _HERE / "static"


def _everywhere(request: Request) -> dict[str, str]:
    """What every page uses; links begin with `base`, so the app also works below a path."""
    return {"base": request.scope.get("root_path", ""), "worker": worker_name()}


_templates = Jinja2Templates(_HERE / "templates", context_processors=[_everywhere])

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
async def home(request: Request) -> HTMLResponse:
    """What there is."""
    return _templates.TemplateResponse(request, "home.html")


@router.get("/board")
async def board(request: Request) -> HTMLResponse:
    """The releases, kept up to date by server-sent events."""
    return _templates.TemplateResponse(request, "board.html")


@router.get("/chat")
async def chat(request: Request) -> HTMLResponse:
    """The chat room, over a WebSocket."""
    return _templates.TemplateResponse(request, "chat.html")


@router.get("/files")
async def files(request: Request) -> HTMLResponse:
    """Upload and download."""
    return _templates.TemplateResponse(request, "files.html")
