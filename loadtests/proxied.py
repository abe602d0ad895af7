"""A server behind nginx, which keeps idle connections to it: over TCP, and over a unix socket."""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from loadtests import wrk
from loadtests.bench import Bench, Outcome, Window
from loadtests.contenders import Contender, Launch
from loadtests.environment import ROOT
from loadtests.plans import Proxied
from loadtests.server import free_port, pinned, running
from loadtests.tools import ToolFailed

WARM_UP_SECONDS = 1.0

CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream app {{
        server {upstream};
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


def configuration(folder: Path, upstream: str, port: int) -> str:
    """Return what nginx is told; everything it writes is in `folder`."""
    # Started by root it would become nobody, who must not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    return CONFIGURATION.format(folder=folder, upstream=upstream, port=port, user=user)


def proxied(plan: Proxied, contender: Contender, bench: Bench) -> Outcome:
    """Measure one worker on one core; nginx and wrk have the other one."""
    nginx = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    if nginx is None:
        raise ToolFailed("nginx is not installed")
    port, proxy_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        uds = folder / "server.sock" if plan.unix else None
        upstream = f"unix:{uds}" if uds else f"127.0.0.1:{port}"
        written = folder / "nginx.conf"
        written.write_text(configuration(folder, upstream, proxy_port))
        launch = Launch(plan.app, plan.interface, port, uds=uds)
        serve = pinned(contender.command(bench.programs, launch), [bench.cores.server])
        proxy = pinned([nginx, "-p", scratch, "-c", str(written)], [bench.cores.load])
        with (
            running(serve, port, plan.probe, ROOT, uds) as server,
            running(proxy, proxy_port, plan.probe, ROOT) as front,
        ):
            argv = wrk.command(front.url, bench.seconds, plan.connections)
            argv = pinned(argv, [bench.cores.load])
            wrk.run(wrk.command(front.url, WARM_UP_SECONDS, plan.connections), WARM_UP_SECONDS)
            with Window(server.pid) as window:
                counted = wrk.run(argv, bench.seconds)
    commands = [shlex.join(command) for command in (serve, proxy, argv)]
    if counted.requests == 0:
        return Outcome({}, {**counted.errors, "nothing served": 1}, commands)
    values = {
        **window.values,
        **counted.values,
        "cpu_us": window.server * 1e6 / counted.requests,
        "per_second": counted.requests / counted.seconds,
    }
    return Outcome(values, dict(counted.errors), commands)
