"""A bundle's parts as its files hold them, and back. What comes from a file is checked here, sizes included.

Each function that reads raises `LookupError`, `TypeError`, `ValueError` or `SafetensorError` for what is not a part of
its kind. Knows neither folders nor checksums.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worker.scores import HORIZONS, REASONS, RISK_REASONS
from worker.scoring import encode
from worker.scoring.batch import Hashes
from worker.scoring.calibration import Calibration
from worker.scoring.habits import LEVELS, SYMBOLS, Chain, Habits
from worker.scoring.head import Head, Shape
from worker.scoring.percentile import Percentiles
from worker.scoring.reasons import Surrogate
from worker.scoring.weights import Sizes
from worker.settings import MODEL_NAME


def read_name(name: object) -> str:
    """A model's, as stores accept it: it stands in every score, in metrics and in what commands say."""
    if not isinstance(name, str) or not re.fullmatch(MODEL_NAME, name):
        raise ValueError(f"{name!r} is no model name; accepted are letters, digits, `.`, `_` and `-`, at most 100")
    return name


def read_columns(names: object) -> tuple[str, ...]:
    """Those of the context that a bundle has: the session's, or the newest event's too."""
    for columns in (encode.CONTEXT, encode.COLUMNS):
        if names == list(columns):
            return columns
    raise ValueError(f"a context of {', '.join(encode.COLUMNS)} is wanted, or of the first {len(encode.CONTEXT)}")


def read_vocabulary(parsed: Mapping[str, Any], columns: Iterable[str]) -> encode.Vocabulary:
    """Hashes that own an embedding row, the tail's shared rows, and what each of the context's columns knows."""

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
        contexts={name: hashes(parsed["contexts"][name]) for name in columns},
        **buckets,
    )


def write_vocabulary(vocabulary: encode.Vocabulary) -> dict[str, Any]:
    """What `read_vocabulary` takes."""
    return {
        "items": vocabulary.items.tolist(),
        "categories": vocabulary.categories.tolist(),
        "pages": vocabulary.pages.tolist(),
        "contexts": {name: hashes.tolist() for name, hashes in vocabulary.contexts.items()},
        "item_buckets": vocabulary.item_buckets,
        "page_buckets": vocabulary.page_buckets,
    }


def read_calibration(parsed: Mapping[str, Any]) -> Calibration:
    """A slope above 0 and an intercept a horizon."""
    slopes = np.array(parsed["slopes"], np.float32)
    intercepts = np.array(parsed["intercepts"], np.float32)
    if slopes.shape != (len(HORIZONS),) or intercepts.shape != slopes.shape:
        raise ValueError(f"a slope and an intercept for each of {', '.join(HORIZONS)} are wanted")
    if not (np.isfinite(slopes).all() and np.isfinite(intercepts).all() and (slopes > 0).all()):
        raise ValueError("slopes must be positive and all numbers finite")
    return Calibration(slopes=slopes, intercepts=intercepts)


def write_calibration(calibration: Calibration) -> dict[str, Any]:
    """What `read_calibration` takes."""
    return {"slopes": calibration.slopes.tolist(), "intercepts": calibration.intercepts.tolist()}


def read_percentiles(parsed: Mapping[str, Any]) -> Percentiles:
    """Quantiles a horizon."""
    return Percentiles(np.array([parsed["quantiles"][horizon] for horizon in HORIZONS], np.float32))


def write_percentiles(percentiles: Percentiles) -> dict[str, Any]:
    """What `read_percentiles` takes, rounded to what a score tells."""
    rows = np.round(percentiles.quantiles.astype(np.float64), 7).tolist()
    return {"quantiles": dict(zip(HORIZONS, rows, strict=True))}


def read_surrogate(parsed: Mapping[str, Any]) -> Surrogate:
    """Codes that a newer version has appended weigh nothing in an older bundle."""
    known = parsed["weights"]
    if not isinstance(known, dict):
        raise TypeError("a weight by code is wanted")
    weights = np.array([known.get(code, 0.0) for code in REASONS], np.float32)
    found = Surrogate(weights=weights, intercept=float(parsed["intercept"]), r2=float(parsed["r2"]))
    if not np.isfinite([*weights, found.intercept, found.r2]).all():
        raise ValueError("all numbers must be finite")
    return found


