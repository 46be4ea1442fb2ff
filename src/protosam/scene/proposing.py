"""Examples, as a host has them at its controller: make one, apply some, review what is proposed.

Owns the order: look at the scene, act, tell the listener. What is done is `examples`' and
`reviewing`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protosam.extents import FloatArray
from protosam.scene.clicking import Clicking
from protosam.scene.examples import MadeExample


class Proposing(Clicking):
    """The part of a controller that deals with examples; see `Controller`."""

    def make_example(self, on_made: Callable[[MadeExample], object]) -> bool:
        """Have the visible, finished segments learnt.

        Parameters
        ----------
        on_made : callable
            Gets the content of a `.psexample` file, for the host to keep.

        Returns
        -------
        bool
            False if there is nothing to learn from; a message says so.
        """
        self._look()
        return self._told(self._examples.make(on_made))

    def apply_examples(self, contents: Sequence[bytes]) -> bool:
        """Have the segments of examples proposed in the volume.

        Parameters
        ----------
        contents : sequence of bytes
            Of `.psexample` files; they are joined.
        """
        self._look()
        return self._told(self._examples.apply(contents))

    def cancel_examples(self) -> bool:
        """Give up what runs about examples; proposals that were made stay."""
        return self._told(self._examples.cancel())

    def accept_proposal(self, segment_id: str = "") -> bool:
        """Accept a proposal, and select the next one to look at; no id means the selected one."""
        self._look()
        accepted = self._reviewing.accept(segment_id or self._place.selection.segment_id)
        rows = self._reviewing.status().rows
        if accepted and rows and self._place.editor_node is not None:
            self._place.editor_node.SetSelectedSegmentID(rows[0].segment_id)
            self._look()
        return self._told(accepted)

    def reject_proposal(self, segment_id: str = "") -> bool:
        """Take a proposal out; the user's own clicks stay. No id means the selected one."""
        self._look()
        chosen = segment_id or self._place.selection.segment_id
        done = self._reviewing.reject(chosen, self._look)
        self._look()
        return self._told(done)

    def doubtful_place(self) -> FloatArray | None:
        """RAS mm of the most doubtful slice of the selected proposal, each time of the next one."""
        self._look()
        return self._reviewing.next_place()

    def place_of_slice(self, index: int) -> FloatArray | None:
        """RAS mm of a slice of the strip, inside of the segment if it is there."""
        self._look()
        return self._reviewing.place_of(index)

    def strip_index(self, ras_mm: FloatArray) -> int | None:
        """Slice of the strip in which a point lies; None without a strip."""
        source, status = self._place.selection.source, self.status.examples
        if source is None or not status.strip:
            return None
        return round(source.kji_of(ras_mm)[status.axis])

    def _told(self, done: bool) -> bool:
        self._publish()
        return done
