"""The Django example, served by four workers, through its ASGI and its WSGI entry point."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.conftest import Server

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

ROOT = Path(__file__).parents[2]
ALL_WORKERS = {"0.1", "1.1", "2.1", "3.1"}
FIRST_BOOKS = 5
MANAGE_SECONDS = 60.0
PASSWORD = "Analytical-Engine-1843"


def environment(data_dir: Path) -> dict[str, str]:
    return {"DJANGO_DATA_DIR": str(data_dir), "DJANGO_SECRET_KEY": "a key of this test " * 3}


def manage(*arguments: str, env: dict[str, str]) -> str:
    """Run a management command as the README says; return what it prints."""
    return subprocess.run(
        [sys.executable, "-m", "examples.django_app.manage", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=MANAGE_SECONDS,
    ).stdout


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def entry(request: pytest.FixtureRequest) -> str:
    """Which entry point the server is given; each has a server and a database of its own."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def data_dir(entry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(entry) / "data"


@pytest.fixture(scope="module")
def server(entry: str, data_dir: Path) -> Iterator[Server]:
    """One server for all tests of an entry point; it also has to end well after all of them."""
    app = f"examples.django_app.{entry}:application"
    arguments = ("--workers", "4", "--threads", "4", "--bind", "127.0.0.1:0")
    running = Server((app, *arguments), ROOT, environment(data_dir))
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log
    finally:
        running.kill()


@pytest.fixture
def browser(server: Server) -> Iterator[httpx.Client]:
    """A client that keeps cookies but no connection: each request goes to the next worker."""
    with one_connection_each(server) as client:
        yield client


def one_connection_each(server: Server) -> httpx.Client:
    return server.client(limits=httpx.Limits(max_keepalive_connections=0))


def workers_that_answer(browser: httpx.Client, path: str) -> set[str]:
    """Ask until all workers have answered, or, should one be stuck, for a long while."""
    seen: set[str] = set()
    for _ in range(400):
        answer = browser.get(path)
        assert answer.status_code == 200
        seen.add(answer.headers["X-Worker"])
        if seen == ALL_WORKERS:
            break
    return seen


def submit(browser: httpx.Client, page: str, path: str, **fields: str) -> httpx.Response:
    """Load `page`, and submit its form to `path`; return the answer to the form itself."""
    match = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get(page).text)
    assert match is not None, page
    return browser.post(path, data={"csrfmiddlewaretoken": match[1], **fields})


def find_books(browser: httpx.Client, text: str) -> list[dict[str, object]]:
    found = browser.get("/api/books/", params={"q": text}).json()
    books: list[dict[str, object]] = found["books"]
    assert found["count"] == len(books)
    return books


def test_the_first_start_migrates_once(server: Server, data_dir: Path) -> None:
    assert server.log.count("INFO examples.django_app.startup: migrating ") == 1
    assert "development key" not in server.log
    with closing(sqlite3.connect(data_dir / "bookshelf.sqlite3")) as database:
        [mode] = database.execute("PRAGMA journal_mode").fetchone()
        assert mode == "wal"
        count = "SELECT COUNT(*) FROM django_migrations WHERE app = 'shelf'"
        assert database.execute(count).fetchone() == (2,)
    states = manage("showmigrations", "--plan", env=environment(data_dir)).splitlines()
    assert "[X]  shelf.0002_first_books" in states
    assert all(line.startswith("[X]") for line in states)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/books/1/",
        "/api/books/",
        "/api/summary/",
        "/health/",
        "/whoami/",
        "/whoami/async/",
        "/static/shelf/style.css",
        "/admin/login/",
    ],
)
def test_every_worker_answers_on_every_route(browser: httpx.Client, path: str) -> None:
    assert workers_that_answer(browser, path) == ALL_WORKERS
    head = browser.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_synchronous_and_asynchronous_views_say_where_they_run(
    entry: str, browser: httpx.Client
) -> None:
    threads = {}
    for path, view in (("/whoami/", "sync"), ("/whoami/async/", "async")):
        for _ in range(8):
            answer = browser.get(path)
            who = answer.json()
            assert answer.headers["X-Worker"] == f"{who['index']}.{who['generation']}"
            assert (who["workers"], who["view"]) == (4, view)
            threads.setdefault(view, set()).add(who["thread"])
    if entry == "asgi":  # on the event loop's thread, and off it
        assert not threads["sync"] & threads["async"]
    assert "one of 4" in browser.get("/").text


