"""A bundle comes back as it went, and one that was touched is refused in a sentence that names the file."""

import json
import math
import os
import pickle
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from errno import ENOSPC
from os import strerror
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertModel

from tests.unit.scoring import making
from worker.drift.reference import Feature, Reference
from worker.errors import SettingError
from worker.registry import compare
from worker.scores import HORIZONS
from worker.scoring import bundle as bundles
from worker.scoring import encode, forward
from worker.scoring.batch import Batch
from worker.scoring.bundle import FILES, METRICS, OPTIONAL, PERCENTILES, SHIPPED, Bundle
from worker.scoring.calibration import Calibration
from worker.scoring.model import weights
from worker.scoring.percentile import Percentiles
from worker.training import habits

CPU = torch.device("cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "bundle"))


def logits(bundle: Bundle, windows: list[bytes]) -> np.ndarray:
    return forward.logits(bundle.weights, bundle.vocabulary, Batch.of(windows), device=CPU)


def test_it_comes_back_as_it_went(bundle: Bundle) -> None:
    windows = making.random_windows(20, seed=31)
    made = making.bundle()
    assert np.array_equal(logits(made, windows), logits(bundle, windows))
    assert (bundle.name, bundle.card, bundle.shape) == (made.name, made.card, made.shape)
    assert bundle.calibration.slopes.tolist() == made.calibration.slopes.tolist()
    assert bundle.surrogate.weights.tolist() == pytest.approx(made.surrogate.weights.tolist())


def test_the_version_is_the_content(folder: Path, copy: Path) -> None:
    assert bundles.load(folder).version == bundles.load(copy).version
    (copy / "card.md").write_text("# another card\n")
    assert bundles.seal(copy) == bundles.load(copy).version != bundles.load(folder).version


@pytest.mark.parametrize("at", [0, 4, 7])
def test_one_that_is_not_written_to_the_end_leaves_the_former(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    former, changed = bundles.load(copy), replace(making.bundle(), card="# another card")
    written: list[Path] = []

    def write(path: Path, content: bytes) -> int:
        written.append(path)
        with path.open("wb") as file:
            if len(written) > at:
                file.write(content[:100])
                raise OSError(ENOSPC, strerror(ENOSPC), str(path))
            return file.write(content)

    monkeypatch.setattr(Path, "write_bytes", write)
    for folder in (copy, tmp_path / "new"):
        written.clear()
        with pytest.raises(OSError, match="No space left"):
            bundles.save(folder, changed)
    assert bundles.load(copy).version == former.version
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def test_its_bert_is_a_plain_one_that_transformers_loads(folder: Path, bundle: Bundle) -> None:
    """And fed with our embeddings, position 0's output is what the head gets."""
    plain = BertModel.from_pretrained(folder / "bert")
    batch = Batch.of(making.random_windows(10, seed=32))
    tokens = torch.from_numpy(encode.padded(batch, encode.tokens(batch, bundle.vocabulary), np.arange(len(batch))))
    with torch.inference_mode():
        inputs, mask = bundle.model.head.positions(tokens)
        theirs = plain(inputs_embeds=inputs, attention_mask=mask).pooler_output
        ours = bundle.model.bert(inputs_embeds=inputs, attention_mask=mask).pooler_output
    assert torch.equal(theirs, ours)


def test_sha256sum_checks_it_too(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", bundles.CHECKSUMS], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FILES)
def test_a_touched_file_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(SettingError, match=rf"{name} does not match checksums\.sha256"):
        bundles.load(copy)


@pytest.mark.parametrize("name", [*FILES, bundles.CHECKSUMS])
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(SettingError, match=rf"{name} cannot be read .*; restore it, or name .* `intent train` wrote$"):
        bundles.load(copy)


def with_options(folder: Path) -> tuple[Bundle, Path]:
    """One that has all that a bundle may have, and its folder."""
    rng = np.random.default_rng(5)
    percentiles = Percentiles.fit(rng.random((500, 3), np.float32), np.ones((500, 3), np.bool_))
    batches = [Batch.of(making.random_windows(60, seed=61))]
    gaps = Feature(name="gap_ms", edges=np.array([5.0, 50.0]), counts=np.array([3, 4, 5]), effect=1.5)
    made = replace(
        making.bundle(),
        habits=habits.learn(batches, batches),
        percentiles=percentiles,
        metrics={"slice": "validation", "lines": []},
        drift=Reference(about="here", windows=12, visitors=7, features=(gaps,)),
        recipe={"windows": 5},
    )
    bundles.save(folder, made)
    return made, folder


@pytest.mark.parametrize("refitted", [False, True])
def test_whether_it_was_refitted_comes_back(tmp_path: Path, refitted: bool) -> None:
    bundles.save(tmp_path, replace(making.bundle(), refitted=refitted))
    assert bundles.load(tmp_path).refitted is refitted


def test_what_is_optional_comes_back_too(tmp_path: Path) -> None:
    made, folder = with_options(tmp_path / "bundle")
    back = bundles.load(folder)
    assert made.percentiles is not None
    assert back.percentiles is not None
    assert back.percentiles.quantiles == pytest.approx(made.percentiles.quantiles, abs=1e-7)
    assert (back.metrics, back.recipe) == (made.metrics, made.recipe)
    assert back.habits is not None
    assert back.drift is not None
    assert made.drift is not None
    assert back.drift.document() == made.drift.document()
    assert {*bundles.verify(folder)[1]} == {*FILES, *OPTIONAL}


def test_a_bundle_without_it_loads_and_ranks_nothing(bundle: Bundle, tmp_path: Path) -> None:
    assert (bundle.percentiles, bundle.metrics) == (None, None)
    _, folder = with_options(tmp_path / "bundle")
    plain = bundles.save(folder, making.bundle())  # over one that has it
    assert (plain, bundles.load(folder).percentiles) == (bundle.version, None)


def test_an_older_worker_loads_a_bundle_with_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = with_options(tmp_path / "bundle")
    version = bundles.load(folder).version
    monkeypatch.setattr(bundles, "OPTIONAL", {})
    older = bundles.load(folder)
    assert (older.version, older.percentiles) == (version, None)


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_file_that_is_listed_is_checked(tmp_path: Path, name: str) -> None:
    _, folder = with_options(tmp_path / "bundle")
    (folder / name).write_text("{}")
    with pytest.raises(SettingError, match=rf"{name} does not match checksums\.sha256"):
        bundles.load(folder)
    (folder / name).unlink()
    with pytest.raises(SettingError, match=f"{name} cannot be read"):
        bundles.load(folder)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({}, id="no quantiles"),
        pytest.param({"quantiles": {"purchase_24h": [0, 1]}}, id="a horizon alone"),
        pytest.param({"quantiles": {name: [0.5, 0.4] for name in HORIZONS}}, id="descending"),
        pytest.param({"quantiles": {name: [0.5] for name in HORIZONS}}, id="one quantile"),
        pytest.param({"quantiles": {name: [0.5, 50] for name in HORIZONS}}, id="no probabilities"),
        pytest.param({"quantiles": {name: [0.5, None] for name in HORIZONS}}, id="no numbers"),
        pytest.param({"quantiles": {name: [0, float("nan"), 1] for name in HORIZONS}}, id="not a number"),
    ],
)
def test_wrong_percentiles_are_refused_even_with_right_checksums(tmp_path: Path, content: object) -> None:
    _, folder = with_options(tmp_path / "bundle")
    (folder / PERCENTILES).write_text(json.dumps(content))
    bundles.seal(folder)
    with pytest.raises(SettingError, match=PERCENTILES):
        bundles.load(folder)


def test_the_registry_reads_the_numbers_under_the_name_that_a_bundle_gives_them() -> None:
    assert METRICS == compare.FILE


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


def retype(name: str, tensor: str, value: float) -> Callable[[Path], None]:
    """Makes it float64 and sets its last number."""

    def apply(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / name)
        tensors[tensor] = tensors[tensor].double()
        tensors[tensor].view(-1)[-1] = value
        safetensors.torch.save_file(tensors, folder / name)

    return apply


class Evil:
    """Unpickling it ends the test run."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def poison(name: str) -> Callable[[Path], object]:
    """A pickle where weights are expected."""
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        pytest.param(edit("config.json", lambda value: value.update(format=9)), "format 9", id="another format"),
        pytest.param(
            edit("config.json", lambda value: value.update(fields=["kind"])), "`fields`", id="another encoder"
        ),
        pytest.param(
            edit("config.json", lambda value: value["context"].reverse()), "a context of channel", id="another context"
        ),
        pytest.param(
            edit("config.json", lambda value: value["context"].pop()), "a context of channel", id="part of a context"
        ),
        pytest.param(
            edit("vocabulary.json", lambda value: value["contexts"].pop("newest_page")), "newest_page", id="no words"
        ),
        pytest.param(
            edit("config.json", lambda value: value.update(name="[/x]\n")), "is no model name", id="marks for a name"
        ),
        pytest.param(edit("config.json", lambda value: value.update(name=None)), "is no model name", id="no name"),
        pytest.param(edit("config.json", lambda value: value.pop("shape")), "config.json", id="no shape"),
        pytest.param(
            edit("config.json", lambda value: value["shape"].update(members=10**9)), "members is", id="too many members"
        ),
        pytest.param(
            edit("config.json", lambda value: value["shape"].update(head_dropout=math.nan)),
            "head_dropout is nan",
            id="a share that is no number",
        ),
        pytest.param(
            edit("vocabulary.json", lambda value: value.update(items=[3, 2, 1])), "vocabulary.json", id="not sorted"
        ),
        pytest.param(
            edit("vocabulary.json", lambda value: value.update(items=[-1])), "vocabulary.json", id="not a hash"
        ),
        pytest.param(
            edit("vocabulary.json", lambda value: value.update(item_buckets=10**9)), "vocabulary.json", id="huge"
        ),
        pytest.param(
            edit("vocabulary.json", lambda value: value.update(pages=[])), "head.safetensors", id="rows differ"
        ),
        pytest.param(
            edit("calibration.json", lambda value: value.update(slopes=[1, -1, 1])), "calibration.json", id="turned"
        ),
        pytest.param(edit("reasons.json", lambda value: value.pop("weights")), "reasons.json", id="no weights"),
        pytest.param(
            edit("reasons.json", lambda value: value.update(weights=[])), "reasons.json", id="a list of weights"
        ),
        pytest.param(edit("reasons.json", lambda value: value.update(r2=math.nan)), "reasons.json", id="no number"),
        pytest.param(
            retype("head.safetensors", "events.weight", 1e39), "tensor events.weight holds", id="too large for float32"
        ),
        pytest.param(
            retype("bert/model.safetensors", "pooler.dense.bias", 1e39),
            "tensor pooler.dense.bias holds",
            id="too large for float32 in the bert",
        ),
        pytest.param(
            retype("head.safetensors", "deviations", 0.0), "head.safetensors does not hold", id="a deviation of 0"
        ),
        pytest.param(
            edit("bert/config.json", lambda value: value.update(hidden_size=10**6)), "bert/config.json", id="too large"
        ),
        pytest.param(
            edit("bert/config.json", lambda value: value.update(max_position_embeddings=8)),
            "bert/config.json",
            id="too few positions",
        ),
        pytest.param(
            edit("bert/config.json", lambda value: value.update(hidden_act="relu")), "hidden_act", id="another bert"
        ),
        pytest.param(
            edit("bert/config.json", lambda value: value.update(num_hidden_layers=3)),
            "bert/model.safetensors does not hold what it should: tensor encoder.layer.2.",
            id="a layer too few",
        ),
        pytest.param(poison("head.safetensors"), "head.safetensors", id="a pickle for the head"),
        pytest.param(poison("bert/model.safetensors"), "bert/model.safetensors", id="a pickle for the bert"),
        pytest.param(lambda folder: (folder / "reasons.json").write_text("[]"), "reasons.json", id="no object"),
        pytest.param(lambda folder: (folder / "reasons.json").write_text("{"), "reasons.json", id="no json"),
    ],
)
def test_a_wrong_file_is_refused_even_with_right_checksums(
    copy: Path, change: Callable[[Path], object], names: str
) -> None:
    change(copy)
    bundles.seal(copy)
    with pytest.raises(SettingError) as refused:
        bundles.load(copy)
    assert names in str(refused.value)
    assert "\n" not in str(refused.value)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Sees the largest tensor that takes memory."""

    size = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], _: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        made = func(*args, **kwargs or {})
        if isinstance(made, torch.Tensor) and made.device.type != "meta":
            self.size = max(self.size, made.nbytes)
        return made


