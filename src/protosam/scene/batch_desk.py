"""The desk of a batch: what a host's window about many series does, without the window.

Rules
-----
* The batch is a command in a process of its own; its manifest says how far it is. It outlives no
  host: `close` asks it to stop, and the same wish goes on where it stopped.
* Looking a result through is one command at a time, asked for by key. What comes of it is told
  to a `DeskListener`, from `poll`, on the host's thread. Nothing here waits.
* It knows neither Qt nor a scene. Paths of images stay in a list in the host's own folder.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from protosam.errors import InvalidInput, ProtoSAMError
from protosam.scene.batch_rows import BatchRow, read_rows
from protosam.scene.commands import Command, Interpreter

LIST = "series.filelist"
"""Name of the list of chosen files; its ending is `dicom.sources.LIST_ENDING`."""


@dataclass(frozen=True)
class BatchWish:
    """What the user wants to have segmented, and how."""

    source: Path | tuple[Path, ...]
    """Folder, archive or file; or the files of the chosen series."""
    out: Path
    examples: tuple[Path, ...] = ()
    """Finished cases to learn from."""
    autos: tuple[str, ...] = ()
    """Files of automatic prompts, or STRUCTURE=FILE."""
    from_seg: bool = False
    """Whether the study's own segmentations are where new ones start."""
    adapter: str = ""
    model: str = ""
    workers: int = 1
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if not (self.examples or self.autos or self.from_seg):
            raise InvalidInput(
                "Nothing says what to look for.",
                "Choose an example, automatic prompts, or the study's own segmentations.",
            )
        if not self.source:
            raise InvalidInput("No series is chosen.", "Choose a folder, or series of the table.")

    def arguments(self, source: Path) -> list[str]:
        """Command line after `protosam`."""
        words = ["batch", str(source), "--out", str(self.out), "--workers", str(self.workers)]
        for path in self.examples:
            words += ["--example", str(path)]
        for auto in self.autos:
            words += ["--auto", auto]
        words += ["--from-seg"] if self.from_seg else []
        words += ["--adapter", self.adapter] if self.adapter else []
        words += ["--model", self.model] if self.model else []
        return words + (["--retry-failed"] if self.retry_failed else [])


class DeskListener(Protocol):
    """Who is told what has happened."""

    def rows_changed(self) -> None:
        """Take note that rows, verdicts or progress are others now."""

    def batch_ended(self, error: ProtoSAMError | None) -> None:
        """Take note that no batch runs any more; `error` if it could not be carried out."""

    def opened(self, row: BatchRow, image: Path, segmentation: Path) -> None:
        """Load a result that lies ready for the editor."""

    def accepted(self, row: BatchRow, files: tuple[Path, ...]) -> None:
        """Put the DICOM files of an accepted result into the database."""

    def corrected(self, row: BatchRow, case: str) -> None:
        """Take note that a corrected result was kept as a case."""

    def failed(self, error: ProtoSAMError) -> None:
        """Take note that what was asked about a result came to nothing."""


@dataclass(frozen=True)
class DeskProgress:
    """How far a batch is."""

    finished: int
    total: int
    left_s: float | None
    """At the pace of this run; None before its first series has ended."""
    running: bool


@dataclass(frozen=True)
class _Errand:
    words: tuple[str, ...]
    tell: Callable[[dict[str, Any]], None]


