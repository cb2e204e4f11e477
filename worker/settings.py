"""Every setting, in one frozen tree: its type, bounds, default and meaning. Knows neither where a value comes from nor
what uses it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MODEL_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
MODEL_ALIAS: Final = r"[a-z][a-z0-9-]{0,31}"
"""What a store's names may be made of: none leads out of it."""

TOPIC: Final = r"^([A-Za-z0-9_-][A-Za-z0-9._-]?|\.[A-Za-z0-9_-]|[A-Za-z0-9._-]{3,249})$"
_ID: Final = r"^[A-Za-z0-9._-]{1,100}$"
_PORT: Final = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_SERVER: Final = rf"([^\s:,\[\]]+|\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]):{_PORT}"
_SERVERS: Final = rf"^{_SERVER}(,{_SERVER})*$"
_STORE: Final = r"^\S(.*\S)?$"
_HOST: Final = r"^([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$"

ACCEPTED: Final = {
    TOPIC: "write 1 to 249 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`, but neither `.` nor `..`",
    _ID: "write 1 to 100 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`",
    _SERVERS: (
        "write HOST:PORT, several separated by commas; a port is 1 to 65535, an address with colons stands in brackets"
    ),
    _STORE: "write a folder or a URL, without spaces around it",
    _HOST: "write a name or an address of this machine; 0.0.0.0 is all of them, :: all of IPv6",
    f"^{MODEL_NAME}$": "write 1 to 100 of the characters A-Z, a-z, 0-9, `.`, `_`, `-`, the first no `.` or `-`",
    f"^{MODEL_ALIAS}$": "write 1 to 32 of the characters a-z, 0-9 and `-`, beginning with a letter",
}
"""What each pattern accepts, in words."""

_Topic = Annotated[str, Field(pattern=TOPIC)]
_Port = Annotated[int, Field(ge=0, le=65535)]


def _named(path: object) -> object:
    """An empty path would be the current folder in silence; RocksDB and the log take no name that is not UTF-8, and
    the system none with a zero byte. `~` is the user's home, as in a shell, which has not seen what stands in a file.
    """
    if path == "":
        raise PydanticCustomError("empty", "name a file or a folder; `.` is the current one")
    if "\0" in str(path):
        raise PydanticCustomError("zero", "leave out the zero byte, which no name may have")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("encoding", "write its name in UTF-8") from None
    # Path's own raises where nobody has that name.
    return os.path.expanduser(path) if isinstance(path, str) else path  # noqa: PTH111


_Path = Annotated[Path, BeforeValidator(_named)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: object, info: ValidationInfo) -> object:
        """TOML's `true`, which pydantic takes for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("boolean", "true and false are no value of it")
        return value


class Kafka(_Part):
    """How to reach the brokers."""

    bootstrap_servers: str = Field("127.0.0.1:9092", pattern=_SERVERS, description="host:port, comma separated")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = Field(None, description="needed with SASL_PLAINTEXT and SASL_SSL")
    sasl_password: SecretStr | None = Field(None, description="its password; best given as a secret file")
    ssl_ca_file: _Path | None = Field(None, description="CA certificates (PEM); default: the system's")
    ssl_certificate_file: _Path | None = Field(None, description="client certificate (PEM), for mutual TLS")
    ssl_key_file: _Path | None = Field(None, description="key of the client certificate (PEM)")


class Topics(_Part):
    """Names and shape of the topics. All of one deployment have the same number of partitions."""

    events: _Topic = Field("clickstream.events.v1", description="what the worker reads")
    scores: _Topic = Field("intent.scores.v1", description="every score")
    latest: _Topic = Field("intent.latest.v1", description="each user's newest score; compacted")
    dead_letters: _Topic = Field("clickstream.events.v1.dlq", description="invalid and late events, as they came")
    shadow: _Topic = Field("intent.scores.v1.shadow", description="the challenger's scores")
    partitions: int = Field(4, ge=1, le=1024, description="of each topic; cannot be raised while in use")
    replication_factor: int = Field(1, ge=1, le=9, description="copies of each partition")
    min_insync_replicas: int = Field(1, ge=1, le=9, description="copies that must hold a record before it counts")
    retention_hours: int = Field(
        168,
        ge=1,
        le=87_600,
        description="of events, scores, dead letters and shadow scores: all topics that are not compacted",
    )

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a transaction may write to beside the changelog."""
        return self.scores, self.latest, self.dead_letters


