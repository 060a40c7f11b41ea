"""Which trackers are asked for: `mlflow:URI`, `wandb:PROJECT`, `tensorboard:DIR`.

Owns these forms, and the checks that need no tracker's package. Contract: what a user can get wrong raises ValueError before
anything trains; no tracker is spoken to, so that one that is down refuses nothing.
"""

import importlib.util
import netrc
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from raysp.store.extras import remedy_for
from raysp.store.home import home_of
from raysp.store.paths import user_path

FORMS = "mlflow:URI, wandb:PROJECT or tensorboard:DIR"
MLFLOW_URIS = "http://HOST:PORT, https://HOST, sqlite:///FILE or databricks"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SQLITE = b"SQLite format 3\0"
"""How its files begin."""
MLFLOWS_TABLES = {"experiments", "runs"}
"""Tables of MLflow's in a database of any of its versions."""
LOCKED_S = 1.0
"""Seconds to wait for a database that is being written to."""
WANDB = "https://api.wandb.ai"
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
    database, is_file = _is_database(uri), re.split("[:+]", uri)[0] == "sqlite"
    rest = uri.partition("//")[2]
    user = "@" in (rest.partition("/")[0] if is_file else rest)  # a password may hold a /
    if user or (not is_file and re.search("[?#]", uri)):
        found = "a user's name in it," if user else "a query, in which a password may be,"
        remedy = (
            "PGUSER and PGPASSWORD in the environment for PostgreSQL, or a server that knows its database: mlflow:http://HOST:PORT"
            if database
            else "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        )
        raise ValueError(
            f"track is mlflow:{hidden(uri)}, with {found} which records would keep; expected it without, and {remedy}"
        )
    if is_file:
        if not re.match(r"[\w+]+:///[^?]", uri):
            raise ValueError(f"track is mlflow:{hidden(uri)}, which names no file; expected mlflow:sqlite:///FILE")
    elif scheme in ("http", "https") or database:
        if not _host(uri):
            raise ValueError(f"track is mlflow:{hidden(uri)}, which names no host; expected mlflow: and {MLFLOW_URIS}")
    elif scheme != "databricks":
        raise ValueError(f"track is mlflow:{hidden(uri)}; expected mlflow: and {MLFLOW_URIS}")
    _need("mlflow", "mlflow")
    if database:
        _need("sqlalchemy", "mlflow", "a database needs MLflow itself: pip install mlflow")
    if is_file:
        form, _, path = uri.partition(":///")
        name, mark, query = path.partition("?")
        file = user_path(name)
        _check_directory(file.parent, f"mlflow:{hidden(uri)}")
        _check_sqlite(file, f"mlflow:{hidden(uri)}")
        return f"{form}:///{file}{mark}{query}"
    return uri


def _host(url: str) -> str:
    """The host that a URL names; nothing where it names none, or is no URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        return parts.hostname or ""
    except ValueError:
        return ""


def _check_sqlite(file: Path, told: str) -> None:
    """Raise ValueError for a file that isn't MLflow's: its client would make tables there, in another program's database too."""
    if importlib.util.find_spec("_sqlite3") is None:
        raise ValueError(f"track is {told}, but this Python was built without SQLite; expected mlflow:http://HOST:PORT")
    import sqlite3  # some Pythons lack it, which nothing else needs

    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return
    expected = "expected a file that isn't there yet, or MLflow's own"
    if not file.is_file():
        raise ValueError(f"track is {told}, but {file} is no plain file; {expected}")
    try:
        with file.open("rb") as content:
            is_database = content.read(len(SQLITE)) == SQLITE
        if not is_database:
            raise ValueError(f"track is {told}, but {file} is no SQLite database; {expected}")
        if not os.access(file, os.W_OK):
            raise ValueError(f"track is {told}, but {file} can't be written to; {expected}")
        try:
            tables = _tables(f"{file.as_uri()}?mode=ro")
        except sqlite3.OperationalError:  # it is locked by who writes to it, for which MLflow waits
            tables = _tables(f"{file.as_uri()}?mode=ro&immutable=1")
    except OSError as error:
        raise ValueError(f"track is {told}, but {file} can't be read ({error.strerror}); {expected}") from None
    except sqlite3.DatabaseError as error:
        raise ValueError(f"track is {told}, but {file} is damaged ({error}); {expected}") from None
    if tables and not tables >= MLFLOWS_TABLES:
        some = ", ".join(sorted(tables)[:3])
        raise ValueError(f"track is {told}, but {file} is another program's database (with {some}); {expected}")


def _tables(uri: str) -> set[str]:
    import sqlite3

    with closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_S)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _wandb(project: str, environ: Mapping[str, str]) -> str:
    entity, slash, name = project.rpartition("/")
    if not name or (slash and not entity) or len(name) > 128 or _NO_PROJECT.search(name) or _NO_PROJECT.search(entity):
        raise ValueError(
            rf"track is wandb:{hidden(project)}; expected wandb:PROJECT or wandb:ENTITY/PROJECT, without blanks and \ # ? % :"
        )
    _need("wandb", "wandb")
    if environ.get("WANDB_MODE", "online") in ("online", "shared"):
        server = environ.get("WANDB_BASE_URL") or WANDB
        if not server.startswith(("https://", "http://")) or not _host(server):
            raise ValueError(f"WANDB_BASE_URL is {hidden(server)!r}; expected a URL such as {WANDB}, or leave it out")
        found, why_not = _has_key(environ, _host(server))
        if not found:
            raise ValueError(
                f"track is wandb:{project}, but W&B has no key here{why_not}; expected one from `wandb login` or in "
                "WANDB_API_KEY, or WANDB_MODE=offline, which keeps runs in ./wandb for `wandb sync`"
            )
    return project


def _has_key(environ: Mapping[str, str], host: str) -> tuple[bool, str]:
    """Whether W&B would find a key for a host, or was told in its own files not to need one; and what is wrong with these."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True, ""
    home = home_of(environ) or Path("/")
    for settings in (Path("wandb/settings"), Path(environ.get("WANDB_CONFIG_DIR", home / ".config/wandb")) / "settings"):
        with suppress(OSError):
            if re.search(r"^\s*(mode\s*=\s*(offline|disabled)|api_key\s*=)", settings.read_text(errors="replace"), re.MULTILINE):
                return True, ""
    wrong = []
    for path in (environ.get("NETRC", ""), home / ".netrc", home / "_netrc"):
        try:
            if path and (login := netrc.netrc(str(path)).authenticators(host)) and login[2]:
                return True, ""
        except FileNotFoundError:
            if path == environ.get("NETRC"):
                wrong.append(f"NETRC names {path}, which isn't there")
        except OSError as error:
            wrong.append(f"{path} can't be read: {error.strerror}")
        except netrc.NetrcParseError as error:  # what stands in the line may be a password
            wrong.append(f"line {error.lineno} of {path} is not of a netrc file's form")
        except ValueError:
            wrong.append(f"{path} is no text")
    return False, f" ({'; '.join(wrong)})" if wrong else ""


def _tensorboard(directory: str, environ: Mapping[str, str]) -> str:
    if "://" in directory:
        raise ValueError(f"track is tensorboard:{hidden(directory)}; expected tensorboard: and a directory of this machine")
    path = user_path(directory)
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
