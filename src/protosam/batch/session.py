"""A batch from its source to its report; what the command and other hosts call.

Rules
-----
* All that can be refused is refused before the first series: options, examples, codes, folders.
* Results never go into the folder of the source.
* The report is written whenever the queue has ended, also when it was stopped.
* The same call again continues where the last one ended, however that was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protosam.batch.manifest import Manifest, Row
from protosam.batch.pacs import drop_fetched, fetch_study, store_results
from protosam.batch.patients import patient_key
from protosam.batch.queue import Hooks, Pool, Work, run_queue
from protosam.batch.report import write_report
from protosam.batch.sources import inventory
from protosam.batch.ways import Recipe
from protosam.batch.work import Order, SeriesWork, clear_working
from protosam.dicom.results import Form
from protosam.dicom.sources import Files, files_of
from protosam.dicom.terminology import coding_of
from protosam.dicom.transport import Server
from protosam.dicom.web import Pacs
from protosam.errors import InvalidInput, StorageFailure, UnreadableFile
from protosam.models.add_ons import find_add_on
from protosam.models.weights import file_digest

PoolOf = Callable[[Work], Pool]


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    source: Path | str
    """Folder, zip, DICOMDIR or file; or a study instance UID, which needs `server`."""
    out: Path
    recipe: Recipe
    forms: tuple[Form, ...] = ("seg",)
    straighten: bool = False
    show_patient: bool = False
    retry_failed: bool = False
    server: Server | None = None
    """PACS that studies come from, and results go to."""
    store: bool = False
    """Whether results go to the PACS."""
    is_shared: bool = False
    """Whether other machines compute, which must see source and results."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What came of it."""

    rows: tuple[Row, ...]
    was_stopped: bool
    problems: tuple[str, ...]
    """What a PACS did not take."""


def run_batch(plan: Plan, pool_of: PoolOf, hooks: Hooks | None = None) -> Summary:
    """Carry out a batch, or what is left of it.

    Parameters
    ----------
    plan : Plan
    pool_of : callable
        Makes those who compute, once all that can be refused was.
    hooks : Hooks, optional

    Raises
    ------
    ProtoSAMError
        Any of them, if nothing can be segmented at all; single series never raise.
    """
    own = hooks or Hooks()
    check_plan(plan)
    with Manifest(plan.out, order_digest(plan)) as manifest:
        clear_working(plan.out)
        if plan.retry_failed:
            manifest.reopen_failed()
        order = Order(
            plan.out.absolute(),
            plan.recipe,
            plan.forms,
            plan.straighten,
            patient_key(plan.out),
            plan.show_patient,
        )
        with _files(plan, manifest, own) as files:
            pool = pool_of(SeriesWork(order))
            try:
                pool.expect(len(files.paths))
                found = inventory(files, straighten=plan.straighten, show_names=plan.show_patient)
                manifest.enrol(found.refused)
                went_through = run_queue(manifest, found.tasks, pool, own)
            finally:
                pool.stop()
        problems: list[str] = []
        if plan.store and plan.server is not None and went_through:
            problems = store_results(Pacs(plan.server), manifest, own.should_stop)
        if went_through:  # else what was fetched so far is needed again
            drop_fetched(manifest)
        write_report(plan.out, manifest.rows, found.left_out)
        return Summary(manifest.rows, not went_through, tuple(problems))


def check_plan(plan: Plan) -> None:
    """Refuse what cannot succeed.

    Raises
    ------
    InvalidInput
        A folder of results in the source, structures without a code, a store without a PACS, an
        archive for machines that cannot see it.
    UnreadableFile
        A source that is not there.
    ProtoSAMError
        What examples and automatic prompts raise.
    """
    is_remote = isinstance(plan.source, str)
    if (is_remote or plan.store) and plan.server is None:
        raise InvalidInput("There is no PACS to speak to.", "Give --dicomweb URL.")
    if not is_remote:
        _refuse_source(Path(plan.source), plan.out)
        if plan.is_shared and zipfile.is_zipfile(plan.source):
            raise InvalidInput(
                "An archive is unpacked on this machine, where others cannot see it.",
                "Unpack it into a folder that all machines share.",
            )
    known = plan.recipe.known_structures()
    if any(form != "seg.nrrd" for form in plan.forms):
        for name, entry in known:
            coding_of(name, entry)


def order_digest(plan: Plan) -> str:
    """Digest of all that decides what the results are."""
    recipe = dataclasses.asdict(plan.recipe)
    files = [*plan.recipe.examples, *(one.path for one in plan.recipe.autos)]
    files += _contents(Path(plan.recipe.model)) if plan.recipe.model else []
    if plan.recipe.adapter:  # a name means its version in use, which may have changed since
        files += _contents(find_add_on(Path(plan.recipe.adapter), ("shift",)))
    wanted: dict[str, Any] = {
        # Where files lie does not matter, only what is in them; nor does the device.
        "recipe": {key: recipe[key] for key in ("method", "lines", "from_seg", "structures")},
        "model": Path(plan.recipe.model).name,
        "adapter": Path(plan.recipe.adapter).name,
        "autos": [one.structure for one in plan.recipe.autos],
        "files": [file_digest(path) for path in files],
        "forms": plan.forms,
        "straighten": plan.straighten,
    }
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def _contents(path: Path) -> list[Path]:
    """Files that a path stands for: itself, or those that lie in the folder."""
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.is_file())
    return [path] if path.is_file() else []


def _refuse_source(source: Path, out: Path) -> None:
    if not source.exists():
        raise UnreadableFile(f"There is no file or folder {source}.", "Check the path.")
    whole, target = source.resolve(), out.resolve()
    if target == whole or whole in target.parents:
        raise InvalidInput(
            f"The results would go into the source {source}.", "Choose a folder beside it."
        )
    if out.exists() and not out.is_dir():
        raise StorageFailure(f"{out} is a file.", "Choose a folder.")


@contextmanager
def _files(plan: Plan, manifest: Manifest, hooks: Hooks) -> Iterator[Files]:
    if isinstance(plan.source, str):
        if plan.server is None:
            raise InvalidInput("There is no PACS to speak to.", "Give --dicomweb URL.")
        yield fetch_study(Pacs(plan.server), plan.source, manifest, hooks.should_stop)
        return
    with files_of(plan.source) as files:
        yield files
