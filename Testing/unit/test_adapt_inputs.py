"""Adapt and bad input: what is refused, with which words, and that nothing of the old is lost."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from protosam.errors import GeometryError, InvalidInput, ProtoSAMError, StorageFailure
from protosam.learn.adapt_order import AdaptOrder, Watch
from protosam.learn.adapters import AdapterStore
from protosam.learn.gated_run import adapt
from protosam.learn.recipe_settings import RecipeSettings
from protosam.models.load import load_model
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import save_tiny
from protosam.models.weights import file_digest

SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)
QUICK = RecipeSettings(
    rear_blocks=1, rank=2, steps=2, batch=1, examples=4, replayed=0, learning_rate=1e-2
)
WATCH = Watch(lambda _done, _text: None)


def write_case(
    folder: Path, name: str, *, spacing_mm: tuple[float, ...] = (1.0, 1.0, 4.0), value: int = 1
) -> None:
    k, j, i = np.ogrid[:6, :40, :48]
    ball = ((k - 2.5) * 4) ** 2 + (j - 20) ** 2 + (i - 24) ** 2 <= 100
    noise = np.random.default_rng(len(name)).integers(0, 20, size=(6, 40, 48))
    image = np.where(ball, 100, 0) + noise
    affine = np.diag([*spacing_mm, 1.0])
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(image.astype(np.int16).T, affine), folder / f"{name}_img.nii.gz")
    label = np.where(ball, value, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(label.T, affine), folder / f"{name}_lab.nii.gz")
    (folder / "labels.json").write_text('{"1": "ball", "2": "cube"}')


def order_in(folder: Path) -> AdaptOrder:
    return AdaptOrder(
        cases=folder / "cases",
        name="ball",
        labels=("ball",),
        tier="decoder",
        adapters_dir=folder / "adapters",
        model=str(folder / "small.safetensors"),
        device="cpu",
        settings=QUICK,
    )


@pytest.fixture(scope="module")
def a_workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good case, and a version in use that must survive everything."""
    folder = tmp_path_factory.mktemp("workplace")
    torch.manual_seed(0)
    save_tiny(TinySAM(SMALL), folder / "small.safetensors", {})
    write_case(folder / "cases", "a")
    first = adapt(order_in(folder), WATCH)
    AdapterStore(folder / "adapters").activate("ball", first.version.number)
    return folder


@pytest.fixture
def an_order(a_workplace: Path, tmp_path: Path) -> AdaptOrder:
    """An order in a copy of the workplace."""
    return order_in(shutil.copytree(a_workplace, tmp_path / "workplace"))


def the_version_in_use(order: AdaptOrder) -> tuple[Path | None, dict[str, str]]:
    path = AdapterStore(order.adapters_dir).active_path("ball")
    assert path is not None
    return path, {one.name: file_digest(one) for one in sorted(path.iterdir())}


def refusal(order: AdaptOrder, kind: type[ProtoSAMError]) -> str:
    """Words of the refusal, once it is sure that nothing else has changed."""
    before, base = the_version_in_use(order), file_digest(Path(order.model))
    with pytest.raises(kind) as error:
        adapt(order, WATCH)
    assert str(error.value.next_step)
    assert the_version_in_use(order) == before
    assert file_digest(Path(order.model)) == base
    assert len(AdapterStore(order.adapters_dir).versions("ball")) == 1
    return str(error.value)


def test_the_base_is_the_same_file_and_answers_the_same_bit_for_bit_after_adapting(
    an_order: AdaptOrder,
) -> None:
    stack = np.random.default_rng(0).random((1, 3, 40, 48), dtype=np.float32)
    before = load_model(an_order.model, device="cpu")
    wanted = before.embed(stack, (1.0, 1.0))[0].features.embedding.clone()
    digest = file_digest(Path(an_order.model))

    adapt(an_order, WATCH)

    after = load_model(an_order.model, device="cpu")
    assert file_digest(Path(an_order.model)) == digest and after.digest == before.digest
    assert torch.equal(wanted, after.embed(stack, (1.0, 1.0))[0].features.embedding)
    path, _ = the_version_in_use(an_order)
    assert load_model(an_order.model, adapter=path, device="cpu").digest != after.digest


def test_a_damaged_image_is_named_and_nothing_changes(an_order: AdaptOrder) -> None:
    write_case(an_order.cases, "b")
    path = an_order.cases / "b_img.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert "b_img" in refusal(an_order, ProtoSAMError)


def test_labels_on_another_grid_are_told(an_order: AdaptOrder) -> None:
    write_case(an_order.cases, "b")
    other = nib.Nifti1Image(np.ones((10, 10, 6), np.uint8), np.eye(4))
    nib.save(other, an_order.cases / "b_lab.nii.gz")
    assert "b_lab" in refusal(an_order, GeometryError)


def test_an_image_without_labels_is_told(an_order: AdaptOrder) -> None:
    write_case(an_order.cases, "b")
    (an_order.cases / "b_lab.nii.gz").unlink()
    assert "no labels beside them: b" in refusal(an_order, InvalidInput)


def test_no_case_at_all_is_told(an_order: AdaptOrder, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "no image" in refusal(
        dataclasses.replace(an_order, cases=tmp_path / "none"), InvalidInput
    )
    nowhere = dataclasses.replace(an_order, cases=tmp_path / "nowhere")
    assert "no folder" in refusal(nowhere, InvalidInput)


def test_a_label_that_is_empty_everywhere_is_told_and_in_one_case_is_not(
    an_order: AdaptOrder,
) -> None:
    assert "cube" in refusal(dataclasses.replace(an_order, labels=("ball", "cube")), InvalidInput)
    write_case(an_order.cases, "b", value=2)  # no ball in it
    result = adapt(an_order, WATCH)
    assert result.version.card.labels == ("ball",)


def test_cases_of_different_spacings_teach_together(an_order: AdaptOrder) -> None:
    write_case(an_order.cases, "b", spacing_mm=(0.7, 0.7, 0.7))
    write_case(an_order.cases, "c", spacing_mm=(3.0, 1.5, 8.0))
    result = adapt(an_order, WATCH)
    figures = [d for m in result.report.to_json()["rows"] for d in m["new"]["dice"]]
    assert result.version.number == 2 and np.isfinite(figures).all()


@pytest.mark.parametrize("place", ["checkpoint", "adapter", "version"])
def test_a_full_disk_leaves_the_old_version_in_use(
    an_order: AdaptOrder, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "checkpoint": "torch.save",
        "adapter": "protosam.models.lora.save_file",
        "version": "protosam.learn.gated_run.shutil.copyfile",
    }[place]
    monkeypatch.setattr(target, full)
    assert "No space left" in refusal(an_order, StorageFailure)
    monkeypatch.undo()
    assert adapt(an_order, WATCH).version.number == 2
    assert not list((an_order.adapters_dir or Path()).glob("*/.new-*"))
