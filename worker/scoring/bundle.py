"""A model as a folder: what is in it, how it is written, how it is verified and loaded. Nothing is ever unpickled.

==================== =====================================================================================
``config.json``      name, sizes, and the encoder's columns, which must be this code's
``bert/``            ``config.json`` and ``model.safetensors``: a plain ``BertModel`` that transformers loads
``head.safetensors`` event embeddings, context embeddings, fusion head
``vocabulary.json``  which hashes own an embedding row
``calibration.json`` slope and intercept of each horizon's logit
``reasons.json``     the surrogate behind the reason codes
``habits.safetensors`` optional: what is usual in the shop, behind the risk score
``card.md``          the model card
``percentiles.json`` optional: quantiles of the validation slice's scores, behind the percentiles
``metrics.json``     optional: its numbers, as `intent evaluate` found them, for `intent model promote`
``drift.json``       optional: what traffic looked like, which drift is measured against
``checksums.sha256`` SHA-256 of all of the above; ``sha256sum -c checksums.sha256`` checks them too
==================== =====================================================================================

A bundle's version is the hash of its checksums: two bundles with one version are the same model. Knows neither the
engine nor the training.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from worker.drift import reference as drift
from worker.drift.reference import Reference
from worker.errors import SettingError
from worker.events import KINDS
from worker.scores import HORIZONS, REASONS, RISK_REASONS
from worker.scores import Model as ModelName
from worker.scoring import aggregates, encode
from worker.scoring.batch import Floats, Hashes
from worker.scoring.habits import LEVELS, SYMBOLS, Chain, Habits
from worker.scoring.model import Head, IntentModel, Shape
from worker.scoring.percentile import Percentiles
from worker.scoring.reasons import Surrogate

FORMAT: Final = 2
"""Of what `save` writes. 2: a head of members; `load` reads 1 as well, whose heads are one."""
CHECKSUMS: Final = "checksums.sha256"
CARD: Final = "card.md"
SHIPPED: Final = Path(__file__).parent.parent / "bundles" / "shop-tiny"
"""The bundle that comes with the package; used where no other is set."""

_JSON_BYTES = 16 * 2**20
_TENSOR_BYTES = 4 * 2**30
FILES: Final = {
    "config.json": _JSON_BYTES,
    "bert/config.json": _JSON_BYTES,
    "bert/model.safetensors": _TENSOR_BYTES,
    "head.safetensors": _TENSOR_BYTES,
    "vocabulary.json": _JSON_BYTES,
    "calibration.json": _JSON_BYTES,
    "reasons.json": _JSON_BYTES,
    CARD: _JSON_BYTES,
}
"""The files and the most bytes that each may have."""

HABITS: Final = "habits.safetensors"
PERCENTILES: Final = "percentiles.json"
METRICS: Final = "metrics.json"
OPTIONAL: Final = {
    HABITS: 16 * 2**20,
    PERCENTILES: _JSON_BYTES,
    METRICS: _JSON_BYTES,
    drift.FILE: _JSON_BYTES,
}
"""Files that a bundle may lack and older workers pass over. One that is there is listed and checked like the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Platt's: probability = sigmoid(slope * logit + intercept), a horizon each. The slope is positive."""

    slopes: Floats
    intercepts: Floats

    def probabilities(self, logits: Floats) -> Floats:
        """[n, horizons] logits -> probabilities. A longer horizon is never less likely than a shorter one."""
        scaled = logits.astype(np.float64) * self.slopes + self.intercepts
        each = 1.0 / (1.0 + np.exp(-np.clip(scaled, -30.0, 30.0)))
        return np.maximum.accumulate(each, axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A loaded model with all that belongs to it."""

    name: str
    version: str
    shape: Shape
    vocabulary: encode.Vocabulary
    model: IntentModel
    calibration: Calibration
    surrogate: Surrogate
    card: str
    habits: Habits | None = None
    percentiles: Percentiles | None = None
    metrics: Mapping[str, Any] | None = None
    drift: Reference | None = None

    @property
    def label(self) -> ModelName:
        """What the scores name."""
        return ModelName(self.name, self.version)


def save(folder: Path, bundle: Bundle) -> str:
    """Writes the bundle's folder, replacing the files of one that is there. Returns the version it now has."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle.model.bert.config.architectures = ["BertModel"]
    vocabulary = bundle.vocabulary
    contents = {
        "config.json": _json({"format": FORMAT, "name": bundle.name, "shape": asdict(bundle.shape), **_encoder()}),
        "bert/config.json": bundle.model.bert.config.to_json_string().encode(),
        "bert/model.safetensors": _packed(bundle.model.bert),
        "head.safetensors": _packed(bundle.model.head),
        "vocabulary.json": _json(
            {
                "items": vocabulary.items.tolist(),
                "categories": vocabulary.categories.tolist(),
                "pages": vocabulary.pages.tolist(),
                "contexts": {name: hashes.tolist() for name, hashes in vocabulary.contexts.items()},
                "item_buckets": vocabulary.item_buckets,
                "page_buckets": vocabulary.page_buckets,
            }
        ),
        "calibration.json": _json(
            {"slopes": bundle.calibration.slopes.tolist(), "intercepts": bundle.calibration.intercepts.tolist()}
        ),
        "reasons.json": _json(
            {
                "weights": dict(zip(REASONS, bundle.surrogate.weights.tolist(), strict=True)),
                "intercept": bundle.surrogate.intercept,
                "r2": bundle.surrogate.r2,
            }
        ),
        CARD: bundle.card.encode(),
    }
    if bundle.habits is not None:
        contents[HABITS] = _habits_packed(bundle.habits)
    if bundle.percentiles is not None:
        rows = np.round(bundle.percentiles.quantiles.astype(np.float64), 7).tolist()
        contents[PERCENTILES] = _json({"quantiles": dict(zip(HORIZONS, rows, strict=True))}, indent=None)
    if bundle.metrics is not None:
        contents[METRICS] = _json(bundle.metrics)
    if bundle.drift is not None:
        contents[drift.FILE] = _json(bundle.drift.document())
    for name in OPTIONAL.keys() - contents.keys():
        (folder / name).unlink(missing_ok=True)
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return seal(folder)


def seal(folder: Path) -> str:
    """Writes the checksums of the files as they are; the version. For `save`, and after editing the card."""
    names = sorted([*FILES, *(name for name in OPTIONAL if (folder / name).exists())])
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines))
    return _version("".join(lines).encode())


