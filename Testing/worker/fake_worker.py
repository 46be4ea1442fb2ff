"""A worker with a fake engine: the real server, descriptors and wire, but no torch.

Run as a program by the tests of the worker. Commands reach the engine through the `model` field of
a prediction, so that the wire needs no verb for tests:

* ``slow:SECONDS``  many small steps with progress, cancellable between them
* ``parts:SECONDS`` likewise, with a partial answer in each step where the request asks for them
* ``stuck:SECONDS`` one long step that cannot be cancelled
* ``print``         prints from Python, from C and from a child process
* ``lies``          sends a partial answer, asked for or not
* ``crash``         leaves with exit code 3 at once
* ``raise`` / ``memory`` / ``nan``   fails in these ways
* anything else     answers at once

Runs that teach are real processes with fake work in them; the adapter's name is the command:
`slow`, `stuck`, `print`, `crash` and `raise` as above, `burst`, `refuse` and `no-course`. What is
kept of cases and adapters is real.
"""

from __future__ import annotations

import sys
import time

from protosam.worker.descriptors import claim_descriptors

STARTED_S = time.monotonic()
WIRE = claim_descriptors() if __name__ == "__main__" else (-1, -1)

import ctypes  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from io import FileIO  # noqa: E402

import numpy as np  # noqa: E402

from protosam.errors import Cancelled, InvalidInput, ModelUnavailable  # noqa: E402
from protosam.extents import Extent, pack_bits  # noqa: E402
from protosam.intensity import Window  # noqa: E402
from protosam.prompts import PromptSet  # noqa: E402
from protosam.wire import messages  # noqa: E402
from protosam.worker.engine import EngineStats  # noqa: E402
from protosam.worker.server import Server  # noqa: E402
from protosam.worker.teaching import OwnProcess  # noqa: E402

STEP_S = 0.02


