"""What an alignment has to tell beside its distances: the fallbacks that were taken."""

import logging

_log = logging.getLogger(__name__)


class AlignNotes:
    """Collects what a stage's calls noted; every sentence is kept, and logged, once.

    Whether a solver reached its tolerance is for the distance to note: a ladder of fixed length has none to reach.
    """

    def __init__(self) -> None:
        self.sentences: tuple[str, ...] = ()
        """All of it; the whole state."""

    def add(self, *sentences: str) -> None:
        """Keep sentences that are new."""
        for sentence in sentences:
            if sentence not in self.sentences:
                self.sentences = (*self.sentences, sentence)
                _log.warning("aligning: %s", sentence)