def verify(folder: Path) -> tuple[str, dict[str, bytes]]:
    """(version, the files' bytes), each file read once and equal to its checksum; optional ones where they are listed.

    Raises `SettingError`, one sentence that names the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise SettingError(f"bundle {folder} is not a folder; set `model.bundle` to one that `intent train` wrote")
    listing = _read(folder, CHECKSUMS, _JSON_BYTES)
    expected = _checksums(folder, listing)
    contents = {}
    for name, limit in (FILES | OPTIONAL).items():
        if name not in expected:
            continue
        content = _read(folder, name, limit)
        if hashlib.sha256(content).hexdigest() != expected[name]:
            raise SettingError(f"bundle {folder}: {name} does not match {CHECKSUMS}; restore it or train it again")
        contents[name] = content
    return _version(listing), contents


def load(folder: Path | None = None) -> Bundle:
    """Verifies and loads a bundle onto the CPU, ready to score (dropout off); without a folder, the shipped one.

    Raises `SettingError`, one sentence that names the file and what is wrong with it.
    """
    folder = folder or SHIPPED
    version, contents = verify(folder)
    config = _parse(folder, "config.json", contents)
    if config.get("format") not in range(1, FORMAT + 1):
        raise SettingError(
            f"bundle {folder}: config.json has format {config.get('format')!r}; this version reads 1 to {FORMAT}"
        )
    for field, ours in _encoder().items():
        if config.get(field) != ours:
            raise SettingError(
                f"bundle {folder}: config.json's `{field}` are not this version's; train the bundle again with it"
            )
    name = "config.json"
    try:
        shape = Shape(**config["shape"])
        label = str(config["name"])
        name = "vocabulary.json"
        vocabulary = _vocabulary(_parse(folder, name, contents))
        name = "calibration.json"
        calibration = _calibration(_parse(folder, name, contents))
        name = "reasons.json"
        surrogate = _surrogate(_parse(folder, name, contents))
        name = HABITS
        habits = _habits(contents[name]) if name in contents else None
        name = PERCENTILES
        percentiles = _percentiles(_parse(folder, name, contents)) if name in contents else None
        name = "bert/config.json"
        bert_config = BertConfig.from_dict(_parse(folder, name, contents))
        _check_sizes(bert_config, shape)
        name = "bert/model.safetensors"
        bert = BertModel(bert_config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        bert.load_state_dict(_tensors(contents[name]), strict=True)
        name = "head.safetensors"
        head = Head(shape, event_rows=vocabulary.rows, context_rows=vocabulary.context_sizes())
        tensors = _tensors(contents[name])
        head.load_state_dict(tensors if config["format"] > 1 else _members(tensors), strict=True)
        name = drift.FILE
        reference = Reference.parse(_parse(folder, name, contents)) if name in contents else None
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingError(f"bundle {folder}: {name} does not hold what it should: {reason}") from error
    return Bundle(
        name=label,
        version=version,
        shape=shape,
        vocabulary=vocabulary,
        model=IntentModel(bert, head).eval(),
        calibration=calibration,
        surrogate=surrogate,
        card=contents[CARD].decode(errors="replace"),
        habits=habits,
        percentiles=percentiles,
        metrics=_parse(folder, METRICS, contents) if METRICS in contents else None,
        drift=reference,
    )


def _encoder() -> dict[str, list[str]]:
    """The columns a model was trained on: order and meaning. They must be the code's own."""
    return {
        "horizons": list(HORIZONS),
        "event_types": list(KINDS),
        "fields": list(encode.FIELDS),
        "context": list(encode.CONTEXT),
        "aggregates": list(aggregates.NAMES),
    }


