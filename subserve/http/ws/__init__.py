"""The WebSocket lane over HTTP/1.1 (RFC 6455, RFC 7692, ASGI 3).

`frames`, `deflate`, `messages` and `handshake` are values in, values out; `connection` is the
transport's side, `asgi` the app's; `lane` is what the WebSockets of a worker share.
"""