def test_books_are_added_found_lent_and_returned(browser: httpx.Client) -> None:
    title = "Sense & <Sensibility>"
    added = submit(browser, "/", "/", title=title, author="Jane Austen", year="1811")
    assert added.status_code == 302
    page = browser.get("/", params={"q": "austen"}).text
    assert "is on the shelf." in page
    assert "Sense &amp; &lt;Sensibility&gt;" in page
    assert "Frankenstein" not in page
    [book] = find_books(browser, "sensibility")
    assert (book["title"], book["year"], book["borrower"]) == (title, 1811, None)

    again = submit(browser, "/", "/", title=title, author="Jane Austen")
    assert again.status_code == 200
    assert "This book is on the shelf already." in again.text
    assert "This field is required." in submit(browser, "/", "/", title="Nameless").text

    page = f"/books/{book['id']}/"
    assert submit(browser, page, f"{page}lend/", borrower="Ada").status_code == 302
    assert "Ada has it" in browser.get(page).text
    assert find_books(browser, "sensibility")[0]["borrower"] == "Ada"
    assert browser.get("/api/summary/").json()["on_loan"] == 1
    assert submit(browser, page, f"{page}take-back/").status_code == 302
    assert "is back on the shelf" in browser.get(page).text
    assert browser.get("/api/summary/").json()["on_loan"] == 0


def test_one_of_many_gets_the_book(server: Server, browser: httpx.Client) -> None:
    def borrow(name: str) -> str:
        with one_connection_each(server) as reader:
            assert submit(reader, "/books/1/", "/books/1/lend/", borrower=name).status_code == 302
            return reader.get("/").text

    with ThreadPoolExecutor(8) as readers:
        pages = list(readers.map(borrow, [f"reader-{number}" for number in range(8)]))
    assert sum("Enjoy reading" in page for page in pages) == 1
    assert sum("a moment ago" in page for page in pages) == 7
    assert submit(browser, "/books/1/", "/books/1/take-back/").status_code == 302


def test_writers_in_all_workers_take_turns(server: Server, browser: httpx.Client) -> None:
    def add(number: int) -> tuple[int, str]:
        with one_connection_each(server) as writer:
            answer = submit(writer, "/", "/", title=f"Volume {number}", author="A. Turn")
        return answer.status_code, answer.headers["X-Worker"]

    with ThreadPoolExecutor(8) as writers:
        answers = list(writers.map(add, range(40)))
    assert {status for status, _ in answers} == {302}
    assert {worker for _, worker in answers} == ALL_WORKERS
    titles = {book["title"] for book in find_books(browser, "A. Turn")}
    assert titles == {f"Volume {number}" for number in range(40)}


def test_summary_counts_with_the_asynchronous_orm(browser: httpx.Client) -> None:
    summary = browser.get("/api/summary/").json()
    assert summary["books"] == browser.get("/api/books/").json()["count"] >= FIRST_BOOKS
    assert len(summary["newest"]) == 3


def test_static_files(browser: httpx.Client) -> None:
    for path in ("shelf/style.css", "admin/css/base.css"):
        file = browser.get(f"/static/{path}")
        assert (file.status_code, file.headers["Content-Type"]) == (200, "text/css")
        assert file.headers["Cache-Control"] == "public, max-age=300"
        assert len(file.content) == int(file.headers["Content-Length"]) > 1000
    style = ROOT / "examples/django_app/shelf/static/shelf/style.css"
    assert browser.get("/static/shelf/style.css").content == style.read_bytes()
    since = {"If-Modified-Since": file.headers["Last-Modified"]}
    unchanged = browser.get("/static/admin/css/base.css", headers=since)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    for path in ("nothing.css", "shelf/", "..%2f..%2fsettings.py"):
        missing = browser.get(f"/static/{path}")
        assert missing.status_code == 404, path
        assert missing.headers["X-Worker"] in ALL_WORKERS


