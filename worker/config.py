"""Reads the settings from where they may stand, and says in one sentence what is wrong with one. Knows no setting.

Read, the later winning, from `intent.toml` (or the file that `INTENT_CONFIG` names), files of secrets
(`INTENT_SECRETS_DIR`), one a setting, named as in the environment, the environment (`INTENT_KAFKA__BOOTSTRAP_SERVERS`,
nested by `__`) and the command line.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from worker.errors import SettingError
from worker.settings import ACCEPTED, Settings, leaves

FILE: Final = "intent.toml"
PREFIX: Final = "INTENT_"

_KUBERNETES: Final = re.compile(
    rf"{PREFIX}(?!\w*__)(\w+_)?"
    r"(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?=.*)"
)
"""NAME=VALUE of the variables that Kubernetes gives each pod for a Service named `intent` or `intent-...`. The URL
tells `INTENT_WORKER_WEB_PORT`, of a Service `intent-worker-web`, from a misspelt setting.
"""


class _Sources(Settings, BaseSettings):
    """The tree, filled from all sources."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", toml_file=FILE, nested_model_default_partial_update=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the parent's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the parent's signature
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over secret files over `intent.toml`."""
        secrets = NestedSecretsSettingsSource(
            file_secret_settings, secrets_prefix=PREFIX, secrets_nested_delimiter="__"
        )
        return init_settings, env_settings, secrets, _toml()


def load(flags: Mapping[str, object] | None = None) -> Settings:
    """The effective settings. `flags` is a nested mapping like the tree.

    Raises `SettingError`, one sentence that names the first wrong setting, its value, what is accepted, and where it
    stands, unless that is `flags`.
    """
    _refuse_unknown_environment()
    try:
        read = _Sources(_secrets_dir=_secrets_folder(), **dict(flags or {}))  # type: ignore[arg-type]  # nested mappings are validated by pydantic
        return Settings(**dict(read))  # the plain tree: equal to one that was made by hand
    except ValidationError as error:
        raise SettingError(_sentence(error, _origins(flags or {}))) from None
    except (OSError, ValueError) as error:
        raise SettingError(f"the settings cannot be read: {error}") from None


def flags(assignments: Iterable[str]) -> dict[str, dict[str, object]]:
    """`section.name=value` strings of a command line, as the mapping that `load` takes."""
    tree: dict[str, dict[str, object]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        section, dot, field = name.partition(".")
        if not (equals and dot and field):
            raise SettingError(
                f"`--set {assignment}` is no assignment; write SECTION.NAME=VALUE, e.g. worker.mode=latest"
            )
        tree.setdefault(section, {})[field] = value
    return tree


def sources(flags: Mapping[str, Mapping[str, object]] | None = None) -> dict[str, str]:
    """Where each setting's value came from: `flag`, `environment`, `secret file`, `intent.toml` or `default`."""
    tree = load(flags)
    origin = _origins(flags or {})
    return {name: origin(name) for name, _ in leaves(tree)}


def _origins(flags: Mapping[str, Any]) -> Callable[[str], str]:
    """What tells of a setting, or of a name that is none, where it came from."""
    toml = _toml()()
    environment = {name.lower() for name in os.environ}
    folder = _secrets_folder()
    secrets = set() if folder is None else {path.name.lower() for path in folder.iterdir() if path.is_file()}

    def origin(name: str) -> str:
        section, _, field = name.partition(".")
        variable = f"{PREFIX}{section}__{field}".lower()
        if field in flags.get(section, {}):
            return "flag"
        if variable in environment:
            return "environment"
        if variable in secrets:
            return "secret file"
        if section in toml and (not field or field in toml[section]):
            return str(_file())
        return "default"

    return origin


def _file() -> Path:
    """The file of settings; only the default one may be missing.

    A folder in its place is what Docker makes where the file that it is to mount is missing.
    """
    named = os.environ.get(PREFIX + "CONFIG")
    if named is None:
        if os.path.lexists(FILE) and not Path(FILE).is_file():
            raise SettingError(f"{FILE} in this folder is no file that can be read: mend it, or remove it")
        return Path(FILE)
    if named != os.devnull and not Path(named).is_file():
        raise SettingError(
            f"the environment variable {PREFIX}CONFIG is {named!r}: it must name a TOML file that can be read, "
            f"or {os.devnull} for none"
        )
    return Path(named)


def _toml() -> TomlConfigSettingsSource:
    path = _file()
    try:
        source = TomlConfigSettingsSource(_Sources, path)
    except OSError as error:
        raise SettingError(f"the file of settings {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of tomllib, or of text that is not UTF-8
        raise SettingError(f"the file of settings {path} is no TOML: {error}") from None
    for name, value in source().items():  # where another source sets a part of it, pydantic drops what is no table
        if name in Settings.model_fields and not isinstance(value, dict):
            raise SettingError(_is_section(name))
    return source


def _secrets_folder() -> Path | None:
    """Raises `SettingError` for one that is not there, or holds what is no text: pydantic reads all, and names none."""
    named = os.environ.get(PREFIX + "SECRETS_DIR")
    if named is None:
        return None
    folder = Path(os.path.expanduser(named))  # noqa: PTH111 - Path's own raises where nobody has that name
    if not named or not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise SettingError(
            f"the environment variable {PREFIX}SECRETS_DIR is {named!r}: it must name a folder that can be read"
        )
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        section = path.name.lower().removeprefix(PREFIX.lower())
        if section in Settings.model_fields and path.name.lower() != section:
            raise SettingError(_is_section(section))
        try:
            path.read_text()
        except OSError as error:
            raise SettingError(f"the secret file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingError(f"the secret file {path} is no UTF-8 text") from None
    return folder


def _refuse_unknown_environment() -> None:
    """A misspelt variable would otherwise be ignored in silence."""
    known = {PREFIX + "CONFIG", PREFIX + "SECRETS_DIR", PREFIX + "GA360", PREFIX + "JAVA"}
    sections: dict[str, str] = {}
    for section, part in Settings.model_fields.items():
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel):
            sections[f"{PREFIX}{section}".upper()] = section
            known.update(f"{PREFIX}{section}__{field}".upper() for field in part.annotation.model_fields)
    for name, value in os.environ.items():
        if _KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        if name.upper() in sections:  # pydantic would take JSON
            raise SettingError(_is_section(sections[name.upper()]))
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingError(
                f"the environment variable {name} names no setting; `intent config show` lists those there are"
            )


def _sentence(error: ValidationError, origin: Callable[[str], str]) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "together":
        return first["msg"]
    source = origin(name)
    stands = "" if source in {"flag", "default"} else f" (it stands in: {source})"
    if first["type"] == "extra_forbidden":
        return f"`{name}` is no setting{stands}; `intent config show` lists those there are"
    if first["type"] == "string_pattern_mismatch":
        return f"the setting `{name}` is {first['input']!r}: {ACCEPTED[first['ctx']['pattern']]}{stands}"
    shown = "(hidden)" if "password" in name else repr(first["input"])
    # pydantic says of a boolean only that it cannot tell which
    message = "write true or false" if first["type"] == "bool_parsing" else first["msg"][0].lower() + first["msg"][1:]
    return f"the setting `{name}` is {shown}: {message}{stands}"


def _is_section(name: str) -> str:
    return (
        f"the setting `{name}` is a section, no value: write the table [{name}] in {FILE}, "
        f"{PREFIX}{name.upper()}__NAME in the environment or --set {name}.NAME=VALUE"
    )