class Worker(_Part):
    """The stream worker's process."""

    application_id: str = Field(
        "intent", pattern=_ID, description="consumer group, prefix of transactions and changelog"
    )
    mode: Literal["every", "latest"] = Field(
        "every", description="score each event's window, or only a user's newest in a batch"
    )
    data_dir: _Path = Field(Path(".intent/state"), description="RocksDB folder; one per worker process")
    max_batch_events: int = Field(
        2000, ge=1, le=100_000, description="events of one partition in one transaction, at most"
    )
    commit_interval_s: float = Field(
        0.0,
        ge=0,
        le=60,
        description="between the begins of two transactions of a partition, at least, unless a batch is full",
    )
    max_queued_events: int = Field(
        20_000, ge=1, le=10_000_000, description="fetched events waiting, over all partitions; then fetching pauses"
    )
    max_unpacked_batch_bytes: int = Field(
        32 << 20,
        ge=16 << 20,  # a dead letter's has to fit
        le=1 << 30,
        description="of a compressed batch of records, unpacked; each event of a larger one becomes a dead letter",
    )
    session_timeout_s: float = Field(
        10.0, ge=1, le=300, description="a worker that is not heard of for so long loses its partitions"
    )
    request_timeout_s: float = Field(30.0, ge=2, le=600, description="must exceed the session time-out")
    transaction_timeout_s: float = Field(
        30.0, ge=1, le=600, description="a transaction that takes longer, until it is seen, ends the process"
    )
    recovery_timeout_s: float = Field(
        600.0, ge=5, le=86_400, description="a rebalance or recovery without progress for so long ends the process"
    )
    shutdown_timeout_s: float = Field(15.0, ge=1, le=300, description="from SIGTERM to the end, at most")
    instance_id: str | None = Field(None, pattern=_ID, description="static group membership, one per worker process")
    standby_replicas: int = Field(
        0, ge=0, le=9, description="further workers that keep a copy of each partition's state, to take over at once"
    )
    web_host: str = Field(
        "127.0.0.1", pattern=_HOST, description="the address to listen on; 0.0.0.0 is all that this machine has"
    )
    web_port: _Port = Field(6066, description="health and metrics; 0 chooses a free port")


class Window(_Part):
    """The two limits of the window rule that a deployment may choose."""

    max_lateness_s: float = Field(
        600.0, ge=0, le=86_400, description="an event further behind its user's newest becomes a dead letter"
    )
    expire_after_s: float = Field(
        35 * 86_400.0, ge=3600, le=3650 * 86_400, description="a user silent for longer starts afresh"
    )