class BatchDesk:
    """One batch at a time, and the review of its results.

    Parameters
    ----------
    python : Interpreter
        Where the commands run.
    folder : Path
        The host's own, for lists and for results in review; must exist.
    listener : DeskListener
    """

    def __init__(self, python: Interpreter, folder: Path, listener: DeskListener) -> None:
        self._python, self._folder, self._listener = python, folder, listener
        self._batch: Command | None = None
        self._errands: deque[_Errand] = deque()
        self._at_work: tuple[_Errand, Command] | None = None
        self._place: tuple[Path, Path] | None = None
        self._seen: object = None
        self._begun = (0.0, 0)
        self._was_stopped = False
        self.rows: tuple[BatchRow, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether a batch is at work."""
        return self._batch is not None

    @property
    def is_busy(self) -> bool:
        """Whether `poll` should be called often."""
        return self._at_work is not None or bool(self._errands)

    @property
    def progress(self) -> DeskProgress:
        """How far the batch is."""
        counts = Counter(row.is_open for row in self.rows)
        begun_s, before = self._begun
        ended = counts[False] - before
        left_s = None
        if self.is_running and ended > 0:
            left_s = (time.monotonic() - begun_s) / ended * counts[True]
        return DeskProgress(counts[False], len(self.rows), left_s, self.is_running)

    def start(self, wish: BatchWish) -> None:
        """Begin a batch, or go on with it.

        Raises
        ------
        InvalidInput
            Another one is at work.
        WorkerFailure
            It cannot be started.
        """
        if self.is_running:
            raise InvalidInput("A batch is at work.", "Cancel it first, or wait for its end.")
        self.look_at(wish.out, wish.source)
        self._begun = (time.monotonic(), sum(not row.is_open for row in self.rows))
        self._was_stopped = False
        arguments = wish.arguments(self._review_place()[1])
        self._batch = Command(self._python, arguments, self._folder)

    def look_at(self, out: Path, source: Path | tuple[Path, ...]) -> None:
        """Show the results of a batch of before.

        Parameters
        ----------
        out : Path
            Its folder.
        source : Path or tuple of Path
            Where its images lie now.

        Raises
        ------
        UnreadableFile
            What lies in the folder is damaged, or no batch.
        """
        self.rows = read_rows(out)
        self._place, self._seen = (out, self._listed(source)), None
        self._listener.rows_changed()

    def cancel(self) -> None:
        """Stop the batch; what is finished stays, and `start` goes on."""
        if self._batch is not None:
            self._was_stopped = True
            self._batch.stop()

    def open_result(self, row: BatchRow) -> None:
        """Have a result made ready for the editor."""
        out, source = self._review_place()
        into = self._folder / "review"
        words = ("open", str(out), row.key, "--source", str(source), "--into", str(into))

        def tell(said: dict[str, Any]) -> None:
            self._listener.opened(row, Path(said["image"]), Path(said["segmentation"]))

        self._send(words, tell)

    def accept(self, row: BatchRow) -> None:
        """Have a result noted as right."""

        def tell(said: dict[str, Any]) -> None:
            self._listener.accepted(row, tuple(Path(one) for one in said["files"]))

        self._send(("accept", str(self._review_place()[0]), row.key), tell)

    def correct(self, row: BatchRow, segmentation: Path, cases: Path) -> None:
        """Have what the editor has saved kept as a case to learn from."""
        out, source = self._review_place()
        words = ("correct", str(out), row.key, str(segmentation), "--source", str(source))

        def tell(said: dict[str, Any]) -> None:
            self._listener.corrected(row, str(said["case"]))

        self._send((*words, "--cases", str(cases)), tell)

    def poll(self) -> None:
        """Look at what has happened, and tell the listener. Returns at once."""
        self._look_at_rows()
        self._look_at_batch()
        self._look_at_errands()

    def close(self) -> None:
        """End with the host."""
        self.cancel()
        self._errands.clear()
        if self._at_work is not None:
            self._at_work[1].kill()
            self._at_work = None

    def _listed(self, source: Path | tuple[Path, ...]) -> Path:
        if isinstance(source, Path):
            return source
        path = self._folder / LIST
        path.write_text("\n".join(str(one) for one in source) + "\n", "utf-8")
        return path

    def _review_place(self) -> tuple[Path, Path]:
        if self._place is None:
            raise InvalidInput("No batch is shown.", "Start one, or choose the folder of one.")
        return self._place

    def _send(self, words: tuple[str, ...], tell: Callable[[dict[str, Any]], None]) -> None:
        self._errands.append(_Errand(("review", *words, "--json"), tell))

    def _look_at_rows(self) -> None:
        if self._place is None:
            return
        out = self._place[0]
        stamps = [_stamp(out / name) for name in ("manifest.json", "review.json")]
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self.rows = read_rows(out)
        except ProtoSAMError as error:
            self._listener.failed(error)
        else:
            self._listener.rows_changed()

    def _look_at_batch(self) -> None:
        batch = self._batch
        if batch is None or (code := batch.poll()) is None:
            return
        self._batch = None
        # 1 also says that some series failed or that it was stopped; the rows tell that better.
        left = [row for row in self.rows if row.is_open]
        went_wrong = code != 0 and not self._was_stopped and (left or not self.rows)
        error = batch.failure() if went_wrong else None
        batch.forget()
        self._listener.batch_ended(error)

    def _look_at_errands(self) -> None:
        try:
            if self._at_work is None and self._errands:
                errand = self._errands.popleft()
                self._at_work = (errand, Command(self._python, errand.words, self._folder))
            elif self._at_work is not None and self._at_work[1].poll() is not None:
                (errand, command), self._at_work = self._at_work, None
                errand.tell(_answer_of(command))
        except ProtoSAMError as error:
            self._listener.failed(error)


def _answer_of(command: Command) -> dict[str, Any]:
    try:
        return command.answer()
    finally:
        command.forget()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
