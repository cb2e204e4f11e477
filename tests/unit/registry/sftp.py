"""An SFTP server's folders in this process, with what tells fsspec's `SFTPFileSystem` from an object store."""

from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from fsspec.utils import infer_storage_options


class Sftp(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Options go to a connection that refuses strange ones; folders are to be made; files are written in place."""

    protocol = ("sftp", "ssh")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self, host: str, **ssh_kwargs: object) -> None:
        if unknown := ssh_kwargs.keys() - {"port", "username", "password"}:
            raise TypeError(f"SSHClient.connect() got an unexpected keyword argument '{unknown.pop()}'")
        super().__init__()
        self.host = host

    @classmethod
    def empty(cls) -> None:
        """The server is a new one."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(infer_storage_options(path)["path"]).rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(urlpath: str) -> dict[str, Any]:
        return {key: value for key, value in infer_storage_options(urlpath).items() if key not in {"path", "protocol"}}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode and self._parent(path) not in self.pseudo_dirs:
            raise FileNotFoundError(path)
        return super()._open(path, mode, **options)

    pipe_file = AbstractFileSystem.pipe_file

    def mv(self, old: str, new: str) -> None:
        """By a rename, which replaces."""
        self.store[new] = self.store.pop(old)
