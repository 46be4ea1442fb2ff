"""What finds structures without a click: examples, automatic prompts, a table, or what is there.

Rules
-----
* A `Recipe` is a small value that travels to whoever computes; there `open` loads the model once,
  and what does not fit it is refused before the first series.
* It knows volumes and prompts, nothing of files of a series. Masks are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protosam import __version__
from protosam.batch.finding import Case, Finder, FoundSegment
from protosam.batch.prompts import PromptLine, prompts_of
from protosam.dicom.write import Algorithm, AlgorithmKind
from protosam.errors import InvalidInput
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.learn.train_shift import weights_of
from protosam.learn.unlabelled.methods import SPECIALIST
from protosam.learn.unlabelled.specialist_names import find_specialist
from protosam.models.add_ons import find_add_on, read_add_on
from protosam.models.embeddings import EmbeddingCache
from protosam.models.load import DEFAULT_MODEL, load_model
from protosam.models.refiner import builtin_refiner
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_model import SliceModel
from protosam.models.specialist_card import FILE as SPECIALIST_FILE
from protosam.models.specialist_card import read_specialist_card
from protosam.models.weights import file_digest
from protosam.prompting.apply import Wish, apply_example
from protosam.prompting.auto import AutoPrompter, load_auto
from protosam.prompting.example import Example, Lesson, merged
from protosam.prompting.example_file import load_example
from protosam.prompting.methods import method_named
from protosam.prompting.propose import suggest
from protosam.prompts import PriorMask, PromptSet
from protosam.seg_nrrd import DEFAULT_TERMINOLOGY, Segment

LONGEST_NAME = 48
"""Letters of a model's name in the algorithm's; DICOM has 64 for both."""


@dataclass(frozen=True)
class AutoFile:
    """Automatic prompts and what they find."""

    structure: str
    path: Path


@dataclass(frozen=True)
class Recipe:
    """What segments; a `Way`."""

    model: str = DEFAULT_MODEL
    adapter: str = ""
    device: str = "auto"
    weights_dir: Path | None = None
    examples: tuple[Path, ...] = ()
    method: str = "p2sam"
    """How the objects of examples are looked for."""
    autos: tuple[AutoFile, ...] = ()
    lines: tuple[PromptLine, ...] = ()
    from_seg: bool = False
    """Whether earlier segments of the study are prompts."""
    structures: tuple[str, ...] = ()
    """Only these, by name; none = all."""

    def __post_init__(self) -> None:
        if self.model.startswith(SPECIALIST):
            # As a file, so that its digest is part of the batch's: names get new versions.
            object.__setattr__(self, "model", str(find_specialist(self.model)))
        if self.is_specialist:
            if self.examples or self.autos or self.lines or self.from_seg or self.adapter:
                raise InvalidInput(
                    "A specialist finds its structures alone.",
                    "Leave --example, --auto, --prompts, --from-seg and --adapter out.",
                )
            return
        if not (self.examples or self.autos or self.lines or self.from_seg):
            raise InvalidInput(
                "Nothing says what is to be segmented.",
                "Give --example, --auto, --prompts or --from-seg.",
            )
        method_named(self.method)

    @property
    def is_specialist(self) -> bool:
        """Whether the model is a small network that needs no prompts."""
        return Path(self.model).name == SPECIALIST_FILE

    @property
    def wants_references(self) -> bool:
        """Whether earlier segmentations of the study are needed."""
        return self.from_seg

    def wants(self, name: str) -> bool:
        """Whether a structure is to be segmented."""
        return not self.structures or name.casefold() in {one.casefold() for one in self.structures}

    def open(self) -> Finder:
        """Load model, examples and automatic prompts.

        Raises
        ------
        ProtoSAMError
            Something is missing, damaged, or made for another model.
        """
        if self.is_specialist:
            # Late, because MONAI takes seconds to import and few batches have a specialist.
            from protosam.batch.specialist_way import SpecialistFinder  # noqa: PLC0415

            return SpecialistFinder(Path(self.model), self.device, self.wants)
        return Recipes(self)

    def known_structures(self) -> list[tuple[str, str]]:
        """Names and terminology entries of what will be looked for, as far as that is known now.

        Raises
        ------
        InvalidInput
            A structure twice, one of `structures` that nothing finds, examples of two models.
        UnreadableFile
            An example that cannot be read.
        """
        found = [(one.name, one.terminology) for one in self._lessons()]
        if self.is_specialist:
            card = read_specialist_card(Path(self.model))
            found += [(name, DEFAULT_TERMINOLOGY) for name in card.labels]
        found += [(one.structure, DEFAULT_TERMINOLOGY) for one in self.autos]
        table = dict.fromkeys(line.structure for line in self.lines)
        found += [(name, DEFAULT_TERMINOLOGY) for name in table]
        _refuse_twice([name for name, _ in found])
        names = {name.casefold() for name, _ in found}
        missing = [one for one in self.structures if one.casefold() not in names]
        if missing and not self.from_seg:
            raise InvalidInput(
                f"Nothing finds {', '.join(missing)}.",
                f"There are {', '.join(name for name, _ in found)}.",
            )
        return [(name, entry) for name, entry in found if self.wants(name)]

    def _lessons(self) -> tuple[Lesson, ...]:
        if not self.examples:
            return ()
        return merged([load_example(path) for path in self.examples]).lessons


def auto_file(text: str) -> AutoFile:
    """Automatic prompts from ``FILE`` or ``STRUCTURE=FILE``; else the file's card names it.

    Raises
    ------
    WeightsRefused
        It is no file of automatic prompts.
    """
    name, _, given = ("", "", text) if Path(text).exists() else text.rpartition("=")
    path = find_add_on(Path(given), ["auto"])
    card = read_add_on(path, "auto").card
    return AutoFile(name or " ".join(card.labels), path)


class Recipes:
    """A recipe with its model; a `Finder`.

    Parameters
    ----------
    recipe : Recipe
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._model = self._load(recipe.adapter)
        self._example = self._joined()
        self._prompters: list[tuple[str, AutoPrompter]] = [
            (one.structure, load_auto(one.path, base_sha256=weights_of(self._model)))
            for one in recipe.autos
            if recipe.wants(one.structure)
        ]
        # An adapter was not there when the prompts were taught, so they look without it.
        self._plain = self._load("") if recipe.adapter and self._prompters else self._model
        self._refiner = builtin_refiner(self._model.device)

    @property
    def algorithm(self) -> Algorithm:
        """Who found the segments."""
        by_hand = bool(self._recipe.lines or self._recipe.from_seg)
        kind: AlgorithmKind = "SEMIAUTOMATIC" if by_hand else "AUTOMATIC"
        return Algorithm(
            f"ProtoSAM {self._model.name}"[:LONGEST_NAME],
            __version__,
            weights_of(self._model),
            _digest_of(self._recipe.adapter),
            kind,
        )

    def find(self, case: Case) -> list[FoundSegment]:
        """Look for all structures in one volume.

        Raises
        ------
        InvalidInput
            Nothing says what to look for here, or the image shows nothing.
        """
        cache = EmbeddingCache()
        segmenter = Segmenter(self._model, cache=cache, refiner=self._refiner)
        found = self._by_example(case.volume, cache)
        found += [self._by_auto(case.volume, segmenter, *one) for one in self._prompters]
        table = prompts_of(self._recipe.lines, case.names, case.volume)
        found += [
            _answered(case.volume, segmenter, Segment(name, _nothing(case.volume)), prompts)
            for name, prompts in table.items()
            if self._recipe.wants(name)
        ]
        if self._recipe.from_seg:
            found += self._by_references(case, segmenter)
        if not found:
            raise InvalidInput(
                "Nothing says what to segment in this series.",
                "Add it to the table of prompts, or give an example or a segmentation of it.",
            )
        _refuse_twice([one.segment.name for one in found])
        return found

    def _load(self, adapter: str) -> SliceModel:
        one = self._recipe
        return load_model(
            one.model,
            adapter=Path(adapter) if adapter else None,
            weights_dir=one.weights_dir,
            device=one.device,
        )

    def _joined(self) -> Example | None:
        if not self._recipe.examples:
            return None
        joined = merged([load_example(path) for path in self._recipe.examples])
        joined.check_model(self._model)
        lessons = tuple(one for one in joined.lessons if self._recipe.wants(one.name))
        if not lessons:
            return None
        return Example(joined.model_name, joined.model_digest, joined.cases, lessons)

    def _by_example(self, volume: Volume, cache: EmbeddingCache) -> list[FoundSegment]:
        if self._example is None:
            return []
        wish = Wish(method_named(self._recipe.method), refiner=self._refiner)
        proposals = apply_example(self._model, volume, self._example, wish=wish, cache=cache)
        return [
            FoundSegment(
                Segment(
                    one.name,
                    one.full_mask(volume.shape_kji),
                    one.colour,
                    terminology=one.terminology,
                ),
                one.confidence,
                dict(one.confidences),
                one.notes,
            )
            for one in proposals
        ]

    def _by_auto(
        self, volume: Volume, segmenter: Segmenter, structure: str, prompter: AutoPrompter
    ) -> FoundSegment:
        suggested = suggest(volume, self._plain, prompter)
        empty = Segment(structure, _nothing(volume))
        if suggested.prompts.is_empty:
            return FoundSegment(empty, 0.0, {}, ("The object does not seem to be in the image.",))
        return _answered(volume, segmenter, empty, suggested.prompts)

    def _by_references(self, case: Case, segmenter: Segmenter) -> list[FoundSegment]:
        first: dict[str, Segment] = {}
        for one in case.references:
            if one.mask.any() and self._recipe.wants(one.name):
                first.setdefault(one.name.casefold(), one)  # a SEG and an RTSTRUCT may agree
        return [
            _answered(
                case.volume,
                segmenter,
                one,
                PromptSet(prior=PriorMask.from_mask(one.mask, "earlier")),
            )
            for one in first.values()
        ]


def _answered(
    volume: Volume, segmenter: Segmenter, like: Segment, prompts: PromptSet
) -> FoundSegment:
    """Segment named and coded like another, from prompts."""
    answer = segmenter.segment(volume, SegmentRequest(prompts))
    mask = answer.full_mask(volume.shape_kji)
    segment = Segment(like.name, mask, like.colour, terminology=like.terminology)
    return FoundSegment(segment, answer.score, dict(answer.slice_scores), answer.notes)


def _nothing(volume: Volume) -> BoolArray:
    mask: BoolArray = volume.voxels != volume.voxels
    return mask


def _refuse_twice(names: Sequence[str]) -> None:
    plain = [name.casefold() for name in names]
    twice = sorted({name for name in plain if plain.count(name) > 1})
    if twice:
        raise InvalidInput(
            f"{', '.join(twice)} would be found twice.",
            "Name the structures differently, or leave one of the sources out.",
        )


def _digest_of(adapter: str) -> str:
    if not adapter:
        return ""
    path = find_add_on(Path(adapter))
    if path.is_file():
        return file_digest(path)
    # Late, because peft takes 3 s to import and few users have an adapter.
    from protosam.models.lora import adapter_digest  # noqa: PLC0415

    return adapter_digest(path)
