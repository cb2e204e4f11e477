"""A model as a folder: what is in it, how it is written, how it is verified and loaded. Nothing is ever unpickled.

==================== =====================================================================================
``config.json``      name, sizes, and the encoder's columns, which must be this code's; the context's may be fewer
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
``recipe.json``      optional: how it was trained, for `intent train --again`
``checksums.sha256`` SHA-256 of all of the above; ``sha256sum -c checksums.sha256`` checks them too
==================== =====================================================================================

A bundle's version is the hash of its checksums: two bundles with one version are the same model. Knows neither the
engine nor the training.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import safetensors
import safetensors.numpy
import safetensors.torch

from worker.drift import reference as drift
from worker.drift import values
from worker.drift.reference import Reference
from worker.errors import SettingError
from worker.events import KINDS
from worker.scores import HORIZONS
from worker.scores import Model as ModelName
from worker.scoring import aggregates, codecs, encode
from worker.scoring.calibration import Calibration
from worker.scoring.habits import Habits
from worker.scoring.head import Shape
from worker.scoring.percentile import Percentiles
from worker.scoring.reasons import Surrogate
from worker.scoring.weights import Weights
from worker.whole import written

if TYPE_CHECKING:
    from worker.scoring.model import IntentModel

FORMAT: Final = 4
"""Of what `save` writes. 4: the context may name the newest event's page and category; 3: members may have a context
of their own; 2: a head of members; 1: a head of one. `load` reads them all.
"""
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
RECIPE: Final = "recipe.json"
OPTIONAL: Final = {
    HABITS: 16 * 2**20,
    PERCENTILES: _JSON_BYTES,
    METRICS: _JSON_BYTES,
    drift.FILE: _JSON_BYTES,
    RECIPE: _JSON_BYTES,
}
"""Files that a bundle may lack and older workers pass over. One that is there is listed and checked like the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A loaded model with all that belongs to it."""

    name: str
    version: str
    shape: Shape
    vocabulary: encode.Vocabulary
    weights: Weights
    calibration: Calibration
    surrogate: Surrogate
    card: str
    habits: Habits | None = None
    percentiles: Percentiles | None = None
    metrics: Mapping[str, Any] | None = None
    drift: Reference | None = None
    recipe: Mapping[str, Any] | None = None
    """As `training.recipe` has it."""
    refitted: bool = False
    """Whether the weights learnt from the validation slice too, but for the visitors on whom it was calibrated."""

    @property
    def label(self) -> ModelName:
        """What the scores name."""
        return ModelName(self.name, self.version)

    @property
    def model(self) -> "IntentModel":
        """As a module, made when it is first asked for: takes seconds, and nothing that serves needs it."""
        return self.weights.model


def save(folder: Path, bundle: Bundle) -> str:
    """Writes the bundle's folder, replacing the files of one that is there. Returns the version it now has.

    Whoever fails, or is killed, while it writes leaves the former; in between, the checksums, which come last, do not
    match, and it is refused.
    """
    contents = {
        "config.json": _json(
            {
                "format": FORMAT,
                "name": bundle.name,
                "shape": asdict(bundle.shape),
                **_encoder(),
                "context": list(bundle.vocabulary.columns),
                "refitted": bundle.refitted,
            }
        ),
        "bert/config.json": _json(bundle.weights.config, indent=2),
        "bert/model.safetensors": codecs.write_tensors(bundle.weights.bert),
        "head.safetensors": codecs.write_tensors(bundle.weights.head.state_dict()),
        "vocabulary.json": _json(codecs.write_vocabulary(bundle.vocabulary)),
        "calibration.json": _json(codecs.write_calibration(bundle.calibration)),
        "reasons.json": _json(codecs.write_surrogate(bundle.surrogate)),
        CARD: bundle.card.encode(),
    }
    if bundle.habits is not None:
        contents[HABITS] = codecs.write_habits(bundle.habits)
    if bundle.percentiles is not None:
        contents[PERCENTILES] = _json(codecs.write_percentiles(bundle.percentiles), indent=None)
    if bundle.metrics is not None:
        contents[METRICS] = _json(bundle.metrics)
    if bundle.drift is not None:
        contents[drift.FILE] = _json(bundle.drift.document())
    if bundle.recipe is not None:
        contents[RECIPE] = _json(bundle.recipe)
    listing = _listing(contents)
    with ExitStack() as files:  # moved into place once all are written, the last one first
        for name, content in {CHECKSUMS: listing, **contents}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.enter_context(written(path)).write_bytes(content)
    for name in OPTIONAL.keys() - contents.keys():
        (folder / name).unlink(missing_ok=True)
    return _version(listing)


def seal(folder: Path) -> str:
    """Writes the checksums of the files as they are; the version. For after editing the card."""
    names = [*FILES, *(name for name in OPTIONAL if (folder / name).exists())]
    listing = _listing({name: (folder / name).read_bytes() for name in names})
    (folder / CHECKSUMS).write_bytes(listing)
    return _version(listing)


def verify(folder: Path) -> tuple[str, dict[str, bytes]]:
    """(version, the files' bytes), each file read once and equal to its checksum; optional ones where they are listed.

    Raises `SettingError`, one sentence that names the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise SettingError(
            f"bundle {folder} is not a folder; name one that `intent train` wrote (a worker's: `model.bundle`)"
        )
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
        shape = codecs.read_shape(config["shape"])
        label = codecs.read_name(config["name"])
        columns = codecs.read_columns(config["context"])
        name = "vocabulary.json"
        vocabulary = codecs.read_vocabulary(_parse(folder, name, contents), columns)
        name = "calibration.json"
        calibration = codecs.read_calibration(_parse(folder, name, contents))
        name = "reasons.json"
        surrogate = codecs.read_surrogate(_parse(folder, name, contents))
        name = HABITS
        habits = codecs.read_habits(contents[name]) if name in contents else None
        name = PERCENTILES
        percentiles = codecs.read_percentiles(_parse(folder, name, contents)) if name in contents else None
        name = "bert/config.json"
        bert_config = _parse(folder, name, contents)
        sizes = codecs.read_sizes(bert_config, shape)
        name = "bert/model.safetensors"
        bert = codecs.read_bert(contents[name], sizes)
        name = "head.safetensors"
        head = codecs.read_head(contents[name], shape, vocabulary, alone=config["format"] == 1)
        name = drift.FILE
        reference = values.checked(Reference.parse(_parse(folder, name, contents))) if name in contents else None
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingError(f"bundle {folder}: {name} does not hold what it should: {reason}") from error
    return Bundle(
        name=label,
        version=version,
        shape=shape,
        vocabulary=vocabulary,
        weights=Weights(config=bert_config, bert=bert, head=head.eval()),
        calibration=calibration,
        surrogate=surrogate,
        card=contents[CARD].decode(errors="replace"),
        habits=habits,
        percentiles=percentiles,
        metrics=_parse(folder, METRICS, contents) if METRICS in contents else None,
        drift=reference,
        recipe=_parse(folder, RECIPE, contents) if RECIPE in contents else None,
        refitted=config.get("refitted") is True,
    )


def _encoder() -> dict[str, list[str]]:
    """The columns that every model was trained on: order and meaning. They must be the code's own."""
    return {
        "horizons": list(HORIZONS),
        "event_types": list(KINDS),
        "fields": list(encode.FIELDS),
        "aggregates": list(aggregates.NAMES),
    }


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    if path.exists() and not path.is_file():  # opening a pipe would wait for whoever writes to it
        raise SettingError(f"bundle {folder}: {name} is no file")
    try:
        with path.open("rb") as file:
            # no more than there is: `read` takes the memory for all that it is asked for
            content = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    except OSError as error:
        raise SettingError(
            f"bundle {folder}: {name} cannot be read ({error.strerror}); "
            "restore it, or name a folder that `intent train` wrote"
        ) from None
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


def _listing(contents: Mapping[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    return "".join(lines).encode()


def _version(listing: bytes) -> str:
    return hashlib.sha256(listing).hexdigest()[:12]


def _json(value: Mapping[str, Any], *, indent: int | None = 1) -> bytes:
    return json.dumps(value, indent=indent).encode() + b"\n"
