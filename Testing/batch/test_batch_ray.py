"""The same queue on a Ray cluster of this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from batch_runner import go
from cheap_way import CheapWay
from phantom_series import Ids, Layout, write_series

from protosam.batch import ray_lanes
from protosam.batch.lanes import LanePool, Limits
from protosam.batch.ray_lanes import RayPool
from protosam.errors import InvalidInput, MissingExtra, ModelUnavailable, WorkerFailure

from test_queue import masks_in, verdicts  # isort: skip

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="no Ray: pip install 'protosam[ray]'"
)
pytestmark = [
    # Ray leaves files and sockets to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


@pytest.fixture
def paths_for_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parents[1] / 'src'}")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("paths_for_actors")
def test_two_actors_find_what_one_process_finds(a_study: Path, tmp_path: Path):
    deadly, slow = Ids.new(), Ids.new()
    go(a_study, tmp_path / "here", lambda work: LanePool(work, 1))
    write_series(a_study / "deadly", Layout(slices=3), deadly)
    write_series(a_study / "slow", Layout(slices=3), slow)
    way = CheapWay(deadly=(deadly.series,), slow=(slow.series,))
    limits = Limits(time_s=20)
    went = go(a_study, tmp_path / "ray", lambda work: RayPool(work, "local", 2, limits), way=way)
    assert went
    found = verdicts(tmp_path / "ray")
    status, reason = found.pop(deadly.series)
    assert status == "failed" and "lost (ActorDiedError), 2 times in a row" in reason
    assert found.pop(slow.series) == ("failed", "It took more than 20 s.")
    assert found == verdicts(tmp_path / "here")
    assert masks_in(tmp_path / "ray") == masks_in(tmp_path / "here")


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("paths_for_actors")
def test_a_missing_model_ends_the_batch_on_ray_too(a_study: Path, tmp_path: Path):
    with pytest.raises((ModelUnavailable, WorkerFailure), match="no such model"):
        go(a_study, tmp_path / "out", RayPool, way=CheapWay(is_missing=True))
    assert {status for status, _ in verdicts(tmp_path / "out").values()} == {"waiting"}


def test_without_ray_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_lanes, "ray", None)
    with pytest.raises(MissingExtra, match=r"protosam\[ray\]"):
        RayPool(None)


@needs_ray
def test_what_ray_cannot_do_is_refused_before_it_starts():
    with pytest.raises(InvalidInput, match="Memory"):
        RayPool(None, limits=Limits(memory_bytes=1 << 30))
    with pytest.raises(InvalidInput, match="at least one worker"):
        RayPool(None, count=0)