def test_admin_login_through_its_form(browser: httpx.Client, data_dir: Path) -> None:
    env = environment(data_dir) | {
        "DJANGO_SUPERUSER_USERNAME": "ada",
        "DJANGO_SUPERUSER_EMAIL": "ada@example.org",
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    manage("createsuperuser", "--noinput", env=env)
    outside = browser.get("/admin/")
    assert (outside.status_code, outside.headers["Location"]) == (302, "/admin/login/?next=/admin/")
    login = outside.headers["Location"]
    assert browser.post(login, data={"username": "ada", "password": PASSWORD}).status_code == 403
    wrong = submit(browser, login, login, username="ada", password="Difference Engine")
    assert wrong.status_code == 200
    assert "Please enter the correct username and password" in wrong.text

    inside = submit(browser, login, login, username="ada", password=PASSWORD)
    assert (inside.status_code, inside.headers["Location"]) == (302, "/admin/")
    assert workers_that_answer(browser, "/admin/shelf/book/") == ALL_WORKERS
    new = "/admin/shelf/book/add/"
    loans = {f"loans-{key}_FORMS": "0" for key in ("TOTAL", "INITIAL")}
    saved = submit(browser, new, new, title="Notes", author="Ada Lovelace", year="1843", **loans)
    assert (saved.status_code, saved.headers["Location"]) == (302, "/admin/shelf/book/")
    assert "Ada Lovelace" in browser.get("/admin/shelf/book/").text
    [book] = find_books(browser, "lovelace")
    assert book["year"] == 1843
    assert submit(browser, "/admin/", "/admin/logout/").status_code == 200
    assert browser.get("/admin/").status_code == 302


def test_errors_have_a_page(browser: httpx.Client) -> None:
    def error(method: str, path: str, **options: object) -> httpx.Response:
        answer = browser.request(method, path, **options)  # type: ignore[arg-type]
        assert answer.headers["X-Worker"] in ALL_WORKERS
        return answer

    nowhere = error("GET", "/nowhere")
    assert nowhere.status_code == 404
    assert "There is nothing at this address." in nowhere.text
    assert error("GET", "/books/999999/").status_code == 404
    no_token = error("POST", "/", data={"title": "x"})
    assert no_token.status_code == 403
    assert "without its token" in no_token.text
    assert error("GET", "/books/1/lend/").status_code == 405


def test_unknown_hosts_are_turned_away(serve: Serve, tmp_path: Path) -> None:
    env = environment(tmp_path) | {"DJANGO_ALLOWED_HOSTS": "books.example.org, books.example.com"}
    server = serve("examples.django_app.wsgi:application", app_dir=ROOT, env=env)
    with one_connection_each(server) as browser:
        for host, status in (
            ("books.example.org", 200),
            ("books.example.com", 200),
            ("127.0.0.1", 400),
        ):
            assert browser.get("/", headers={"Host": host}).status_code == status
    assert server.stop() == 0, server.log


def test_a_database_by_url_is_migrated_by_command(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.sqlite3"
    env = {"DATABASE_URL": f"sqlite:///{file}", "DJANGO_SECRET_KEY": ""}
    assert "Applying shelf.0002_first_books... OK" in manage("migrate", env=env)
    server = serve("examples.django_app.asgi:application", app_dir=ROOT, env=env)
    with one_connection_each(server) as browser:
        assert browser.get("/api/books/").json()["count"] == FIRST_BOOKS
    assert server.stop() == 0, server.log
    assert "migrating" not in server.log
    assert "set DJANGO_SECRET_KEY" in server.log
