"""Data sets that are known by a name on Hugging Face's Hub: their Parquet files, in the Hub's own cache.

Owns the download. Contract: nothing that is downloaded is run; a Hub that can't be reached is told within seconds,
unless the data set is in the cache (HF_HOME, else ~/.cache/huggingface).
"""

import http.client
import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from raysp.data.listing import FolderError
from raysp.store.extras import remedy_for
from raysp.store.paths import shown

REACHED_S = 5.0
"""Seconds for the Hub to say anything at all."""
CONVERTED = "refs/convert/parquet"
"""Where the Hub keeps data sets as Parquet that were uploaded as something else."""
LONGEST_NAME = 96
_PART = re.compile(rf"(?!.*(--|\.\.))(?!.*\.git$)\w(?:[\w.-]{{0,{LONGEST_NAME - 2}}}\w)?", re.ASCII)
"""What the Hub allows as an owner's name, and as a data set's (the rules of `huggingface_hub.validate_repo_id`)."""


def can_be_name(name: str) -> bool:
    """Whether the Hub could have a data set of this name: `NAME`, `OWNER/NAME`, or `OWNER/NAME/CONFIG`."""
    return not _is_path(name) and all(_PART.fullmatch(part) for part in _cut(name)[:2] if part)


def _is_path(name: str) -> bool:
    return name[:1] in ("/", ".", "~") or name.count("/") > 2 or name.endswith("/") or "//" in name


def _cut(name: str) -> tuple[str, str, str]:
    """Owner, name and configuration; empty for what isn't given."""
    owner, _, rest = name.partition("/")
    short, _, configuration = rest.partition("/")
    return owner, short, configuration


def fetch(name: str, check: Callable[[Iterable[PurePosixPath]], object]) -> Path:
    """The directory of a data set's files; those that the cache lacks are downloaded.

    Args:
        name: `OWNER/NAME`, or `OWNER/NAME/CONFIG` for one of several configurations.
        check: given the names of the files before they are downloaded; raises FolderError where they aren't one data set.

    Raises:
        FolderError: there is none of this name, or it can be neither reached nor found in the cache.
    """
    owner, short, configuration = _cut(name)
    if _is_path(name):
        raise FolderError(f"no directory {shown(name)}; expected one with a data set, or a name on the Hub such as OWNER/NAME")
    if not can_be_name(name):
        raise FolderError(
            f"no directory {shown(name)}, and the Hub has no such names; expected a directory with a data set, or OWNER/NAME: "
            f"letters, digits, and - _ . within, up to {LONGEST_NAME} characters each, without -- and .. or .git at the end"
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise FolderError(f"no directory {name}; if it is a name on the Hub, its package is missing: {remedy_for('huggingface')}")
    import huggingface_hub  # takes a while to import
    from huggingface_hub import constants, errors

    repository = f"{owner}/{short}" if short else owner
    away = constants.HF_HUB_OFFLINE or not _is_reached(constants.ENDPOINT)
    for revision in (None, CONVERTED):
        try:
            if not away:
                listed = map(PurePosixPath, huggingface_hub.list_repo_files(repository, repo_type="dataset", revision=revision))
                inside = [path for path in listed if path.suffix == ".parquet" and path.is_relative_to(configuration)]
                check(path.relative_to(configuration) for path in inside)
            found = huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision,
                allow_patterns=[f"{configuration}/*.parquet" if configuration else "*.parquet"],
                local_files_only=away,
            )
        except FolderError:
            raise
        except errors.RevisionNotFoundError:
            continue
        except errors.LocalEntryNotFoundError:
            away = True
            continue
        except errors.HfHubHTTPError as error:
            raise FolderError(
                f"the Hub doesn't give {repository} ({_line(error)}); expected a data set's name, or a directory; one that "
                "is private or asks for consent needs `hf auth login` or HF_TOKEN"
            ) from None
        except Exception as error:  # what the libraries below raise, such as httpx's errors, has no base of its own
            raise FolderError(
                f"{repository} can't be downloaded from {constants.ENDPOINT} ({_line(error)}); the same command goes on with it"
            ) from None
        directory = Path(found) / configuration
        if any(directory.rglob("*.parquet")):
            return directory
    if away:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} can't be reached"
        raise FolderError(
            f"no directory {name}; as a name on the Hub it isn't in the cache {constants.HF_HUB_CACHE}, and {why}. Name a "
            "directory, or set HF_HOME to where the cache is, or download it where there is a network: "
            f"hf download --repo-type dataset {repository}"
        )
    raise FolderError(
        f"{repository} on the Hub has no .parquet files{f' of a configuration {configuration}' if configuration else ''}"
    )


def _is_reached(endpoint: str) -> bool:
    """Whether the Hub answers anything: its own package tries for minutes."""
    if not endpoint.startswith(("https://", "http://")):
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=REACHED_S):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException, ValueError):  # the last two for what is no address, or no HTTP
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
