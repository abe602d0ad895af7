"""Behind a real nginx, with the configurations of `examples/nginx`."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme
from websockets.sync.client import connect as connect_websocket

from tests.e2e.clients import DEADLINE, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

EXAMPLES = Path(__file__).parents[2] / "examples" / "nginx"

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx on this machine")

MAIN = """\
daemon off;
master_process on;
worker_processes 1;
pid nginx.pid;
error_log error.log info;
{user}
{modules}
events {{ worker_connections 512; }}
"""

# As root it would become another user, whom the folders of the tests shut out.
USER = "user root;" if os.geteuid() == 0 else ""

HTTP = """\
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
"""


@dataclass
class Tls:
    pem: Path
    authority: trustme.CA

    @property
    def context(self) -> ssl.SSLContext:
        """A new one each time: HTTP clients set what they speak."""
        return ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    authority = trustme.CA()
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(pem)
    )
    return Tls(pem, authority)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return `text` with `changes` made; fail where there is nothing to change."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Nginx:
    """A running nginx; `port` is where it listens, `plain` where it only redirects."""

    def __init__(self, folder: Path, config: str, ports: list[int]) -> None:
        self.folder = folder
        self.port = ports[0]
        self.ports = ports
        (folder / "nginx.conf").write_text(config)
        assert NGINX is not None
        self.process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def log(self) -> str:
        path = self.folder / "error.log"
        return path.read_text() if path.exists() else ""

    def wait_ready(self) -> Nginx:
        deadline = time.monotonic() + DEADLINE
        for port in self.ports:
            while True:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
        return self

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()


def in_front_of(upstream: str, folder: Path, tls: Tls) -> Nginx:
    """Start nginx with the example, in front of `upstream` as its configuration names it."""
    port, plain = free_port(), free_port()
    changes = {
        "server unix:/run/subserve/shop.sock": f"server {upstream}",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/ssl/shop.example.pem": str(tls.pem),
        "/etc/ssl/shop.example.key": str(tls.pem),
    }
    site = replaced((EXAMPLES / "shop.conf").read_text(), changes)
    # Comments name what an operator would have; nothing else may be left of it.
    left = re.findall(r"^[^#]*(?:/run/|/etc/).*$", site, re.MULTILINE)
    assert left == [], left
    (folder / "site.conf").write_text(site)
    return Nginx(folder, MAIN.format(user=USER, modules="") + HTTP, [port, plain])


@pytest.fixture(scope="module", params=["unix", "tcp", "wsgi"])
def front(
    request: pytest.FixtureRequest,
    shared_serve: Serve,
    tmp_path_factory: pytest.TempPathFactory,
    tls: Tls,
) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    app = "behind_proxy:wsgi" if request.param == "wsgi" else "behind_proxy:app"
    if request.param == "tcp":
        server = shared_serve(app)
        upstream = "{}:{}".format(*server.address)
    else:
        shared_serve(app, "--bind", f"unix:{folder}/s")
        upstream = f"unix:{folder}/s"
    nginx = in_front_of(upstream, folder, tls)
    try:
        yield nginx.wait_ready()
    finally:
        nginx.stop()
    assert "[error]" not in nginx.log, nginx.log
    assert "[crit]" not in nginx.log, nginx.log


@pytest.fixture
def asgi(front: Nginx, request: pytest.FixtureRequest) -> Nginx:
    """The same where the app speaks ASGI."""
    if "wsgi" in request.node.name:
        pytest.skip("for the ASGI app")
    return front


@pytest.fixture
def client(front: Nginx, tls: Tls) -> Iterator[httpx.Client]:
    base = f"https://127.0.0.1:{front.port}"
    with httpx.Client(base_url=base, verify=tls.context, trust_env=False, timeout=30) as made:
        yield made


FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "6",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=6.6.6.6;host=evil.example",
}


def test_who_asks_and_for_what(front: Nginx, client: httpx.Client) -> None:
    for headers in ({}, FORGED):
        told: dict[str, Any] = client.get("/a%20b?x", headers=headers).json()
        text = json.dumps(told)
        assert "evil" not in text
        assert "6.6.6.6" not in text
        host = f"127.0.0.1:{front.port}"
        if "client" in told:
            assert (told["client"], told["scheme"]) == (["127.0.0.1", 0], "https")
            assert told["root_path"] == ""
            assert dict(told["headers"])["host"] == host
        else:
            assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("127.0.0.1", "https")
            assert (told["HTTP_HOST"], told["SCRIPT_NAME"]) == (host, "")


def test_the_connections_to_the_app_are_kept(serve: Serve, tmp_path: Path, tls: Tls) -> None:
    """As many as there are at a time, not one for each request."""
    server = serve("behind_proxy:app", "--bind", f"unix:{tmp_path}/s")
    nginx = in_front_of(f"unix:{tmp_path}/s", tmp_path, tls).wait_ready()
    try:
        base = f"https://127.0.0.1:{nginx.port}"
        with httpx.Client(base_url=base, verify=tls.context, trust_env=False) as client:
            for _ in range(50):
                assert client.get("/").status_code == 200
                assert client.head("/").status_code == 200
                assert client.post("/", content=b"x").status_code == 200
    finally:
        nginx.stop()
    assert server.stop() == 0, server.log
    served = re.findall(r"it served (\d+) requests over (\d+) connections", server.log)
    assert sum(int(requests) for requests, _ in served) == 150
    assert sum(int(connections) for _, connections in served) <= 2


def test_gzip(asgi: Nginx, client: httpx.Client) -> None:
    packed = client.get("/page", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    plain = client.get("/page", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content


@pytest.mark.parametrize("path", ["/upload", "/buffered"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload(asgi: Nginx, client: httpx.Client, path: str, *, chunked: bool) -> None:
    """`proxy_request_buffering off` sends it on as it comes, in chunks if the client does."""
    body = hashlib.shake_128(path.encode()).digest(24 * 2**20)
    content = iter([body[: 2**20], body[2**20 :]]) if chunked else body
    size, digest, chunks = client.post(path, content=content).json()
    assert (size, digest) == (len(body), hashlib.sha256(body).hexdigest())
    assert chunks > 10


def test_websocket(asgi: Nginx, tls: Tls) -> None:
    url = f"wss://127.0.0.1:{asgi.port}/ws/chat"
    with connect_websocket(url, ssl=tls.context, additional_headers=FORGED) as chat:
        told = json.loads(chat.recv())
        assert (told["client"][0], told["scheme"]) == ("127.0.0.1", "wss")
        for message in ("grüße", b"\0" * 100_000):
            chat.send(message)
            assert chat.recv() == message


def test_turned_over_under_load(serve: Serve, tmp_path: Path, tls: Tls) -> None:
    """HUP: new processes, and not one request that nginx could not have answered."""
    path = f"{tmp_path}/s"
    server = serve("behind_proxy:app", "--bind", f"unix:{path}")
    nginx = in_front_of(f"unix:{path}", tmp_path, tls).wait_ready()
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def ask() -> None:
        base = f"https://127.0.0.1:{nginx.port}"
        with httpx.Client(base_url=base, verify=tls.context, trust_env=False, timeout=30) as asker:
            while not over.is_set():
                # nginx never sends a POST twice: nothing covers for us.
                statuses[asker.post("/", content=b"x" * 1000).status_code] += 1
                statuses[asker.get("/").status_code] += 1

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(2):
            before = server.serving_pids()
            server.send(signal.SIGHUP)
            deadline = time.monotonic() + DEADLINE
            while set(server.serving_pids()) & set(before):
                assert time.monotonic() < deadline, server.log
                time.sleep(0.05)
    finally:
        over.set()
        for asker in askers:
            asker.join()
        nginx.stop()
    assert set(statuses) == {200}, (statuses, nginx.log)
    assert statuses[200] > 100
    assert server.stop() == 0, server.log


# ---- PROXY protocol

MODULES = [
    Path(folder) / "ngx_stream_module.so"
    for folder in (os.environ.get("NGINX_MODULES", ""), "/usr/lib/nginx/modules")
    if folder
]


def stream_module() -> str:
    """Return what loads the stream module, nothing where it is built in; skip without it."""
    assert NGINX is not None
    built = subprocess.run([NGINX, "-V"], capture_output=True, text=True, check=True).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    for module in MODULES:
        if module.exists():
            return f"load_module {module};"
    pytest.skip("this nginx has no stream module; NGINX_MODULES names the folder of its modules")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_proxy_protocol_before_tls(serve: Serve, tmp_path: Path, tls: Tls, loop: str) -> None:
    modules = stream_module()
    server = serve(
        "behind_proxy:app", "--loop", loop, "--certfile", str(tls.pem), "--proxy-protocol"
    )
    port = free_port()
    changes = {
        "server 127.0.0.1:8443": f"server 127.0.0.1:{server.address[1]}",
        "listen 443;": f"listen 127.0.0.1:{port};",
    }
    config = replaced((EXAMPLES / "pass_through.conf").read_text(), changes)
    nginx = Nginx(tmp_path, MAIN.format(user=USER, modules=modules) + config, [port]).wait_ready()
    try:
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as sock,
            Wire(tls.context.wrap_socket(sock, server_hostname="localhost")) as wire,
        ):
            mine = wire.sock.getsockname()
            for _ in range(3):
                told = json.loads(wire.get("/a").answer().body)
                assert told["client"] == list(mine), "its own port, not that of nginx"
                assert told["server"] == ["127.0.0.1", port]
                assert told["scheme"] == "https"
        with httpx.Client(http2=True, verify=tls.context, trust_env=False) as client:
            answer = client.get(f"https://127.0.0.1:{port}/a")
            assert answer.http_version == "HTTP/2"
            assert answer.json()["server"] == ["127.0.0.1", port]
        url = f"wss://127.0.0.1:{port}/ws/chat"
        with connect_websocket(url, ssl=tls.context) as chat:
            assert json.loads(chat.recv())["server"] == ["127.0.0.1", port]
    finally:
        nginx.stop()
        print(server.log, nginx.log)  # shown where it fails
    assert server.stop() == 0, server.log
