"""moto's server, one request at a time: `python3 exact_s3.py PORT`.

By itself moto looks whether a key is there and writes it in two steps, between which it may serve somebody else, so that several of
racing conditional writes win now and then. A service that honours conditions lets one.
"""

import os
import signal
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    """Calls an application for one request after the other."""

    def __init__(self, application):
        self.application = application
        self.turn = threading.Lock()

    def __call__(self, environ, start_response):
        with self.turn:
            return self.application(environ, start_response)


def main(port):
    # moto tells its own address to some clients.
    os.environ.setdefault("MOTO_PORT", port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    served = OneAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(port), served, threaded=True)


if __name__ == "__main__":
    main(sys.argv[1])
