"""The worker's door: claims stdout, says hello, then imports what is heavy, then serves.

With ``--listen`` it serves clients over TLS instead, and leaves stdin and stdout alone. It is one
of the two doors where imports are late. Nothing else in this process sets thread counts or
cuDNN flags; `learning` sets those of the process that teaches.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from protosam.worker.descriptors import claim_descriptors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from protosam.worker.engine import Engine

STARTED_S = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    """Serve a host on stdin and stdout until it closes stdin, or clients until a signal comes.

    Parameters
    ----------
    arguments : list of str, optional
        Of the command line; None = those of the process.

    Returns
    -------
    int
        Exit code: 0 = ended by the host or a signal, 1 = no engine, 2 = wrong use or a broken
        stream.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if any(one.split("=")[0] == "--listen" for one in given):
        return _listen(_parse(given))
    if os.isatty(0):
        sys.stderr.write(
            "`protosam worker` speaks a binary protocol with a program that starts it. "
            "To segment from the command line use `protosam segment`; to let clients of other "
            "machines in, add --listen HOST:PORT.\n"
        )
        return 2
    wire_in, wire_out = claim_descriptors()

    import logging
    from io import FileIO

    options = _parse(given)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )

    from protosam.worker.server import Server

    server = Server(FileIO(wire_in, "rb"), FileIO(wire_out, "wb"), started_s=STARTED_S)
    server.start()
    return server.serve(lambda tell: _build(options, tell))


def _listen(options: argparse.Namespace) -> int:
    import logging
    import signal

    from protosam.errors import ProtoSAMError
    from protosam.worker.listening import listener_of
    from protosam.worker.quiet_log import QuietFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(QuietFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        listener = listener_of(options)
    except ProtoSAMError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: listener.end())
    logging.info("listening at port %d", listener.port)
    code = listener.serve(lambda tell: _build(options, tell))
    logging.shutdown()
    # A step of the model that cannot be stopped would keep the process.
    os._exit(code)


def _parse(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser("protosam worker", description="Serve a host on stdin.")
    parser.add_argument("--model", default="", help="model to load at the start")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--weights-dir", default="", help="folder searched first for weights")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all cores")
    shared = parser.add_argument_group("a worker that several clients share, over TLS")
    shared.add_argument("--listen", default="", metavar="HOST:PORT", help="port 0 = a free one")
    shared.add_argument("--tls-cert", default="", metavar="FILE", help="certificate, PEM")
    shared.add_argument("--tls-key", default="", metavar="FILE", help="its key, PEM")
    shared.add_argument("--token-file", default="", metavar="FILE", help="what lets clients in")
    shared.add_argument("--max-clients", type=int, default=8, help="at one time")
    shared.add_argument("--max-open-gib", type=float, default=2.0, help="voxels of each client")
    shared.add_argument("--max-request-gib", type=float, default=2.0, help="arrays of a request")
    shared.add_argument("--idle-s", type=float, default=3600.0, help="silence that ends a client")
    return parser.parse_args(arguments)


def _build(options: argparse.Namespace, tell: Callable[[str], None]) -> Engine:
    tell("Loading torch.")
    # Threads that spin while they wait for each other lose against a busy host: on 2 cores shared
    # with two other processes eight convolutions took 2.1 s with GNU OpenMP's own 300,000 spins
    # and 0.65 s with these, 0.5 s on one thread.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch

    torch.set_num_threads(options.threads or _cpu_count())
    # The same request gives the same mask: no choosing of algorithms by their speed today.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    from pathlib import Path

    from protosam.worker.service import ModelEngine, ModelSettings

    folder = Path(options.weights_dir) if options.weights_dir else None
    return ModelEngine(ModelSettings(options.model, options.device, folder), tell)


def _cpu_count() -> int:
    """CPUs that this process may use; OMP_NUM_THREADS has the last word, as everywhere."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
