"""Occlusion: what a score loses when a part of its window is left out (Zeiler and Fergus 2014).

An event is left out as if it had never come: the window is encoded anew without it, its aggregates too. A group of
aggregates is set to its training mean, a context field to "never seen"; the events stay. So an event's line contains
what it does through the aggregates, and the lines do not add up to the logit.
"""

from collections.abc import Sequence

import numpy as np

from worker.explain.parts import GROUPS, UNKNOWN, Attribution, without_each
from worker.explain.scorer import Scorer
from worker.scoring import encode
from worker.scoring.aggregates import aggregates
from worker.scoring.batch import Batch


def occlusion(scorer: Scorer, windows: Sequence[bytes], *, horizon: int) -> list[Attribution]:
    """One attribution a window, of at least one: its logit minus that without the part."""
    full = scorer.logits(windows)[:, horizon]
    lacking = [without_each(one) for one in windows]
    flat = [one for each in lacking for one in each]
    events = scorer.logits(flat)[:, horizon]
    ends = np.cumsum([len(each) for each in lacking])
    batch = Batch.of(windows)
    sums, known = aggregates(batch), encode.contexts(batch, scorer.bundle.vocabulary)
    means = scorer.bundle.weights.head.means.cpu().numpy()
    grouped = []
    for columns in GROUPS.values():
        changed = sums.copy()
        changed[:, columns] = means[columns]
        grouped.append(full - scorer.logits(windows, sums=changed)[:, horizon])
    context = []
    for field in range(known.shape[1]):
        hidden = known.copy()
        hidden[:, field] = UNKNOWN
        context.append(full - scorer.logits(windows, contexts=hidden)[:, horizon])
    return [
        Attribution(
            events=full[i] - events[end - len(each) : end] if each else np.array([np.nan]),
            aggregates=np.array([part[i] for part in grouped]),
            context=np.array([part[i] for part in context]),
        )
        for i, (each, end) in enumerate(zip(lacking, ends.tolist(), strict=True))
    ]