def write_surrogate(surrogate: Surrogate) -> dict[str, Any]:
    """What `read_surrogate` takes."""
    weights = dict(zip(REASONS, surrogate.weights.tolist(), strict=True))
    return {"weights": weights, "intercept": surrogate.intercept, "r2": surrogate.r2}


def read_habits(content: bytes) -> Habits:
    """Sizes and order are checked: a loop without bounds reads these tables."""
    arrays = {name: tensor.numpy() for name, tensor in read_tensors(content).items()}
    made = Habits(
        chain=Chain(*(arrays[name] for name in Chain._fields)), levels=arrays["levels"], joined=arrays["joined"]
    )
    wanted = [(SYMBOLS, SYMBOLS), (SYMBOLS,), (SYMBOLS,), (len(RISK_REASONS), LEVELS), (LEVELS,)]
    found = [*made.chain, made.levels, made.joined]
    if [part.shape for part in found] != wanted:
        raise ValueError(f"tables of the sizes {wanted} are wanted")
    if (np.diff(made.levels) < 0).any() or (np.diff(made.joined) < 0).any():
        raise ValueError("levels must ascend")
    return made


def write_habits(habits: Habits) -> bytes:
    """What `read_habits` takes."""
    arrays = {**habits.chain._asdict(), "levels": habits.levels, "joined": habits.joined}
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def read_shape(parsed: Mapping[str, Any]) -> Shape:
    """The head's sizes are bounded here; the BERT's by `Sizes.of`."""
    shape = Shape(**parsed)
    bounds = {"members": (1, 64), "aside": (0, 64), "head_width": (1, 4096), "context_width": (1, 256)}
    for name, (least, most) in (bounds | dict.fromkeys(("dropout", "head_dropout"), (0, 1))).items():
        if not least <= getattr(shape, name) <= most:
            raise ValueError(f"{name} is {getattr(shape, name)}; {least} to {most} are accepted")
    return shape


def read_sizes(config: Mapping[str, Any], shape: Shape) -> Sizes:
    """Of a plain BERT that fits a head of this shape."""
    sizes = Sizes.of(config)
    if sizes.hidden_size != shape.hidden:
        raise ValueError(f"hidden_size is {sizes.hidden_size}; config.json says {shape.hidden}")
    return sizes


def read_bert(content: bytes, sizes: Sizes) -> dict[str, Tensor]:
    """The tensors of a plain BERT of these sizes, none missing and none beside them, in float32."""
    tensors, wanted = read_tensors(content), sizes.tensors()
    _check(tensors, wanted, "BERT")
    return {name: tensors[name] for name in wanted}


def read_head(content: bytes, shape: Shape, vocabulary: encode.Vocabulary, *, alone: bool) -> Head:
    """A head of this shape over this vocabulary, on the CPU. `alone`: of format 1."""
    tensors = one_member(read_tensors(content)) if alone else read_tensors(content)
    made = partial(Head, shape, event_rows=vocabulary.rows, context_rows=vocabulary.context_sizes())
    with torch.device("meta"), _Unfilled():  # takes no memory: the sizes may be anybody's
        _check(tensors, {name: tuple(tensor.shape) for name, tensor in made().state_dict().items()}, "head")
    if not bool((tensors["deviations"] > 0).all()):
        raise ValueError("deviations must be positive")
    head = made()
    head.load_state_dict(tensors)
    return head


class _Unfilled(TorchFunctionMode):
    """Tables are made and not filled: to draw nothing on the meta device, torch imports its compiler, for 1.5 s."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, unless it would fill a table."""
        if function is torch.nn.init.normal_:
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def write_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """What `read_tensors` takes, in the format that transformers asks for."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(kept, metadata={"format": "pt"})


def one_member(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head of format 1, which was plain layers, as an ensemble of one."""
    renamed = dict(tensors)
    for old, new in (("side.0", "read"), ("side.3", "digest"), ("out.1", "join"), ("out.4", "answer")):
        renamed[f"fusion.{new}.weight"] = renamed.pop(f"{old}.weight").T[None]
        renamed[f"fusion.{new}.bias"] = renamed.pop(f"{old}.bias")[None]
    return renamed


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Safetensors in float32, finite throughout."""
    tensors = {name: tensor.float() for name, tensor in safetensors.torch.load(content).items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"tensor {name} holds numbers that are not finite in float32")
    return tensors


def _check(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"tensor {name} is {'missing' if name in wanted else f'none of a {what} of these sizes'}")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"tensor {name} is {list(tensors[name].shape)}; {list(shape)} is wanted")
