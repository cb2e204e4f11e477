"""The rivals learn what there is to learn, from the training slice alone, and are made once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.unit.scoring import making
from worker.evaluation import events_only, rivals
from worker.evaluation.run import ENOUGH, SHARE, Learnt, some
from worker.scoring import encode
from worker.scoring.aggregates import NAMES
from worker.scoring.batch import Batch
from worker.scoring.encode import CONTEXT
from worker.scoring.head import Shape
from worker.shop.ga360 import SPLITS, Sample
from worker.training import trees, windows
from worker.training.features import Features
from worker.training.finetune import Plan
from worker.training.labels import labels
from worker.training.recipe import Recipe
from worker.training.trees import Booster


@pytest.mark.parametrize(
    ("there", "drawn"),
    [
        pytest.param(1_000, 1_000, id="a small shop's are all taken"),
        pytest.param(ENOUGH * 2, ENOUGH, id="enough of a larger one's"),
        pytest.param(ENOUGH * 5, round(ENOUGH * 5 * SHARE), id="its share of a large one's"),
    ],
)
def test_rivals_learn_from_a_share_of_many_instants_only(there: int, drawn: int) -> None:
    assert len(some(np.arange(there), share=SHARE)) == pytest.approx(drawn, rel=0.01)
    assert len(some(np.arange(there), share=1.0)) == there


def features(n: int, *, seed: int = 11, **columns: np.ndarray) -> Features:
    rng = np.random.default_rng(seed)
    aggregates = np.zeros((n, len(NAMES)), np.float32)
    for name, values in columns.items():
        aggregates[:, NAMES.index(name)] = values
    return Features(
        aggregates=aggregates,
        contexts=rng.integers(0, 5, (n, len(CONTEXT))),
        newest=np.zeros((n, 2), np.int64),
        hashes=np.zeros((n, len(CONTEXT)), np.uint32),
        visit_number=np.ones(n, np.int64),
    )


def known(of: Features, y: np.ndarray) -> rivals.Known:
    n = len(of)
    three = np.stack([y] * 3, axis=1)
    return rivals.Known(features=of, member=np.ones((n, 3), np.bool_), y=three, session=np.arange(n) // 3)


def test_the_rule_counts_the_furthest_step_and_says_its_rate() -> None:
    steps = np.repeat(np.arange(5), 10)
    of = features(50, view_item_count=steps > 0, add_to_cart_count=steps == 2, review_order_count=steps == 4)
    of.aggregates[steps == 3, NAMES.index("add_payment_info_count")] = 0.7
    assert rivals.steps(of).tolist() == steps.tolist()
    bought = np.concatenate([np.arange(10) < count for count in (0, 1, 3, 2, 9)])
    found = rivals.rule(known(of, bought), of)[:, 1]
    assert found[::10] == pytest.approx([0.0, 0.1, 0.3, 0.3, 0.9])  # a further step never counts for less


def test_the_rule_counts_the_members_of_each_horizon_alone() -> None:
    of = features(20)
    learnt = known(of, np.arange(20) < 5)
    learnt.member[:10, 2] = False
    assert rivals.rule(learnt, of)[0] == pytest.approx([0.25, 0.25, 0.0])


def planted(n: int, *, seed: int) -> tuple[Features, np.ndarray]:
    """Two numbers of which one counts only in one country."""
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=n), rng.normal(size=n)
    of = features(n, seed=seed, session_seconds=one, gap_seconds=two)
    home = of.contexts[:, CONTEXT.index("country")] == 3
    return of, rng.random(n) < 1 / (1 + np.exp(-(one + 3 * home * two - 1)))


def test_the_trees_find_a_planted_interaction_and_are_grown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trees, "SETTINGS", trees.SETTINGS | {"min_data_in_leaf": 50, "feature_fraction": 1.0, "num_threads": 1}
    )
    monkeypatch.setattr(rivals, "ROUNDS", (2, 160))
    train, validation, (unseen, y) = known(*planted(4000, seed=1)), known(*planted(2000, seed=2)), planted(2000, seed=3)
    found = rivals.trees(train, validation, unseen, tmp_path / "made")
    assert roc_auc_score(y, found[:, 1]) > roc_auc_score(y, unseen.aggregates[:, NAMES.index("session_seconds")]) + 0.03
    assert found[:, 1].mean() == pytest.approx(y.mean(), abs=0.05)  # calibrated
    assert (np.diff(found, axis=1) >= 0).all()
    monkeypatch.setattr(rivals, "_grown", lambda *_: pytest.fail("grown again"))
    assert np.array_equal(rivals.trees(train, validation, unseen, tmp_path / "made"), found)


def test_a_small_shops_trees_split_its_instants_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "SETTINGS", trees.SETTINGS | {"num_threads": 1})
    (of, y), (unseen, truth) = planted(1800, seed=1), planted(1800, seed=2)
    grown = trees.grow(of.table(), y, np.arange(len(y)), rounds=30)
    assert roc_auc_score(truth, np.asarray(grown.predict(unseen.table()))) > 0.6


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def fewer(content: bytes) -> bytes:
    """Of the second tree nothing but its name."""
    return content[: content.index(b"Tree=1")] + b"end of trees\n"


@pytest.mark.parametrize(
    "damage", [half, fewer, lambda _: b"", lambda _: b"\0\xff"], ids=["half", "fewer", "empty", "no text"]
)
def test_trees_that_are_damaged_are_grown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    """LightGBM takes fewer trees for a model, and ends the process for half a one."""
    monkeypatch.setattr(trees, "SETTINGS", trees.SETTINGS | {"min_data_in_leaf": 50, "num_threads": 1})
    monkeypatch.setattr(rivals, "ROUNDS", (2,))
    train = known(*planted(2000, seed=1))
    whole = rivals.trees(train, train, train.features, tmp_path)
    kept = tmp_path / "trees-0.txt"
    before = kept.read_bytes()
    kept.write_bytes(damage(before))
    assert np.array_equal(rivals.trees(train, train, train.features, tmp_path), whole)
    assert kept.read_bytes() == before


def test_a_refit_grows_as_many_trees_as_were_best_before_it_on_what_it_learns_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown: list[tuple[int, int]] = []

    def grow(table: Any, *rest: Any, rounds: int) -> Any:
        grown.append((len(table), rounds))
        return trees.grow(table, *rest, rounds=rounds)

    monkeypatch.setattr(trees, "SETTINGS", trees.SETTINGS | {"min_data_in_leaf": 50, "num_threads": 1})
    monkeypatch.setattr(rivals, "ROUNDS", (2, 40))
    monkeypatch.setattr(rivals, "grow", grow)
    before = known(*planted(2000, seed=1)), known(*planted(1000, seed=2))
    train, calibration = known(*planted(3000, seed=4)), known(*planted(500, seed=5))
    rivals.trees(train, calibration, calibration.features, tmp_path, tuning=lambda: before)
    assert [size for size, _ in grown] == [2000, 3000] * 3
    assert {rounds for size, rounds in grown if size == 3000} <= {2, 40}
    assert Booster(model_file=tmp_path / "trees-1.txt").num_trees() == grown[3][1]


def test_who_is_measured_has_taught_nothing_and_rivals_learn_from_the_same(shop: Path) -> None:
    plain, refitted = making.bundle(), replace(making.bundle(), refitted=True)
    source = Sample(shop)
    assert Learnt.by(plain, source) == Learnt(train="train", calibration="validation", splits=SPLITS)
    refit = Learnt(train="refit", calibration="refit calibration", splits=SPLITS)
    assert Learnt.by(refitted, source) == refit
    assert [refit.measured(which) for which in ("test", "validation")] == ["test", "refit calibration"]
    assert Learnt.by(plain, source).measured("validation") == "validation"
    plan = Plan(shape=refitted.shape)
    for until_ms, splits in ((SPLITS.test, SPLITS), (SPLITS.end, SPLITS.to_the_end())):
        recipe = Recipe.by(source, plan, windows=0, until_ms=until_ms)
        assert Learnt.by(replace(refitted, recipe=recipe.document()), source) == replace(refit, splits=splits)
        elsewhere = replace(recipe, data=("0" * 64,)).document()  # as late, and of another shop
        assert Learnt.by(replace(refitted, recipe=elsewhere), source) == refit


def test_features_are_the_windows_own_and_the_newest_event_is_the_newest(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    places = np.array([5, 700, 42])
    vocabulary = encode.learn([Batch.of(kept.take(np.arange(3000)))], least=2)
    found = Features.of(kept, places, vocabulary)
    for row, place in enumerate(places):
        batch = Batch.of(kept.take(np.array([place])))
        newest = encode.tokens(batch, vocabulary)[-1]
        assert found.newest[row].tolist() == [newest[encode.FIELDS.index(name)] for name in ("page", "category")]
        assert found.contexts[row].tolist() == encode.contexts(batch, vocabulary)[0].tolist()
        assert found.table()[row, len(NAMES) :].tolist() == [*found.contexts[row, : len(CONTEXT)], *found.newest[row]]
    assert found.table().shape == (3, len(NAMES) + len(CONTEXT) + 2)
    assert len(events.visitor) == len(kept)


def test_a_bert_on_events_alone_learns_and_is_trained_once(shop: Path, tmp_path: Path) -> None:
    events, kept = windows.build(Sample(shop), tmp_path)
    y, places = labels(events), np.flatnonzero(events.instant)
    split = len(places) * 2 // 3
    recipe = events_only.Recipe(
        shape=Shape(layers=1, hidden=32, heads=1), windows=2_000, batch_windows=64, learning_rate=3e-3, checkpoints=1
    )
    vocabulary = encode.learn([Batch.of(kept.take(places[:split]))], least=20)

    def rows(chosen: np.ndarray) -> events_only.Rows:
        return events_only.Rows(places=chosen, member=np.ones((len(chosen), 3), np.bool_), y=y[chosen])

    seen: list[int] = []

    def run() -> np.ndarray:
        return events_only.logits(
            kept,
            places[split:],
            vocabulary,
            train=rows(places[:split]),
            validation=rows(places[split:]),
            folder=tmp_path / "rivals",
            recipe=recipe,
            device="cpu",
            report=seen.append,
        )

    first = run()
    assert seen == sorted(seen)
    assert roc_auc_score(y[places[split:], 1], first[:, 1]) > 0.65
    seen.clear()
    assert np.array_equal(run(), first)
    assert not seen
