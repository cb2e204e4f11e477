"""The comparison of scorers: what is scored, that all score the same, and what is concluded. No speeds."""

import copy
import io
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from rich.console import Console

from loadtest import engine, scorings
from loadtest.scorers import contest, runtimes, serve, sizes, work
from loadtest.scorers.child import Child
from loadtest.scorers.contest import Cell, Found, Place, Standings
from loadtest.scorers.peak import Peak
from loadtest.scorers.task import Ready, Task, Turn
from worker import window
from worker.errors import IntentError, SettingError
from worker.scoring import forward
from worker.scoring.bundle import Bundle

POOL = work.made(None, events=4000, pool=300)
CPU = torch.device("cpu")
CELL = Cell("real", "32")


@pytest.fixture(scope="module")
def spread() -> Bundle:
    made = sizes.load("mini")
    sizes.spread(made, work.Columns.of(POOL.windows["real"], made.vocabulary))
    return made


@pytest.fixture
def mini(spread: Bundle) -> Bundle:
    """One of the test's own: a scorer may change its dtype."""
    return copy.deepcopy(spread)


def test_fixed_windows_have_64_positions_and_real_ones_what_shoppers_left() -> None:
    assert set(work.positions(POOL.windows["fixed"]).tolist()) == {64}
    real = work.positions(POOL.windows["real"])
    assert len(real) == 300
    assert real.min() >= 2
    assert real.max() <= 1 + window.EVENTS
    assert len(set(real.tolist())) > 5


def test_few_batches_have_the_lengths_of_all() -> None:
    lengths = work.positions(POOL.windows["real"])
    means = [lengths[start : start + 32].mean() for start in range(0, 288, 32)]
    assert means == pytest.approx([lengths.mean()] * 9, rel=0.1)


def test_the_pool_reaches_the_scorers_as_it_was_made(tmp_path: Path) -> None:
    POOL.save(tmp_path)
    assert {mix: work.Pool.load(tmp_path, mix) for mix in work.MIXES} == POOL.windows


@pytest.mark.parametrize(
    ("size", "most", "lengths"),
    [
        pytest.param("100", 8, [100, 100, 100], id="by windows"),
        pytest.param("100", 2, [100, 100], id="at most so many"),
        pytest.param("128", 8, [128, 128], id="no partial batch"),
        pytest.param("1000", 8, [300], id="unless there is no other"),
        pytest.param("6400t", 2, [100, 100], id="by positions"),
        pytest.param("6463t", 2, [100, 100], id="a budget is not exceeded"),
        pytest.param("10t", 2, [1, 1], id="a window larger than the budget goes alone"),
    ],
)
def test_batches_of_fixed_windows(size: str, most: int, lengths: list[int]) -> None:
    windows = POOL.windows["fixed"]
    cut = work.batches(windows, size, most=most)
    assert [len(batch) for batch in cut] == lengths
    assert [one for batch in cut for one in batch] == windows[: sum(lengths)]


def test_floating_point_work_is_the_formula() -> None:
    # L (24 H^2 + 4 S H) a position: 2 layers of 10, windows of 3 and 1: 2 (2400 + 120) 3 + 2 (2400 + 40) 1
    assert work.flops(np.array([3, 1]), layers=2, hidden=10) == 20_000


def test_random_models_spread_their_scores(mini: Bundle) -> None:
    batch = work.Columns.of(POOL.windows["real"], mini.vocabulary).batch
    logits = forward.logits(mini.weights, mini.vocabulary, batch, device=CPU)
    assert logits.std(axis=0) == pytest.approx(1.0, abs=0.05)
    assert logits.mean(axis=0) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("scorer", "bound"),
    [
        ("packed-fp32", 1e-5),
        ("packed-bf16", 0.05),
        ("score-now-fp32", 1e-5),
        ("score-now-fixed-fp32", 1e-5),
        ("eager-fp32", 1e-5),
        ("sdpa-bf16", 0.05),
    ],
)
def test_scorers_score_what_the_worker_scores(mini: Bundle, scorer: str, bound: float) -> None:
    windows = POOL.windows["real"][:40]
    batch = work.Columns.of(windows, mini.vocabulary).batch
    expected = mini.calibration.probabilities(forward.logits(mini.weights, mini.vocabulary, batch, device=CPU))
    made = serve.SCORERS[scorer](mini, Task(scorer=scorer, size="mini", device="cpu", threads=1, folder=""))
    found = made.forward(made.arrange(windows))
    assert found.std() > 0.01
    assert np.abs(found - expected).max() <= bound


def test_what_is_exported_is_the_model(mini: Bundle) -> None:
    arrays = work.Columns.of(POOL.windows["real"][:20], mini.vocabulary).padded(np.arange(20))
    inputs = [torch.from_numpy(array) for array in arrays]
    with torch.inference_mode():
        expected = mini.model(*inputs)
        assert torch.allclose(runtimes.Plain(mini.model)(*inputs), expected, atol=1e-4)


def test_a_scorers_process_scores_then_measures_what_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    POOL.save(tmp_path)
    task = Task(scorer="packed-fp32", size="tiny", device="cpu", threads=1, folder=str(tmp_path))
    monkeypatch.setattr("sys.argv", ["serve", task.dump()])
    monkeypatch.setattr("sys.path", [*sys.path])
    told = [{"mix": "fixed", "batch": "640t"}, {"seconds": 0.01}]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(orjson.dumps(one).decode() + "\n" for one in told)))
    threads = torch.get_num_threads()
    try:
        serve.main()
    finally:
        torch.set_num_threads(threads)
    ready, opened, turn = (orjson.loads(line) for line in capsys.readouterr().out.splitlines())
    started = Ready(**ready)
    assert np.array(started.scores).shape == (serve.CHECKED, 3)
    assert 0 < len(started.parted) < 64, "a large model is not to score all of them twice"
    assert np.abs(np.subtract(started.scores[: len(started.parted)], started.parted)).max() <= 1e-5
    assert opened["warm_up_s"] > 0
    took = Turn(**turn)
    assert took.windows == 10 * took.batches
    assert took.positions == 64 * took.windows
    assert took.flops == pytest.approx(work.flops(np.full(took.windows, 64), layers=2, hidden=128))
    assert took.seconds >= 0.01