def _vocabulary(parsed: Mapping[str, Any]) -> encode.Vocabulary:
    def hashes(values: list[int]) -> Hashes:
        array = np.array(values, np.uint32)
        if array.ndim != 1 or (np.diff(array.astype(np.int64)) <= 0).any():
            raise ValueError("hashes must ascend")
        return array

    buckets = {name: int(parsed[name]) for name in ("item_buckets", "page_buckets")}
    if not all(1 <= count <= 1 << 20 for count in buckets.values()):
        raise ValueError(f"{buckets} are not between 1 and {1 << 20}")
    return encode.Vocabulary(
        items=hashes(parsed["items"]),
        categories=hashes(parsed["categories"]),
        pages=hashes(parsed["pages"]),
        contexts={name: hashes(parsed["contexts"][name]) for name in encode.CONTEXT},
        **buckets,
    )


def _calibration(parsed: Mapping[str, Any]) -> Calibration:
    slopes = np.array(parsed["slopes"], np.float32)
    intercepts = np.array(parsed["intercepts"], np.float32)
    if slopes.shape != (len(HORIZONS),) or intercepts.shape != slopes.shape:
        raise ValueError(f"a slope and an intercept for each of {', '.join(HORIZONS)} are wanted")
    if not (np.isfinite(slopes).all() and np.isfinite(intercepts).all() and (slopes > 0).all()):
        raise ValueError("slopes must be positive and all numbers finite")
    return Calibration(slopes=slopes, intercepts=intercepts)


def _percentiles(parsed: Mapping[str, Any]) -> Percentiles:
    return Percentiles(np.array([parsed["quantiles"][horizon] for horizon in HORIZONS], np.float32))


