"""The HTTP/1.1 lane: one `asyncio.Protocol` a connection, no stream, no task where none is needed.

`head`, `chunked` and `response` turn bytes into values and back, and touch nothing.  `connection`
is the state machine of one connection; `asgi` and `wsgi` run an app for one request; `lane` holds
what the connections of a worker share: limits, time-outs, the drain.
"""
