"""The Flask example, served by four workers, as its visitors use it."""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.conftest import Server

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

ROOT = Path(__file__).parents[2]
ALL_WORKERS = {"0.1", "1.1", "2.1", "3.1"}
MAX_UPLOAD_BYTES = 64 * 1024
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100


def environment(data_dir: Path) -> dict[str, str]:
    return {
        "POSTCARDS_DATA_DIR": str(data_dir),
        "POSTCARDS_SECRET_KEY": "a key of this test",
        "POSTCARDS_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("postcards") / "data"


@pytest.fixture(scope="module")
def server(data_dir: Path) -> Iterator[Server]:
    """One server for all tests of this file; it also has to end well after all of them."""
    arguments = ("--workers", "4", "--threads", "4", "--bind", "127.0.0.1:0")
    running = Server(("examples.flask_app.main:app", *arguments), ROOT, environment(data_dir))
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
    finally:
        running.kill()


@pytest.fixture
def browser(server: Server) -> Iterator[httpx.Client]:
    """A client that keeps cookies but no connection: each request goes to the next worker."""
    with one_connection_each(server) as client:
        yield client


def one_connection_each(server: Server) -> httpx.Client:
    return server.client(limits=httpx.Limits(max_keepalive_connections=0))


def workers_that_answer(browser: httpx.Client) -> set[str]:
    """Ask until all workers have answered, or, should one be stuck, for a long while."""
    seen: set[str] = set()
    for _ in range(400):
        seen.add(browser.get("/health").headers["X-Worker"])
        if seen == ALL_WORKERS:
            break
    return seen


def token(page: httpx.Response) -> str:
    match = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert match is not None, page.text
    return match[1]


def submit(browser: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Load the wall and submit one of its forms; return the answer to the form itself."""
    return browser.post(path, data={"csrf_token": token(browser.get("/")), **fields})


def upload(browser: httpx.Client, message: str, picture: bytes, filename: str) -> httpx.Response:
    return browser.post(
        "/postcards",
        data={"csrf_token": token(browser.get("/")), "message": message},
        files={"picture": (filename, picture)},
    )


def stored_pictures(data_dir: Path) -> set[Path]:
    return set((data_dir / "pictures").iterdir())


def exported_cards(browser: httpx.Client) -> list[dict[str, str]]:
    answer = browser.get("/downloads/postcards.csv")
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def test_every_worker_answers_and_names_itself(browser: httpx.Client) -> None:
    assert workers_that_answer(browser) == ALL_WORKERS
    for _ in range(8):
        answer = browser.get("/whoami")
        who = answer.json()
        assert answer.headers["X-Worker"] == f"{who['index']}.{who['generation']}"
        assert who["workers"] == 4
        assert who["thread"]
    assert browser.get("/health").json() == {"status": "ok"}
    assert "one of 4" in browser.get("/").text
    assert "color-scheme" in browser.get("/static/style.css").text


def test_the_factory_makes_the_same_app(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        "examples.flask_app.main:create_app",
        "--factory",
        app_dir=ROOT,
        env=environment(tmp_path) | {"POSTCARDS_SECRET_KEY": ""},
    )
    with one_connection_each(server) as browser:
        assert submit(browser, "/postcards", message="from the factory").status_code == 303
        assert "from the factory" in browser.get("/").text
    assert server.stop() == 0, server.log
    assert "set POSTCARDS_SECRET_KEY" in server.log


def test_a_visitor_is_the_same_one_to_every_worker(browser: httpx.Client) -> None:
    workers: set[str] = set()
    browser.event_hooks["response"] = [lambda answer: workers.add(answer.headers["X-Worker"])]
    greeting = submit(browser, "/name", name="  Ada   <b> ")
    assert greeting.status_code == 303
    assert "Hello Ada &lt;b&gt;!" in browser.get("/").text
    assert "Hello Ada" not in browser.get("/").text  # a flashed message is shown once

    for number in range(8):
        assert submit(browser, "/postcards", message=f"greetings no. {number}").status_code == 303
        assert "Your postcard is on the wall." in browser.get("/").text
        wall = browser.get("/").text
        assert wall.count("Ada &lt;b&gt;</strong>") == number + 1
        assert wall.count("Take down") == number + 1
    assert workers == ALL_WORKERS

    card = next(card for card in exported_cards(browser) if card["message"] == "greetings no. 0")
    take_down = f"/postcards/{card['id']}/delete"
    with httpx.Client(base_url=browser.base_url, trust_env=False) as stranger:
        assert "Take down" not in stranger.get("/").text
        assert submit(stranger, take_down).status_code == 404
    assert submit(browser, take_down).status_code == 303
    wall = browser.get("/").text
    assert "greetings no. 0" not in wall
    assert "greetings no. 7" in wall


def test_pictures_are_stored_served_and_turned_away(browser: httpx.Client, data_dir: Path) -> None:
    before = stored_pictures(data_dir)
    assert upload(browser, "look!", PNG, "../../evil.html").status_code == 303
    [stored] = stored_pictures(data_dir) - before
    assert stored.read_bytes() == PNG
    path = f"/pictures/{stored.name}"
    assert path in browser.get("/").text

    for _ in range(4):
        picture = browser.get(path)
        assert picture.content == PNG
        assert picture.headers["Content-Type"] == "image/png"
        assert picture.headers["X-Content-Type-Options"] == "nosniff"
    part = browser.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, PNG[100:200])
    unchanged = browser.get(path, headers={"If-None-Match": picture.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")

    assert upload(browser, "no picture", b"<script>", "x.png").status_code == 303
    assert "must be a PNG" in browser.get("/").text
    too_large = upload(browser, "large", PNG + bytes(MAX_UPLOAD_BYTES), "x.png")
    assert too_large.status_code == 413
    assert "larger than this site accepts" in too_large.text
    assert stored_pictures(data_dir) == before | {stored}


def test_downloads_arrive_whole(browser: httpx.Client) -> None:
    days = 50_000
    with browser.stream("GET", "/downloads/calendar.csv", params={"days": days}) as download:
        assert download.status_code == 200
        assert "Content-Length" not in download.headers
        assert download.headers["Content-Disposition"] == "attachment; filename=calendar.csv"
        rows = csv.reader(download.iter_lines())
        assert next(rows) == ["date", "weekday", "week"]
        first = date(1970, 1, 1)
        expected = (first + timedelta(days=number) for number in range(days))
        for row, day in zip(rows, expected, strict=True):
            assert row == [day.isoformat(), f"{day:%A}", str(day.isocalendar().week)]

    upload(browser, 'says "hello",\nand more', PNG, "a.png")
    card = exported_cards(browser)[-1]
    assert card["sender"] == "Anonymous"
    assert card["message"].splitlines() == ['says "hello",', "and more"]

    archive = zipfile.ZipFile(io.BytesIO(browser.get("/downloads/pictures.zip").content))
    assert archive.testzip() is None
    assert archive.read(card["picture"]) == PNG


def test_head_is_get_without_the_body(browser: httpx.Client) -> None:
    upload(browser, "look!", PNG, "a.png")
    picture = f"/pictures/{exported_cards(browser)[-1]['picture']}"
    for path in (
        "/",
        "/health",
        "/whoami",
        "/static/icon.svg",
        picture,
        "/downloads/calendar.csv",
        "/downloads/postcards.csv",
        "/downloads/pictures.zip",
    ):
        head = browser.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["X-Worker"] in ALL_WORKERS
    assert browser.head(picture).headers["Content-Length"] == str(len(PNG))
    assert browser.head("/nowhere").status_code == 404


def test_visitors_who_leave_mid_download_take_no_thread_with_them(browser: httpx.Client) -> None:
    for _ in range(20):  # four more than there are threads: 4 workers x 4
        with browser.stream("GET", "/downloads/calendar.csv?days=1000000") as download:
            assert next(download.iter_raw()).startswith(b"date,weekday,week\r\n")
    assert workers_that_answer(browser) == ALL_WORKERS


def test_errors_have_a_page(server: Server, browser: httpx.Client) -> None:
    def error(method: str, path: str, **options: object) -> httpx.Response:
        answer = browser.request(method, path, **options)  # type: ignore[arg-type]
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["X-Worker"] in ALL_WORKERS
        assert f'<p class="code">{answer.status_code}</p>' in answer.text
        return answer

    assert error("GET", "/nowhere").status_code == 404
    assert error("GET", "/pictures/nothing.png").status_code == 404
    assert error("GET", "/pictures/..%2Fpostcards.sqlite3").status_code == 404
    assert error("GET", "/downloads/calendar.csv?days=-1").status_code == 400
    assert error("POST", "/postcards", data={"message": "no token"}).status_code == 400
    forged = {"message": "forged", "csrf_token": "é"}
    browser.get("/")  # has a token from here on
    assert error("POST", "/postcards", data=forged).status_code == 400
    wrong_method = error("PUT", "/health", data={"csrf_token": token(browser.get("/"))})
    assert wrong_method.status_code == 405
    assert "GET" in wrong_method.headers["Allow"]

    for _ in range(8):
        assert error("GET", "/fail").status_code == 500
    server.wait_for("RuntimeError: this route always fails")
    assert workers_that_answer(browser) == ALL_WORKERS
