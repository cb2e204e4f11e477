"""Which bundle, model and store a command means: what it was told, else the settings, else what is shipped.

Raises `SettingError` where none of them says it. Imports what it needs when asked: `--help` needs none of it.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import SettingError

if TYPE_CHECKING:
    from worker.registry.source import Source
    from worker.registry.store import Store
    from worker.scoring.bundle import Bundle
    from worker.settings import Model as ModelSettings


def loaded(which: str | None, store: str | None, *, fresh: bool = False) -> "tuple[Bundle, str, Source | None]":
    """A bundle, where it lies, and the store's model it is of, if any. `fresh`: past this machine's cache."""
    from worker.scoring.bundle import SHIPPED, load

    settings = model_settings()
    if which is not None and (store is None and (settings.store is None or Path(which).is_dir())):
        return load(Path(which)), which, None
    if which is None and store is None and settings.store is None:
        folder = settings.bundle or SHIPPED
        return load(folder), str(folder), None

    name, _, wanted = (which or "").partition(":")
    source = model(name or None, store, settings)
    version = source.version(wanted or settings.alias) if _is_alias(wanted) else wanted
    if version is None:
        raise SettingError(
            f"{source.store.lacks(source.name, wanted or settings.alias)}; `intent model list` shows what there is"
        )
    with source.fresh() if fresh else nullcontext(source) as there:
        return there.load(version), source.store.url, source


def _is_alias(wanted: str) -> bool:
    return not (len(wanted) == 12 and set(wanted) <= set("0123456789abcdef"))


def model_settings() -> "ModelSettings":
    """Those in force."""
    from worker.config import load

    return load().model


def model(name: str | None, store: str | None, settings: "ModelSettings") -> "Source":
    """A store's model."""
    from worker.registry.source import Source

    return Source(opened(store, settings), model_name(name, settings), cache=settings.cache_dir)


def opened(option: str | None, settings: "ModelSettings | None" = None) -> "Store":
    """A store; the settings are read where the option does not say it and nobody has read them yet."""
    from worker.registry.store import Store

    url = option if option is not None else (settings or model_settings()).store
    if url is None:
        raise SettingError("there is no model store: set `model.store`, or name one with --store")
    return Store(url)


def model_name(argument: str | None, settings: "ModelSettings | None" = None) -> str:
    """Likewise, as `store.named` accepts it."""
    from worker.registry.store import named

    name = argument if argument is not None else (settings or model_settings()).name
    if name is None:
        raise SettingError("which model? Name it, or set `model.name`")
    return named(name)
