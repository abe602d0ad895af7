"""A worker in service: startup, serving, drain, shutdown."""

import asyncio
import logging
import math
import socket
from functools import partial
from typing import Any

from subserve import app as app_module
from subserve import log as subserve_log
from subserve import tls
from subserve.assignment import Assignment
from subserve.channel import Channel
from subserve.http.access import AccessLog
from subserve.http.h1.asgi import AsgiRequest
from subserve.http.h1.lane import Lane, MakeRequest
from subserve.http.h1.wsgi import WsgiService
from subserve.http.others import OtherProtocols
from subserve.http.timed import TimedApp
from subserve.http.wsgi import WsgiApp
from subserve.http.wsgi.inline import Inline
from subserve.http.wsgi.pool import Pool
from subserve.http.wsgi.timeout import Watch
from subserve.messages import Accept, Drain, Ready, StopAccepting
from subserve.policy import heartbeat_interval
from subserve.scoreboard import Counter, Row
from subserve.trust import Trust
from subserve.worker.connections import Connections
from subserve.worker.control import ControlThread
from subserve.worker.heartbeat import Heartbeat
from subserve.worker.lifespan import Lifespan
from subserve.worker.loops import AsyncioLoop
from subserve.worker.proxied import ProxyProtocol
from subserve.worker.standin import StandIn

log = logging.getLogger("subserve.worker")

LIFESPAN_MARGIN = 0.5
"""Seconds past the graceful timeout that a lifespan shutdown is given where clients have used it
up."""


class Runner:
    """Runs one app in one worker.  `run` is the event loop's main task."""

    def __init__(
        self, assignment: Assignment, channel: Channel, source: socket.socket, row: Row, app: Any
    ) -> None:
        self._config = assignment.config
        self._channel = channel
        self._source = source
        self._row = row
        self._interface = app_module.interface_of(app, self._config.interface)
        self._pool: Pool | None = None
        self._wsgi: WsgiService | None = None
        self._standin: StandIn | None = None
        self._watch: Watch | None = None
        self._app = app
        self.ready = False
        """Whether the app has started, and the coordinator been told."""

    async def run(self) -> None:
        """Serve until drained.  Raises `LifespanFailed` where the app does not start."""
        config, loop = self._config, asyncio.get_running_loop()
        drain_asked: asyncio.Future[Drain] = loop.create_future()
        if self._interface == "wsgi":
            self._start_pool(loop)
        lifespan = Lifespan(self._app, config.lifespan if self._interface == "asgi" else "off")
        access = subserve_log.configure_access(config.access_log)
        context = tls.server_context(config) if config.certfile else None
        await lifespan.startup(config.startup_timeout)

        lane = self._lane(lifespan.state, access)
        proxies = None
        if config.proxy_protocol:
            proxies = ProxyProtocol(Trust(config.forwarded_allow_ips), config.header_timeout)
        connections = Connections(
            self._source,
            lane,
            self._row,
            context,
            proxies,
            resign=partial(self._channel.send, StopAccepting()),
        )

        def on_command(command: Drain | Accept | StopAccepting) -> None:
            loop.call_soon_threadsafe(obey, command)

        def obey(command: Drain | Accept | StopAccepting) -> None:
            match command:
                case Drain():
                    _set_once(drain_asked, command)
                case Accept():
                    connections.door.open(command)
                case StopAccepting():
                    connections.door.close()

        interval = heartbeat_interval(config.hang_timeout)
        heartbeat = Heartbeat(loop, self._row, interval)
        look = (lambda _: math.inf) if self._watch is None else self._watch.look
        control = ControlThread(self._channel, on_command, self._row, interval, look)
        control.start()
        try:
            connections.start()
            heartbeat.start()
            self.ready = True
            self._channel.send(Ready(self._interface))

            command = await drain_asked
            deadline = command.timeout + loop.time()
            await self._drain(connections, deadline, command.idle_grace)
            await lifespan.shutdown(max(LIFESPAN_MARGIN, deadline + LIFESPAN_MARGIN - loop.time()))
        finally:
            heartbeat.stop()
            control.stop()
            if self._standin is not None:
                self._standin.stop()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
        log.info(
            "stopped; it served %d requests over %d connections",
            self._row[Counter.REQUESTS_FINISHED],
            self._row[Counter.CONNECTIONS_CLOSED],
        )

    def _start_pool(self, loop: asyncio.AbstractEventLoop) -> None:
        # None is the app's business, in whichever thread it runs.
        asyncio.set_event_loop(None)
        self._pool = Pool(self._config.threads, loop)
        several = self._config.workers > 1
        if self._config.request_timeout:
            self._watch = Watch(self._config.request_timeout)
        inline = None
        # With one thread it is always the same one: an app may count on that.
        if isinstance(loop, AsyncioLoop) and self._config.threads > 1:
            self._standin = StandIn(loop)
            inline = Inline(self._pool, self._standin)
        self._wsgi = WsgiService(
            self._app,
            self._pool,
            inline,
            multiprocess=several,
            max_queue=self._config.max_queue,
            watch=self._watch,
        )
        self._app = WsgiApp(self._app, self._pool, multiprocess=several, watch=self._watch)

    def _lane(self, state: dict[str, Any], access: logging.Logger | None) -> Lane:
        config = self._config
        if config.request_timeout and self._interface == "asgi":
            self._app = TimedApp(self._app, config.request_timeout)
        others = OtherProtocols(self._app, config, state, access, self._row)
        access_log = AccessLog(access, config.access_log_format) if access is not None else None
        make: MakeRequest = partial(AsgiRequest, self._app, state)
        if self._wsgi is not None:
            make = self._wsgi.request
        return Lane(config, self._row, access_log, make, others)

    async def _drain(self, connections: Connections, deadline: float, idle_grace: float) -> None:
        if cut := await connections.drain(deadline, idle_grace):
            log.warning(
                "%d connections were cut off when the graceful timeout was over; "
                "give their requests longer with --graceful-timeout",
                cut,
            )
        else:
            log.info("all requests finished")


def _set_once(future: asyncio.Future[Drain], value: Drain) -> None:
    if not future.done():
        future.set_result(value)
