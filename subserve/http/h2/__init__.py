"""The HTTP/2 lane: one `asyncio.Protocol` a connection, one task a request.

`frames`, `floods`, `fields` and `answers` turn bytes into values and back, or decide, and touch
nothing.  `engine` is the state machine of the h2 library, set up the way we need it.  `connection`
drives it for one connection, `stream` runs the app for one request, `lane` holds what the
connections of a worker share: limits, the clock, the drain.
"""