class FakeEngine:
    """Marks one voxel for each positive click."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def notes(self):
        return ("This is a fake.",)

    def stats(self):
        return EngineStats("fake", "cpu", 1_000_000)

    def models(self):
        return (messages.ModelInfo("fake", "tiny", "Apache-2.0", True, True),)

    def load(self, request, on_progress):
        if request.model == "missing":
            raise ModelUnavailable("There is no model 'missing'.", "Choose another one.")
        on_progress(0.5, "Loading")
        return messages.ModelLoaded(request.model, request.adapter, "d1g3st", "cpu")

    def forget(self, uid):
        self.forgotten.append(uid)

    def prewarm(self, volume, request, should_stop):
        for done in range(request.count):
            if should_stop():
                return done
            time.sleep(STEP_S)
        return request.count

    def predict(self, volume, request, on_progress, should_stop, on_partial):
        command, _, argument = request.model.partition(":")
        if command == "slow":
            self._work(float(argument), on_progress, should_stop)
        elif command == "parts":

            def tell(fraction, text):
                on_progress(fraction, text)
                if request.partial:
                    on_partial(messages.Partial(0, (1,), Extent((1, 2, 3), (2, 3, 4)), b"\x80"))

            self._work(float(argument), tell, should_stop)
        elif command == "lies":
            on_partial(messages.Partial(0, (1,), None, b""))  # nobody has asked for it
        elif command == "stuck":
            time.sleep(float(argument))
        elif command == "print":
            print_in_every_way()
        elif command == "crash":
            print("crashing now", flush=True)
            os._exit(3)
        elif command == "raise":
            raise KeyError("secret detail")
        elif command == "memory":
            raise MemoryError
        return self._result(volume, request, float("nan") if command == "nan" else 0.5)

    def make_example(self, volume, request, on_progress, should_stop):
        command, _, argument = request.model.partition(":")
        if command == "slow":
            self._work(float(argument), on_progress, should_stop)
        names = tuple(one.name for one in request.segments)
        return messages.ExampleMade("|".join(names).encode(), names, "fake", "d1g3st")

    def apply_example(self, volume, request, on_progress, should_stop, on_proposed):
        command, _, argument = request.model.partition(":")
        names = b"|".join(request.examples).decode().split("|")
        for name in names:
            if command == "slow":
                self._work(float(argument) / len(names), on_progress, should_stop)
            box = Extent((1, 2, 3), (2, 3, 4))
            if request.partial or command == "lies":
                on_proposed(messages.ProposedSlices(name, 0, {1: 0.5}, box, b"\x80"))
            on_proposed(self._proposal(name, box, request))
        return messages.ExampleApplied(
            volume.uid, request.target, request.generation, tuple(names), "fake", "d1g3st", 0.0
        )

    def _proposal(self, name, box, request):
        clicks = {one.name: one.prompts for one in request.clicks}
        return messages.Proposed(
            name=name,
            terminology="",
            colour=(1.0, 0.5, 0.0),
            extent=box,
            bits=b"\x80",
            axis=0,
            confidences={1: 0.25},
            distance=0.0,
            notes=(),
            prompts=clicks.get(name, PromptSet()),
            window=Window(0.0, 1.0),
            model="fake",
            digest="d1g3st",
            elapsed_s=0.0,
        )

    def keep(self, request, volume):
        from protosam.worker import keeping  # 1 s of libraries that few tests need

        return keeping.answer(request, volume)

    def course(self, request):
        if request.name == "no-course":
            raise InvalidInput("There is no such course.", "Take another one.")
        return OwnProcess(FakeCourse(request.name))

    def _work(self, seconds, on_progress, should_stop):
        steps = max(1, round(seconds / STEP_S))
        for step in range(steps):
            if should_stop():
                raise Cancelled("stopped")
            on_progress(step / steps, f"Step {step}")
            time.sleep(STEP_S)

    def _result(self, volume, request, score):
        mask = np.zeros(volume.shape_kji, dtype=bool)
        for point in request.prompts.points:
            mask[point.voxel_kji] = point.positive
        return messages.Result(
            volume_uid=volume.uid,
            target=request.target,
            generation=request.generation,
            extent=Extent.of_shape(volume.shape_kji),
            bits=pack_bits(mask),
            score=score,
            slice_scores={0: 0.5},
            axis=0,
            window=request.window or Window(0.0, 1.0),
            model="fake",
            digest="d1g3st",
            timings_s={"total": 0.0},
            notes=(),
        )


@dataclass(frozen=True)
class FakeCourse:
    """What a process of its own does; the name of the adapter is a command."""

    name: str

    def __call__(self, follow):
        command, _, argument = self.name.partition(":")
        follow.on_progress(0.5, f"pid {os.getpid()}, nice {os.nice(0)}")
        if command == "slow":
            self._steps(follow, max(1, round(float(argument) / STEP_S)))
        elif command == "burst":
            for step in range(1, 1001):
                follow.on_taught(messages.Taught(step, 1000, 0.5, 0.0))
        elif command == "stuck":
            time.sleep(float(argument))
        elif command == "print":
            print_in_every_way()
        elif command == "crash":
            os._exit(3)
        elif command == "raise":
            raise KeyError("secret detail")
        elif command == "refuse":
            raise InvalidInput("There is no case.", "Save one.")
        return messages.Adapted(self._version(), (), "", (b"\x89PNG", b""), 0.5, ("A note.",))

    def _steps(self, follow, steps):
        for step in range(1, steps + 1):
            if follow.should_stop():
                raise Cancelled("stopped")
            time.sleep(STEP_S)
            follow.on_taught(messages.Taught(step, steps, 1 / step, (steps - step) * STEP_S))

    def _version(self):
        texts = dict.fromkeys(("path", "tier", "method", "base", "reason", "validation"), "")
        return messages.AdapterInfo(
            name=self.name,
            number=1,
            active=True,
            labels=("ball",),
            cases=1,
            accepted=True,
            dice_before=None,
            dice_now=0.5,
            **texts,
        )


def print_in_every_way():
    print("from Python")
    sys.stdout.flush()
    library = ctypes.CDLL(None)
    library.puts(b"from C")
    library.fflush(None)
    os.write(1, b"from the descriptor\n")
    # A child that also tries to read the wire: its stdin must be empty.
    subprocess.run(
        [sys.executable, "-c", "import sys; print('from a child', repr(sys.stdin.read()))"],
        check=True,
    )


def build(tell):
    tell("Loading nothing.")
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    if mode == "no-engine":
        raise ModelUnavailable("There are no weights.", "Fetch them.")
    if mode == "broken-engine":
        raise ImportError("No module named 'torch'")
    if mode == "late":
        time.sleep(1.0)
    return FakeEngine()


if __name__ == "__main__":
    if sys.argv[1:] == ["die"]:
        print("no library", file=sys.stderr)
        sys.exit(7)
    server = Server(FileIO(WIRE[0], "rb"), FileIO(WIRE[1], "wb"), started_s=STARTED_S)
    server.start()
    sys.exit(server.serve(build))