def test_sizes_that_are_not_those_of_the_file_take_no_memory(copy: Path) -> None:
    edit("config.json", lambda value: value["shape"].update(members=16, head_width=1024))(copy)
    bundles.seal(copy)
    largest = Largest()  # type: ignore[no-untyped-call]  # likewise
    with largest, pytest.raises(SettingError, match=r"head\.safetensors .*tensor fusion\..* is wanted"):
        bundles.load(copy)
    assert 0 < largest.size <= (copy / "head.safetensors").stat().st_size


def test_an_older_worker_refuses_a_newer_format_in_one_sentence(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "FORMAT", 3)
    with pytest.raises(SettingError, match=r"config\.json has format 4; this version reads 1 to 3$"):
        bundles.load(copy)


def test_a_file_past_its_bound_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "card.md", 3)
    with pytest.raises(SettingError, match=r"card\.md is larger than the 3 bytes"):
        bundles.load(copy)


def test_a_bundle_takes_the_memory_of_what_is_in_it_and_not_of_what_is_accepted(copy: Path) -> None:
    size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
    tracemalloc.start()
    try:
        bundles.verify(copy)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * size


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere is not a folder; name one .* `model\.bundle`"):
        bundles.load(tmp_path / "nowhere")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / bundles.CHECKSUMS)
    with pytest.raises(SettingError, match=rf"{bundles.CHECKSUMS} is no file"):
        bundles.load(tmp_path)


def test_a_longer_horizon_is_never_less_likely() -> None:
    calibration = Calibration(slopes=np.ones(3, np.float32), intercepts=np.zeros(3, np.float32))
    p = calibration.probabilities(np.array([[1.0, 0.0, 2.0], [-90.0, 90.0, -90.0]], np.float32))
    assert (np.diff(p, axis=1) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert p[0, 0] == p[0, 1] == pytest.approx(0.7311, abs=1e-4)


def test_the_shipped_bundle_loads_is_small_and_carries_a_card() -> None:
    shipped = bundles.load()
    assert shipped.name == SHIPPED.name
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 5 * 2**20
    for word in ("Data", "Limits", "intent train", "ROC-AUC"):
        assert word in shipped.card
    out = logits(shipped, making.random_windows(10, seed=33))  # of items and pages it has never seen
    assert np.isfinite(out).all()


def test_written_again_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """Whether or not its BERT was made into a module in between."""
    shipped = bundles.load()
    assert bundles.save(tmp_path / "plain", shipped) == shipped.version
    remade = replace(shipped, weights=weights(shipped.model))
    assert bundles.save(tmp_path / "remade", remade) == shipped.version
