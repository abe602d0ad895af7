"""The listening sockets: bound here, once, and lent to one serving process after the other."""

from collections.abc import Iterable, Sequence

from subserve.errors import BindError
from subserve.listener import Listener, with_scheme
from subserve.options import Config
from subserve.privileges import listen_for


class Sockets:
    """What is listened on, by the address as the operator writes it."""

    def __init__(self) -> None:
        self._bound: dict[str, list[Listener]] = {}

    def bind(self, config: Config) -> Sequence[Listener]:
        """Return the listeners of `config`, in its order; those that are bound already are kept.

        Raises `BindError`, and has bound nothing new then.
        """
        tls = bool(config.certfile)
        fresh: dict[str, list[Listener]] = {}
        try:
            for text in config.bind:
                if text not in self._bound:
                    fresh[text] = listen_for(config, [text])
        except BindError:
            for listeners in fresh.values():
                _close(listeners)
            raise
        for text in self._bound.keys() & set(config.bind):
            for listener in self._bound[text]:
                listener.sock.listen(config.backlog)  # listen(2) once more changes the backlog
            self._bound[text] = [with_scheme(listener, tls=tls) for listener in self._bound[text]]
        self._bound |= fresh
        return [listener for text in config.bind for listener in self._bound[text]]

    def keep(self, configs: Iterable[Config]) -> None:
        """Close what none of `configs` listens on."""
        wanted = {text for config in configs for text in config.bind}
        for text in self._bound.keys() - wanted:
            _close(self._bound.pop(text))

    def close(self) -> None:
        """Close all.  Idempotent."""
        self.keep(())


def _close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.close()