def test_a_scorer_that_fails_says_why() -> None:
    task = Task(scorer="nobody", size="tiny", device="cpu", threads=1, folder="/nowhere")
    with Child(task, module="nothing") as child, pytest.raises(IntentError, match=r"nobody ended with 1: .*nothing"):
        child.hear()


def test_what_a_score_owes_to_its_batch_is_seen_in_the_first_windows() -> None:
    ready = Ready(load_s=0, first_score_s=0, memory_mb=0, scores=[[0.1], [0.2], [0.3]], parted=[[0.1], [0.25]])
    assert Standings({"one": Place(ready)}, {}, {}).dependence("one") == pytest.approx(0.05)


def standings() -> Standings:
    def place(*rates: float, scores: list[list[float]], flops: float = 1e9) -> Place:
        turns = tuple(
            Turn(windows=round(rate), positions=round(20 * rate), batches=1, flops=flops, seconds=1.0, cpu_s=1.5)
            for rate in rates
        )
        parted = [[score + 0.001 * score for score in row] for row in scores]
        ready = Ready(load_s=0.1, first_score_s=2.0, memory_mb=50, scores=scores, parted=parted)
        return Place(ready, {CELL: Found(0.2, 60, turns)})

    return Standings(
        {
            "eager-fp32": place(100, 200, 100, scores=[[0.1, 0.2, 0.3]]),
            "packed-fp32": place(300, 500, 500, scores=[[0.1, 0.2, 0.3]]),
            "score-now-fp32": place(270, 450, 400, scores=[[0.1, 0.2, 0.3]]),
            "ort-int8": place(400, 400, 400, scores=[[0.1, 0.22, 0.3]]),
        },
        {"peak-fp32": [4e9, 6e9, 5e9], "peak-bf16": [1e10]},
        {},
    )


def test_what_is_concluded() -> None:
    found = standings()
    assert scorings.ratio(found, "packed-fp32", CELL) == 3.0  # of 3, 2.5 and 5, each within a round
    assert scorings.share(found, "packed-fp32", CELL) == pytest.approx(0.2)
    assert scorings.share(found, "ort-int8", CELL) is None
    assert scorings.whole_share(found, CELL, "fp32") == pytest.approx(0.9)
    assert scorings.whole_share(found, CELL, "bf16") is None
    assert found.difference("ort-int8") == pytest.approx(0.02)
    assert found.dependence("ort-int8") == pytest.approx(0.0003)
    assert scorings.memory_mb(found, "ort-int8") == 60
    assert scorings.cpu_us(found.places["ort-int8"].cells[CELL]) == [3750.0] * 3


def test_each_size_of_batch_is_told_also_one_that_is_left_out() -> None:
    found, large = standings(), contest.Cell("real", "16384t")
    found.left_out[str(large)] = "one batch would take some 23 s; smaller ones may do"
    assert scorings.line("base", found, CELL).endswith(
        ": packed-fp32 3.0x, score-now-fp32 2.7x, ort-int8 4.0x eager-fp32"
    )
    told = "base, real lengths, batches of 16384t: left out, one batch would take some 23 s; smaller ones may do"
    assert scorings.line("base", found, large) == told


def test_the_tables_say_it_and_the_plot_is_a_picture(tmp_path: Path) -> None:
    written = io.StringIO()
    console = Console(file=written, width=160)
    console.print(scorings.table("tiny", standings(), CELL))
    console.print(scorings.cost_table("tiny", standings()))
    assert "keeps 90% of its forward's rate (fp32)" in written.getvalue()
    assert "2.0e-02 │      3.0e-04" in written.getvalue()
    scorings.plot({"tiny": standings()}, tmp_path / "plot.png", title="made up")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    listed = orjson.loads(orjson.dumps(scorings.document(standings())))
    assert listed["scorers"]["packed-fp32"]["cells"]["real/32"]["ratio_to_eager_fp32"] == 3.0


@pytest.mark.parametrize("cut", ["0", "", "t", "-3", "3.5", "12x", "9999999999"])
def test_a_batch_that_is_no_size_is_refused(cut: str) -> None:
    with pytest.raises(SettingError, match="--batch is"):
        engine._check_batches([cut])


def test_a_scorer_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="accepted are packed-fp32"):
        engine._taking_part(["nobody"], device="cpu")


def test_without_a_compiler_inductor_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    names, left_out, _ = engine._taking_part(["compile-fp32"], device="cpu")
    assert names == [contest.REFERENCE]
    assert "no C++ compiler" in left_out["compile-fp32"]


@pytest.mark.parametrize(("flops_per_s", "side"), [(1e9, 256), (1e15, 2048)], ids=["slow", "fast"])
def test_the_peak_is_of_products_that_do_not_take_minutes(
    monkeypatch: pytest.MonkeyPatch, *, flops_per_s: float, side: int
) -> None:
    monkeypatch.setattr(Peak, "rate", lambda *_: flops_per_s)
    assert Peak(dtype=torch.float32, device=torch.device("cpu"))._left.shape == (side, side)
