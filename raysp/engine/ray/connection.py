"""Which Ray a sweep runs on, and the connection to it.

Owns the choice between a running cluster and a local Ray, and the start and end of that one. Refuses to look at the machine
(`raysp.engine.surroundings`) and to count places (`raysp.engine.ray.cluster`). Contract: what answers, and whether it takes our
token, is known within seconds; a local Ray starts whatever lies around it, is private to this user (where RAY_TMPDIR says where
its files are: as private as that), and takes back what it sets in the environment.
"""

import json
import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]

from raysp.engine.standins import make_own
from raysp.engine.surroundings import BUSY_S, answers, look, ray_address, ray_directory, ray_token, unfit_for_sessions
from raysp.engine.termination import Terminated
from raysp.engine.troubles import gigabytes
from raysp.store.home import home_of
from raysp.store.remedies import SETTINGS

Tell = Callable[[str], None]
"""Takes a note for the user."""
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
UV_RUN = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
LEAST_BYTES = 300_000_000
"""Of memory; with less Ray refuses to start, and leaves what it has started: three tenths are to be an object store of 78 MB."""
REMEDY = "set RAY_TMPDIR to a directory of your own with a short name"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a sweep is to run."""

    address: str | None
    """Of a running cluster; None for a local Ray of our own."""
    named_by: str = ""
    """What names that cluster: `--address`, RAY_ADDRESS, or a file."""
    note: str = ""
    """What the user should know of the choice."""

    @property
    def is_given(self) -> bool:
        """Whether the user has named it; else `ray start` has."""
        return self.named_by in ("--address", "RAY_ADDRESS")


def find(address: str | None) -> Target:
    """Choose where to run.

    Args:
        address: of a running cluster, or "local" for one of our own; None takes RAY_ADDRESS, or what `ray start` started on this
            machine if it still runs, or else a local one.

    Raises:
        ConnectionError: no Ray answers at the address that was given.
    """
    noted, file = ray_address({}, ray_directory())
    given = address or os.environ.get("RAY_ADDRESS", "")
    if given == "local" or not (given or noted):
        return Target(address=None)
    named_by = "--address" if address else "RAY_ADDRESS"
    if given and not (given == "auto" and noted):  # "auto" without a file is Ray's to find
        if answers(given, BUSY_S) is False:
            found = f"no Ray cluster answers at {given}"
            if not given.rpartition(":")[2].isdigit():
                found = f"address {given!r}; expected HOST:PORT of a Ray cluster"
            raise ConnectionError(f"{found} ({named_by}); start one there, or give --address local")
        return Target(address=given, named_by=named_by)
    assert noted is not None
    if answers(noted, BUSY_S) is not False:
        return Target(address=noted, named_by=file)
    gone = f"{file} names a Ray cluster at {noted}, where none answers"
    if given:
        raise ConnectionError(f"{gone}; start one, or give --address local")
    return Target(address=None, note=f"{gone}, so a local Ray is started; remove that file if the cluster is gone")


@contextmanager
def connect(target: Target, *, verbose: bool, tell: Tell = lambda note: None) -> Iterator[None]:
    """Connect to Ray for the length of the block; a local one ends with it.

    Args:
        target: see `find`.
        verbose: let Ray's own messages through.
        tell: told what a local Ray has to do without.

    Raises:
        ConnectionError: the cluster doesn't answer, or refuses our token; or no local Ray can be started here.
    """
    with ExitStack() as stack:
        unless_set = {
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a notice about a changed default
        }
        changed = {name: os.environ.get(name, value) for name, value in unless_set.items()}
        changed["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours: checkpoints are on disk, there is nothing to save
        if not verbose:
            changed["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a table of settings even at verbosity 0
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            logging.getLogger("ray").setLevel(logging.ERROR)
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a dead worker's traceback; we say what it means
        stack.enter_context(_environment(**changed))
        if target.note:
            tell(target.note)
        if target.address is None:
            options = stack.enter_context(_local(tell))
        else:
            stack.enter_context(_token_for(target))
            options = {"address": target.address, **_settings()}
        try:
            _init(options, verbose=verbose)
        except ConnectionError as error:
            raise ConnectionError(f"{error}; start a cluster there, give another --address, or --address local") from error
        stack.callback(ray.shutdown)
        yield


@contextmanager
def _local(tell: Tell) -> Iterator[Mapping[str, Any]]:
    """What a local Ray is started with: what of the CPUs this process may use, a directory for its sessions, and, in the block's
    environment, a token of its own. It listens on the loopback interface alone, and not, as it otherwise would, on all of them.
    """
    here = look()
    if here.sessions is None:
        raise ConnectionError(f"no local Ray can be started: {here.why_elsewhere}; {REMEDY}")
    free = here.memory.free
    if free is not None and free < LEAST_BYTES:
        has = f"{gigabytes(free)} of memory can be had, and it takes {gigabytes(LEAST_BYTES)}"
        raise ConnectionError(f"no local Ray can be started: {has}; free some, raise the container's limit, or give --inline")
    options = {"address": "local", "num_cpus": here.cpus.whole, "_temp_dir": str(here.sessions)}
    if here.cpus.usable < 1:
        tell(f"this process may use {here.cpus.usable:.2g} of a CPU: one stage runs at a time, and as much slower")
    if here.sessions != here.ray_directory:
        if not make_own(here.sessions.parent):
            raise ConnectionError(f"no local Ray can be started: {here.sessions.parent} can't be made; {REMEDY}")
        if why := unfit_for_sessions(here.ray_directory):
            tell(f"Ray has its files in {here.sessions}: {why}")
    changed = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # as Ray itself has it where clusters aren't supported
    if os.environ.get(MODE, "token").lower() == "token":
        changed |= {MODE: "token", TOKEN: secrets.token_hex(32)}
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    with _environment(**changed):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield options
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = enabled


@contextmanager
def _token_for(target: Target) -> Iterator[None]:
    """In the block Ray has the token for a running cluster.

    Raises:
        ConnectionError: there is none, or the cluster takes another. Ray itself would try for 20 s, or abort the process.
    """
    with _environment(**{MODE: os.environ.get(MODE)}):
        if not target.is_given or target.address == "auto":  # Ray's own rule: to an address that was given goes no token unasked
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        ours, is_sent = ray_token(os.environ, home_of()), os.environ.get(MODE, "").lower() == "token"
        if is_sent and not ours:
            missing = f"{MODE} is token, and there is none for {target.address}"
            raise ConnectionError(f"{missing}; set {TOKEN}_PATH to a file that holds it")
        if answers(target.address or "", BUSY_S):  # not of another form
            try:
                GcsClient(address=target.address)
            except ray.exceptions.AuthenticationError:
                what = f"refuses our token ({ours})" if is_sent else "asks for a token, and none is sent"
                raise ConnectionError(
                    f"the Ray cluster at {target.address} {what}; set {MODE}=token and {TOKEN}_PATH to a file that holds its "
                    "token, or give --address local"
                ) from None
            except ray.exceptions.RayError:
                pass  # what else is wrong Ray says when it connects
        yield


def _settings() -> Mapping[str, Any]:
    """What `ray.init` is told of this process' environment, so that workers reach the results as it does. A local Ray inherits
    all of it; nodes that others have started have their own. What a Ray job was submitted with they are told already, and Ray
    refuses to be told a second time.
    """
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    told = (job.get("runtime_env") or {}).get("env_vars", {})
    found = {name: os.environ[name] for name in SETTINGS if name in os.environ and name not in told}
    return {"runtime_env": {"env_vars": found}} if found else {}


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Environment variables, as Ray too sees them, for the length of the block; None takes one away."""
    before = {name: os.environ.get(name) for name in values}

    def put(settings: Mapping[str, str | None]) -> None:
        for name, value in settings.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        Config.initialize("")  # Ray has read them when it was imported
        AuthenticationTokenLoader.instance().reset_cache()

    put(values)
    try:
        yield
    finally:
        put(before)


def _init(options: Mapping[str, Any], *, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    handler = signal.getsignal(signal.SIGTERM)
    by_uv = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    # Under `uv run` Ray would send the whole current directory, data and results with it, to every worker, and build an
    # environment there. Our workers have one, and read nothing of that directory.
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = UV_RUN in os.environ and by_uv
    try:
        ray.init(include_dashboard=False, logging_level=level, log_to_driver=verbose, **options)
    except SystemExit:  # Ray's own answer to SIGTERM while it starts
        raise Terminated from None
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = by_uv
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