def _surrogate(parsed: Mapping[str, Any]) -> Surrogate:
    """Codes that a newer version has appended weigh nothing in an older bundle."""
    weights = np.array([parsed["weights"].get(code, 0.0) for code in REASONS], np.float32)
    if not np.isfinite(weights).all():
        raise ValueError("weights must be finite")
    return Surrogate(weights=weights, intercept=float(parsed["intercept"]), r2=float(parsed["r2"]))


def _habits(content: bytes) -> Habits:
    """Sizes and order are checked: a loop without bounds reads these tables."""
    arrays = {name: tensor.numpy() for name, tensor in _tensors(content).items()}
    made = Habits(
        chain=Chain(*(arrays[name] for name in Chain._fields)), levels=arrays["levels"], joined=arrays["joined"]
    )
    wanted = [(SYMBOLS, SYMBOLS), (SYMBOLS,), (SYMBOLS,), (len(RISK_REASONS), LEVELS), (LEVELS,)]
    found = [*made.chain, made.levels, made.joined]
    if [part.shape for part in found] != wanted or any(part.dtype != np.float32 for part in found):
        raise ValueError(f"tables of the sizes {wanted} in float32 are wanted")
    if (np.diff(made.levels) < 0).any() or (np.diff(made.joined) < 0).any():
        raise ValueError("levels must ascend")
    return made


def _habits_packed(habits: Habits) -> bytes:
    arrays = {**habits.chain._asdict(), "levels": habits.levels, "joined": habits.joined}
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _check_sizes(config: BertConfig, shape: Shape) -> None:
    """Bounds, so that a damaged config cannot ask for all the memory; and one size throughout."""
    if not (1 <= config.num_hidden_layers <= 48 and 1 <= config.hidden_size <= 4096 and config.vocab_size <= 1 << 20):
        raise ValueError("at most 48 layers of 4096 are accepted")
    if config.intermediate_size > 8 * config.hidden_size or config.hidden_size != shape.hidden:
        raise ValueError(f"hidden size {config.hidden_size} and its layers do not fit config.json's {shape.hidden}")
    if not encode.MAX_POSITIONS <= config.max_position_embeddings <= 1 << 16:
        raise ValueError(f"{config.max_position_embeddings} positions; a full window needs {encode.MAX_POSITIONS}")


def _packed(module: nn.Module) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})  # transformers asks for the format


def _members(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head of format 1, which was plain layers, as an ensemble of one."""
    renamed = dict(tensors)
    for old, new in (("side.0", "read"), ("side.3", "digest"), ("out.1", "join"), ("out.4", "answer")):
        renamed[f"fusion.{new}.weight"] = renamed.pop(f"{old}.weight").T[None]
        renamed[f"fusion.{new}.bias"] = renamed.pop(f"{old}.bias")[None]
    return renamed


def _tensors(content: bytes) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = safetensors.torch.load(content)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"tensor {name} holds numbers that are not finite")
    return tensors


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SettingError(f"bundle {folder}: {name} cannot be read ({error.strerror})") from None
    if len(content) > limit:
        raise SettingError(f"bundle {folder}: {name} is larger than the {limit} bytes that are accepted")
    return content


def _parse(folder: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        parsed = json.loads(contents[name])
    except (ValueError, RecursionError) as error:
        raise SettingError(f"bundle {folder}: {name} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise SettingError(f"bundle {folder}: {name} is not a JSON object")
    return parsed


def _checksums(folder: Path, listing: bytes) -> dict[str, str]:
    lines = [line.split("  ", 1) for line in listing.decode(errors="replace").splitlines()]
    expected = {line[1]: line[0] for line in lines if len(line) == 2}
    missing = [name for name in FILES if name not in expected]
    if missing:
        raise SettingError(
            f"bundle {folder}: {CHECKSUMS} does not name {missing[0]}; restore it or train the bundle again"
        )
    return expected


def _version(listing: bytes) -> str:
    return hashlib.sha256(listing).hexdigest()[:12]


def _json(value: Mapping[str, Any], *, indent: int | None = 1) -> bytes:
    return json.dumps(value, indent=indent).encode() + b"\n"