class Model(_Part):
    """What scores the windows, and where."""

    bundle: _Path | None = Field(None, description="bundle folder; default: the one shipped with the package")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA from Ampere on, else float32"
    )
    deterministic: bool = Field(False, description="scores equal to the bit whatever the batch, at some cost")
    threads: int | None = Field(
        None, ge=1, le=1024, description="torch's on the CPU; default: one core is left to the rest of the worker"
    )
    max_batch_tokens: int = Field(
        16_384, ge=128, le=4_194_304, description="a token an event and one a window, in one forward pass, at most"
    )
    store: str | None = Field(
        None,
        pattern=_STORE,
        max_length=1000,
        description="models and aliases: a folder, or a URL that fsspec reaches; in place of `model.bundle`",
    )
    name: str | None = Field(None, pattern=f"^{MODEL_NAME}$", description="which model of the store")
    alias: str = Field("champion", pattern=f"^{MODEL_ALIAS}$", description="which of its versions scores")
    reload_interval_s: float = Field(10.0, ge=0.1, le=86_400, description="how often to look where the alias points")
    cache_dir: _Path = Field(Path(".intent/models"), description="versions fetched from a store elsewhere")
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="share of users whom the alias `challenger` scores too, to `topics.shadow`"
    )

    drift_window_events: int = Field(
        100_000, ge=0, le=100_000_000, description="scored events that the drift gauges look back on; 0: no gauges"
    )

    @property
    def contradiction(self) -> str | None:
        """What no setting of the part can say alone."""
        if self.store is None:
            if self.name is not None:
                return f"the setting `model.name` is {self.name!r}: it chooses from `model.store`, which is missing"
            if self.shadow_share:
                return f"the setting `model.shadow_share` is {self.shadow_share}: a challenger needs `model.store`"
            return None
        if re.match(r"[^/]*://[^/@]*:[^/@]*@", self.store):
            return "the setting `model.store` holds a password: give it where the store's own library looks for it"
        if self.bundle is not None:
            return f"the setting `model.store` is {self.store!r}: leave it or `model.bundle` out, one says what scores"
        if self.name is None:
            return f"the setting `model.name` is missing: it chooses a model from `model.store`, {self.store!r}"
        if self.shadow_share and self.alias == "challenger":
            return "the setting `model.alias` is 'challenger': with `model.shadow_share` it cannot be the champion too"
        return None


class Log(_Part):
    """What the worker says."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, else JSON lines"
    )


class Settings(_Part):
    """The whole tree."""

    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    worker: Worker = Worker()
    window: Window = Window()
    model: Model = Model()
    log: Log = Log()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """What no setting can say alone."""
        kafka, topics, worker = self.kafka, self.topics, self.worker
        if worker.request_timeout_s <= worker.session_timeout_s:
            raise PydanticCustomError(
                "together",
                "the setting `worker.request_timeout_s` is {value}: it must exceed `worker.session_timeout_s`",
                {"value": worker.request_timeout_s},
            )
        if topics.min_insync_replicas > topics.replication_factor:
            raise PydanticCustomError(
                "together",
                "the setting `topics.min_insync_replicas` is {value}: it must not exceed `topics.replication_factor`",
                {"value": topics.min_insync_replicas},
            )
        for name in ("sasl_username", "sasl_password"):
            if kafka.security_protocol.startswith("SASL") and not getattr(kafka, name):
                raise PydanticCustomError(
                    "together",
                    "the setting `kafka.{name}` is missing or empty: the security protocol {protocol} needs it",
                    {"name": name, "protocol": kafka.security_protocol},
                )
        if kafka.ssl_key_file is not None and kafka.ssl_certificate_file is None:
            raise PydanticCustomError(
                "together",
                "the setting `kafka.ssl_key_file` is {value}: it is the key of `kafka.ssl_certificate_file`, "
                "which is missing",
                {"value": repr(str(kafka.ssl_key_file))},
            )
        if (wrong := self.model.contradiction) is not None:
            raise PydanticCustomError("together", "{wrong}", {"wrong": wrong})
        return self

    @property
    def changelog(self) -> str:
        """The table's changelog topic, as Faust names it."""
        return f"{self.worker.application_id}-windows-changelog"


def meanings() -> dict[str, str]:
    """What each setting is for, by its dotted name, and what may be chosen."""
    return {
        f"{section}.{field}": "; ".join(filter(None, (_choices(info.annotation), info.description)))
        for section, part in Settings.model_fields.items()
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel)
        for field, info in part.annotation.model_fields.items()
    }


def _choices(annotation: object) -> str:
    *others, last = get_args(annotation) if get_origin(annotation) is Literal else ("",)
    return f"{', '.join(others)} or {last}" if others else ""


def leaves(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting as (dotted name, value), secrets masked by their own type."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
