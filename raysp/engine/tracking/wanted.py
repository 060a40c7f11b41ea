"""Which trackers are asked for: `mlflow:URI`, `wandb:PROJECT`, `tensorboard:DIR`.

Owns these forms, and the checks that need no tracker's package. Contract: what a user can get wrong raises ValueError before
anything trains; no tracker is spoken to, so that one that is down refuses nothing.
"""

import importlib.util
import netrc
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from raysp.store.extras import remedy_for
from raysp.store.home import from_home, home_of

FORMS = "mlflow:URI, wandb:PROJECT or tensorboard:DIR"
MLFLOW_URIS = "http://HOST:PORT, https://HOST, sqlite:///FILE or databricks"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_NO_PROJECT = re.compile(r"[/\\#?%:\s]")
"""What W&B allows in no project's name."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A tracker that is asked for."""

    kind: str
    """`mlflow`, `wandb` or `tensorboard`."""
    place: str
    """A URI, a project, or a directory's absolute path."""

    @property
    def is_database(self) -> bool:
        """Whether MLflow's client writes to a database itself, whose tables it makes first: that takes a while."""
        return self.kind == "mlflow" and _is_database(self.place)

    def __str__(self) -> str:
        return hidden(f"{self.kind}:{self.place}")


def wanted(text: str, environ: Mapping[str, str] = os.environ) -> Wanted:
    """Read one value of the flag.

    Args:
        text: as the user gave it.
        environ: the environment, where W&B looks for its key.

    Raises:
        ValueError: it is of another form, a package is missing, its directory can't be, or it holds a password.
    """
    kind, colon, place = text.partition(":")
    if not colon or not place or kind not in _CHECKS:
        raise ValueError(f"track is {hidden(text)!r}; expected {FORMS}")
    return Wanted(kind=kind, place=_CHECKS[kind](place, environ))


def hidden(text: str) -> str:
    """A text without what stands between a URL's `//` and its `@`, and without queries."""
    text = re.sub(r"//\S*@", "//...@", text)
    return re.sub(r"(//[^\s?#]*[?#])\S+|(\?)\S*=\S*", r"\1\2...", text)


def _is_database(uri: str) -> bool:
    return re.split("[:+]", uri)[0] in _DATABASES


def _mlflow(uri: str, environ: Mapping[str, str]) -> str:
    scheme = uri.partition(":")[0]
    database = _is_database(uri)
    rest = uri.partition("//")[2]
    user = "@" in (rest.partition("/")[0] if scheme == "sqlite" else rest)  # a password may hold a /
    if user or (scheme != "sqlite" and re.search("[?#]", uri)):
        found = "a user's name in it," if user else "a query, in which a password may be,"
        remedy = (
            "PGUSER and PGPASSWORD in the environment for PostgreSQL, or a server that knows its database: mlflow:http://HOST:PORT"
            if database
            else "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        )
        raise ValueError(
            f"track is mlflow:{hidden(uri)}, with {found} which records would keep; expected it without, and {remedy}"
        )
    if scheme in ("http", "https") or database:
        try:
            parts = urlsplit(uri)
            has_host = bool(parts.hostname)
            _ = parts.port
        except ValueError:
            has_host = False
        if not has_host and scheme != "sqlite":
            raise ValueError(f"track is mlflow:{hidden(uri)}, which names no host; expected mlflow: and {MLFLOW_URIS}")
    elif scheme != "databricks":
        raise ValueError(f"track is mlflow:{hidden(uri)}; expected mlflow: and {MLFLOW_URIS}")
    _need("mlflow", "mlflow")
    if database:
        _need("sqlalchemy", "mlflow", "a database needs MLflow itself: pip install mlflow")
    if scheme == "sqlite" and (path := uri.removeprefix("sqlite:///")) != uri:
        name, mark, query = path.partition("?")
        file = Path(name).absolute()
        _check_directory(file.parent, f"mlflow:{hidden(uri)}")
        return f"sqlite:///{file}{mark}{query}"
    return uri


def _wandb(project: str, environ: Mapping[str, str]) -> str:
    entity, slash, name = project.rpartition("/")
    if not name or (slash and not entity) or len(name) > 128 or _NO_PROJECT.search(name) or _NO_PROJECT.search(entity):
        raise ValueError(
            rf"track is wandb:{hidden(project)}; expected wandb:PROJECT or wandb:ENTITY/PROJECT, without blanks and \ # ? % :"
        )
    _need("wandb", "wandb")
    if environ.get("WANDB_MODE", "online") in ("online", "shared") and not _has_key(environ):
        raise ValueError(
            f"track is wandb:{project}, but W&B has no key here; expected one from `wandb login` or in WANDB_API_KEY, or "
            "WANDB_MODE=offline, which keeps runs in ./wandb for `wandb sync`"
        )
    return project


def _has_key(environ: Mapping[str, str]) -> bool:
    """Whether W&B would find a key, or was told in its own files not to need one."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = home_of(environ) or Path("/")
    for settings in (Path("wandb/settings"), Path(environ.get("WANDB_CONFIG_DIR", home / ".config/wandb")) / "settings"):
        with suppress(OSError):
            if re.search(r"^\s*(mode\s*=\s*(offline|disabled)|api_key\s*=)", settings.read_text(errors="replace"), re.MULTILINE):
                return True
    host = urlsplit(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (environ.get("NETRC", ""), home / ".netrc", home / "_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
    return False


def _tensorboard(directory: str, environ: Mapping[str, str]) -> str:
    if "://" in directory:
        raise ValueError(f"track is tensorboard:{hidden(directory)}; expected tensorboard: and a directory of this machine")
    path = from_home(directory).absolute()
    _check_directory(path, f"tensorboard:{directory}")
    return str(path)


_CHECKS: dict[str, Callable[[str, Mapping[str, str]], str]] = {"mlflow": _mlflow, "wandb": _wandb, "tensorboard": _tensorboard}


def _need(module: str, extra: str, remedy: str = "") -> None:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:  # a directory of that name, such as W&B makes, is no package
        raise ValueError(f"track needs {module}, which isn't installed; {remedy or remedy_for(extra)}")


def _check_directory(path: Path, told: str) -> None:
    """Raise ValueError unless this is a directory that can be written to, or can be made one."""
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "can't be written to" if above.is_dir() else "is not a directory"
        raise ValueError(f"track is {told}, but {above} {why}; expected a directory that can be made or written to")
