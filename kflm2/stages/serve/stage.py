"""The server: loads a model, prints an address, and answers there until Ctrl-C."""

import contextlib
import socket
import sys
from typing import Any

from kflm2.config.serve import ServeConfig
from kflm2.errors import SettingError
from kflm2.stages.serve.worker import Worker

_CONNECTIONS = 64
"""Connections at once; a browser opens six."""
IDLE_SECONDS = 30.0
"""After which a connection that asks nothing is closed; a browser opens another one."""
_GRACE = 1
"""Seconds for answers under way, after Ctrl-C."""


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the model or the address cannot be used, or a package is missing.
    """
    try:
        import uvicorn

        from kflm2.stages.serve.app import make_app
    except ImportError as error:
        raise SettingError(
            f'kflm2 serve needs the package {error.name}: pip install "kflm2[serve]" -c constraints.txt'
        ) from None
    with contextlib.closing(_listen(config)) as listener:
        if not config.loopback:
            print(
                f"warning: there is no login; everybody who can reach this machine at {config.host} can use the page",
                file=sys.stderr,
            )
        print(f"loading {config.model}", flush=True)
        with contextlib.closing(Worker(config)) as worker:
            server = _server_class(worker)(
                uvicorn.Config(
                    make_app(config, worker),
                    loop="asyncio",
                    http=_protocol_class(),
                    ws="none",
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    proxy_headers=False,
                    limit_concurrency=_CONNECTIONS,
                    timeout_graceful_shutdown=_GRACE,
                )
            )
            print(f"open {_address(config, listener)} in a browser; Ctrl-C ends it", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])


def _server_class(worker: Worker) -> Any:
    """uvicorn's server, which at Ctrl-C ends the worker first: answers under way end at once, as failures."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            worker.close()
            super().handle_exit(sig, frame)

    return Server


def _protocol_class() -> Any:
    """uvicorn's protocol, which closes a connection that has asked nothing for a while: few may be open at once."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(IDLE_SECONDS, self.close_if_idle, self.cycle)

        def close_if_idle(self, before: Any) -> None:
            """Close it where it is still as it was: nothing asked, or nothing since the last answer."""
            if self.transport.is_closing():
                return
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self.cycle is before:
                self.transport.close()
            else:
                self.loop.call_later(IDLE_SECONDS, self.close_if_idle, self.cycle)

    return Protocol


def _listen(config: ServeConfig) -> socket.socket:
    """A socket at the address: what is wrong with it is told before the model is loaded.

    Raises:
        SettingError: no such address, or it is in use.
    """
    try:
        family, *_, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise SettingError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}; give another --host or"
            " --port"
        ) from None


def _address(config: ServeConfig, listener: socket.socket) -> str:
    name = socket.gethostname() if config.host in ("0.0.0.0", "::") else config.host
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}/"
