"""The model card: what a bundle is, where it comes from, how good it is and what it must not be used for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from worker.scores import REASONS
from worker.scoring.reasons import Surrogate
from worker.training.evaluate import UNMEASURED, Line, markdown
from worker.training.finetune import Plan
from worker.training.labels import CALIBRATING, REFIT_HELD_OUT

_TEXT = """\
# {name}

Scores how likely a shop's visitor is to buy within 30 minutes, 24 hours and 7 days, from the visitor's last 64
events of at most 30 days. A BERT of {layers} layers x {hidden} reads the events; its head also sees aggregates of
the window, what is known of the session, and the newest event's page and category. {parameters:,} parameters in all.

## Made with

    {command}

Software: {software}. {threads} CPU threads, {minutes:.0f} minutes. Seed {seed}; the whole plan:

    {plan}

## Data

{data}

A purchase is the first report of a transaction. The data is not part of this bundle, only weights and hashes. Training
instants: {train:,} in the slice, {seen:,} drawn. Of validation's visitors, one in {calibrating} calibrates, and the
others choose the checkpoint: the best mean AUC + AP over the horizons, after {best:,} windows. {refit}

## How good

Test slice, scored once a run, after the run's choices were made on validation. 95 % intervals by resampling
visitors; AP differences below 0.01 are within seed noise. An AP is to be compared with its base rate.

{test}

Validation slice ({optimistic}):

{validation}

## Reason codes

A linear surrogate of the 24 h logit on yes-or-no facts of the window; R2 = {r2:.2f} on training windows. A code that
stands for events weighs what the logit loses without them, on average; the others are fitted to the rest. It tells
what moves scores like this one, not what happened inside this forward pass.

| code | weight (logits) |
| --- | --: |
{reasons}

## Limits

- One shop, in the weeks above. On another shop's events expect less, and recalibrate: a base rate that differs shifts
  every probability. Train again as soon as own data is there.
- Purchases are rare at the start of a visit, and the model knows little then: see the 3rd event's row.
- Context (country, channel, visit number) carries much of the early signal. It reflects who bought in the past; do
  not use these scores to set prices, to grant credit or to refuse service.
- Bots are in the data, unlabelled. The risk score beside the intent says how rare a window is among those of the
  training slice (`worker/scoring/habits.py`); no label of abuse was there to learn from or to measure on.
- Items and pages never seen in training share hashed rows, and are scored by their category, price and the rest.
"""

_REFIT = """\
Refitted: what was
chosen on validation was trained again, from scratch, on every instant whose horizon ends before the test slice, but
for the last two weeks of one visitor in {one_in}, on whom alone it is calibrated."""

_CHOSEN = "calibration and the choice of the checkpoint were made on it: optimistic"


def write(
    *,
    name: str,
    data: str,
    command: str,
    plan: Plan,
    parameters: int,
    train: int,
    seen: int,
    best: int,
    seconds: float,
    threads: int,
    software: Mapping[str, str],
    surrogate: Surrogate,
    test: Sequence[Line],
    validation: Sequence[Line],
) -> str:
    """The card as Markdown."""
    chosen = asdict(plan)
    shape = chosen.pop("shape")
    return _TEXT.format(
        name=name,
        data=data,
        layers=plan.shape.layers,
        hidden=plan.shape.hidden,
        parameters=parameters,
        command=command,
        software=", ".join(f"{package} {version}" for package, version in software.items()),
        threads=threads,
        minutes=seconds / 60,
        seed=plan.seed,
        plan=" ".join(f"{key}={value}" for key, value in {**chosen, **shape}.items()),
        train=train,
        seen=seen,
        best=best,
        refit=_REFIT.format(one_in=REFIT_HELD_OUT) if plan.refit else "",
        optimistic=f"of the model before its refit; {_CHOSEN}" if plan.refit else _CHOSEN,
        test=markdown(test) if test else UNMEASURED,
        calibrating=CALIBRATING,
        validation=markdown(validation) if validation else UNMEASURED,
        r2=surrogate.r2,
        reasons="\n".join(
            f"| {code} | {weight:+.2f} |" for code, weight in zip(REASONS, surrogate.weights.tolist(), strict=True)
        ),
    )
