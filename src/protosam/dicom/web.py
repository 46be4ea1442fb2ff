"""A PACS by DICOMweb: which series it has, their files onto the disk, results back.

Rules
-----
* dicomweb-client speaks QIDO, WADO and STOW; `transport.py` makes it bounded and patient.
* Instances are fetched one by one and appear under their name only when they are whole, so a
  fetch that broke off goes on where it stopped and nothing is half there.
* What was stored counts when the server lists it.
* Messages name UIDs and numbers of files, nothing else of a header. Nothing is ever deleted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID

from protosam.dicom.faults import DAMAGED
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.transport import BoundedSession, Server, tried
from protosam.errors import Cancelled, InvalidInput, ServerFailure, UnreadableFile
from protosam.storage import atomic_path, storage_failure

PAGE = 500
"""Results asked for at once."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class RemoteSeries:
    """A series that a server has."""

    study_uid: str
    series_uid: str
    modality: str
    number: str
    """'' where the server does not say."""
    instances: int | None
    """How many; None where the server does not say."""


class Pacs:
    """One server, asked from one thread.

    Parameters
    ----------
    server : Server
        Where it is and who asks.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = DICOMwebClient(
            server.url,
            session=BoundedSession(server),
            timeout=(server.connect_s, server.silence_s),
        )
        # One place decides what is tried again, and that is `tried`.
        self._client.set_http_retry_params(retry=False)

    def series_of(self, study_uid: str, modality: str = "") -> tuple[RemoteSeries, ...]:
        """Ask which series of a study it has (QIDO).

        Parameters
        ----------
        study_uid : str
            Study instance UID.
        modality : str
            Only these, as 'SEG'; '' for all.

        Raises
        ------
        ServerFailure
            It did not answer, refused, or sent what is no DICOMweb.
        """
        _check_uid(study_uid)
        filters = {"Modality": modality} if modality else None
        found = self._all(
            "listing series",
            "SeriesInstanceUID",
            lambda offset: self._client.search_for_series(
                study_uid,
                fields=["SeriesNumber", "Modality", "NumberOfSeriesRelatedInstances"],
                search_filters=filters,
                limit=PAGE,
                offset=offset,
            ),
        )
        return tuple(_remote_series(study_uid, one) for one in found)

    def instances_of(self, study_uid: str, series_uid: str) -> tuple[str, ...]:
        """Ask which instances of a series it has (QIDO); their SOP instance UIDs, sorted.

        Raises
        ------
        ServerFailure
            It did not answer, refused, or sent what is no DICOMweb.
        """
        _check_uid(study_uid, series_uid)
        found = self._all(
            "listing instances",
            "SOPInstanceUID",
            lambda offset: self._client.search_for_instances(
                study_uid, series_uid, limit=PAGE, offset=offset
            ),
        )
        return tuple(sorted(str(one.SOPInstanceUID) for one in found))

    def fetch_series(
        self,
        study_uid: str,
        series_uid: str,
        folder: Path,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Path, ...]:
        """Bring all instances of a series into a folder (WADO), as ``<SOP instance UID>.dcm``.

        Those that are there already are not fetched again.

        Parameters
        ----------
        study_uid, series_uid : str
        folder : Path
            Made if it is missing.
        should_stop : callable, optional
            Asked between two instances.

        Raises
        ------
        Cancelled
            `should_stop` said so; what came before is kept.
        ServerFailure
            It has no such series, or did not send an instance; what came before is kept.
        StorageFailure
            No space, or no permission to write.
        """
        uids = self.instances_of(study_uid, series_uid)
        if not uids:
            raise ServerFailure(
                f"{self._server.host} has no instance of series {series_uid}.",
                "Check the UIDs of study and series.",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_failure(folder, error) from error
        paths = []
        for uid in uids:
            if should_stop():
                raise Cancelled(f"Fetching series {series_uid} was stopped.")
            paths.append(self._fetched(study_uid, series_uid, uid, folder))
        return tuple(paths)

    def store(self, paths: Sequence[Path]) -> tuple[str, ...]:
        """Send files (STOW) and see that the server lists them; their SOP instance UIDs.

        A file that it has already is sent again: the instance is the same.

        Raises
        ------
        UnreadableFile
            One of them is no DICOM file; none was sent.
        ServerFailure
            It refused one or does not list it; the message says how many it has. The files stay.
        """
        for path in paths:
            _uids_in(path)
        stored: list[str] = []
        try:
            for path in paths:
                stored.append(self._store(path))  # noqa: PERF401 (it counts them when one fails)
        except ServerFailure as error:
            raise ServerFailure(
                f"{error.message} {len(stored)} of {len(paths)} files are stored; all are still on "
                "this machine.",
                error.next_step,
            ) from error
        return tuple(stored)

    def _all(
        self, what: str, key: str, page: Callable[[int], list[dict[str, Any]]]
    ) -> Iterator[Dataset]:
        """Results of all pages, each once; servers that know no pages send the first again."""
        seen: set[str] = set()
        while True:
            items = tried(self._server, what, partial(_parsed, page, len(seen), key))
            fresh = {str(one[key].value): one for one in items}
            new = [uid for uid in fresh if uid not in seen]
            yield from (fresh[uid] for uid in new)
            seen.update(new)
            if not new or len(items) < PAGE:
                return

    def _fetched(self, study_uid: str, series_uid: str, uid: str, folder: Path) -> Path:
        target = folder / f"{uid}.dcm"
        if target.exists():
            return target

        def fetch() -> Dataset:
            with quiet_headers():
                dataset: Dataset = self._client.retrieve_instance(
                    study_uid, series_uid, uid, media_types=(("application/dicom", "*"),)
                )
                _refuse_other(dataset, uid)
            return dataset

        dataset = tried(self._server, f"sending instance {uid}", fetch)
        with atomic_path(target) as temporary, quiet_headers():
            dataset.save_as(temporary, enforce_file_format=True)
        return target

    def _store(self, path: Path) -> str:
        study_uid, series_uid, uid = _uids_in(path)

        def store() -> None:
            with quiet_headers():
                answer = self._client.store_instances([pydicom.dcmread(path)])
            refused = answer.get("FailedSOPSequence") or ()
            if refused:
                reason = int(refused[0].get("FailureReason", 0) or 0)
                raise ServerFailure(
                    f"{self._server.host} refused instance {uid} (reason {reason:#06x}).",
                    "See the log of the server.",
                )

        tried(self._server, f"storing instance {uid}", store)

        def listed() -> None:
            if uid not in self.instances_of(study_uid, series_uid):
                raise KeyError("not listed yet")  # servers may need a moment: tried again

        try:
            tried(self._server, f"listing instance {uid} after it was stored", listed)
        except ServerFailure as error:
            raise ServerFailure(
                f"{self._server.host} took instance {uid} but does not list it.",
                "Look it up on the server before sending it again.",
            ) from error
        return uid


def _parsed(page: Callable[[int], list[dict[str, Any]]], offset: int, key: str) -> list[Dataset]:
    with quiet_headers():
        found = [Dataset.from_json(one) for one in page(offset)]
        for one in found:
            value = str(one[key].value)
            if not _UID.fullmatch(value) or len(value) > 64:
                raise ValueError("no UID")
    return found


def _remote_series(study_uid: str, found: Dataset) -> RemoteSeries:
    count = found.get("NumberOfSeriesRelatedInstances")
    return RemoteSeries(
        study_uid,
        str(found.SeriesInstanceUID),
        str(found.get("Modality", "") or ""),
        str(found.get("SeriesNumber", None) or ""),
        None if count is None else int(count),
    )


def _refuse_other(dataset: Dataset, uid: str) -> None:
    """Refuse an answer that is another instance, or cut short; it is asked for again."""
    if str(dataset.SOPInstanceUID) != uid:
        raise ValueError("another instance")
    if "PixelData" not in dataset:
        return
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_compressed and len(dataset.PixelData) < get_expected_length(dataset):
        raise ValueError("pixels are missing")


def _uids_in(path: Path) -> tuple[str, str, str]:
    names = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        with quiet_headers():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=names)
            study_uid, series_uid, uid = (str(header[name].value) for name in names)
    except DAMAGED as error:
        raise UnreadableFile(
            f"{path.name} is not a DICOM file that can be sent.", "Write it again."
        ) from error
    return study_uid, series_uid, uid


def _check_uid(*uids: str) -> None:
    for uid in uids:
        if not _UID.fullmatch(uid) or len(uid) > 64:
            raise InvalidInput(f"{uid!r} is not a UID.", "Copy it from the list of the server.")
