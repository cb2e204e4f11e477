"""What is known at an instant, as a table: what a tabular rival learns from, and what slices are cut by.

The same information that the network gets: the window's aggregates, what is known of the session, the newest event.
Knows neither labels nor scores.
"""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.scoring import aggregates, encode
from worker.scoring.batch import Batch, Floats, Hashes, Ints
from worker.training.windows import Windows

_WINDOWS: Final = 20_000  # decoded at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Of n instants, a row each."""

    aggregates: Floats  # [n, len(aggregates.NAMES)]
    contexts: Ints  # [n, vocabulary.columns] the vocabulary's codes: 0 nothing, 1 any other
    newest: Ints  # [n, 2] the vocabulary's rows of the newest event's page and category: rare pages share 64
    hashes: Hashes  # [n, len(encode.CONTEXT)] the context as the window keeps it, 0 for nothing
    visit_number: Ints  # [n] 0 where it is not known

    @classmethod
    def of(cls, windows: Windows, places: NDArray[np.int64], vocabulary: encode.Vocabulary) -> "Features":
        """Of the windows after the events at `places`; about 200,000 a second."""
        parts = [
            cls._of(Batch.of(windows.take(places[start : start + _WINDOWS])), vocabulary)
            for start in range(0, len(places), _WINDOWS)
        ]
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )

    @classmethod
    def _of(cls, batch: Batch, vocabulary: encode.Vocabulary) -> "Features":
        newest = encode.tokens(batch, vocabulary)[batch.newest]
        return cls(
            aggregates=aggregates.aggregates(batch),
            contexts=encode.contexts(batch, vocabulary).astype(np.int64),
            newest=newest[:, [encode.FIELDS.index(field) for field in encode.NEWEST.values()]].astype(np.int64),
            hashes=batch.heads.context,
            visit_number=batch.heads.visit_number,
        )

    def __len__(self) -> int:
        return len(self.aggregates)

    def table(self) -> Floats:
        """[n, aggregates + categories]: numbers first, then `CATEGORIES` columns of codes.

        The newest page is told by its row: trees lose by what the head is told, where all rare pages are one.
        """
        session = self.contexts[:, : len(encode.CONTEXT)]
        return np.concatenate([self.aggregates, session, self.newest], axis=1, dtype=np.float32)


CATEGORIES: Final = len(encode.CONTEXT) + len(encode.NEWEST)
"""Columns of codes at the right of `Features.table`."""
