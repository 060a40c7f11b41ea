"""What to do about a place that can't be read or written: a few words behind the system's, or the store's, own.

Owns what is known of such errors. Refuses to guess: of an error that it doesn't know it says nothing. Contract: knows errors by
their codes, so that no store's package need be there; no secret is named.
"""

import errno
import os
from collections.abc import Iterator, Mapping

CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
"""Settings of botocore 1.36 and later, which sends and expects checksums that stores other than Amazon's may not know."""
WHEN_REQUIRED = "when_required"
SETTINGS = (*CHECKSUMS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Variables that say how a store is reached, and are no secret: what works for one process must be set for all."""

REFUSES_CHECKSUMS = {
    "InvalidArgument", "InvalidRequest", "NotImplemented", "Unauthorized", "SignatureDoesNotMatch", "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch", "BadDigest", "InvalidDigest", "MalformedTrailerError", "MissingContentLength",
}  # fmt: skip
"""How stores say that they don't know them (boto/botocore#3352 and what links there): each has its own word."""

OF_DISKS = {
    errno.EDQUOT: "make room within your quota (of bytes, and of files)",
    errno.ENOSPC: "make room there: bytes (df -h), or files (df -i)",
    errno.EFBIG: "files may be no larger here: raise the shell's limit (ulimit -f), or take another file system",
    errno.EMFILE: "raise the shell's limit of open files (ulimit -n)",
    errno.EROFS: "give another place, or mount it for writing",
}
"""What to do about a file system that takes no more."""

READING = "s3:GetObject on what lies there, and s3:ListBucket on the bucket: without it what isn't there yet is forbidden too"
NEEDED = {
    "ListObjectsV2": "s3:ListBucket on the bucket",
    "ListObjects": "s3:ListBucket on the bucket",
    "HeadObject": READING,
    "GetObject": READING,
    "PutObject": "s3:PutObject on what lies there",
    "DeleteObject": "s3:DeleteObject on what lies there",
    "DeleteObjects": "s3:DeleteObject on what lies there",
}
"""What a policy must allow, by the operation that was refused."""


def remedy_of(error: BaseException, environ: Mapping[str, str] = os.environ) -> str:
    """What to do about an error, as the end of a sentence that begins with "; "; empty where that isn't known.

    Args:
        error: with what it came from.
        environ: the environment.
    """
    for each in _chain(error):
        code, operation = _answer(each)
        if code == "RequestTimeTooSkewed":
            return "; this machine's clock is wrong: set it (timedatectl set-ntp true)"
        if code in ("SlowDown", "503"):
            return "; the store wants fewer requests: wait, or give a smaller --max-concurrent"
        if (code in REFUSES_CHECKSUMS or "Checksum" in type(each).__name__) and not _modest(environ):
            settings = " and ".join(f"{name}={WHEN_REQUIRED}" for name in CHECKSUMS)
            return f"; if the store isn't Amazon's, it may not know the newer checksums: set {settings}"
        if code in ("AccessDenied", "Forbidden", "403"):
            return f"; its policy must allow these credentials {NEEDED[operation]}" if operation in NEEDED else ""
        if isinstance(each, OSError) and each.errno in OF_DISKS:
            return f"; {OF_DISKS[each.errno]}"
    return ""


def _modest(environ: Mapping[str, str]) -> bool:
    return all(environ.get(name, "").lower() == WHEN_REQUIRED for name in CHECKSUMS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[str, str]:
    """Code and operation of an answer by S3, as botocore's errors keep them; empty where there is none."""
    response = getattr(error, "response", None)
    told = response.get("Error", {}) if isinstance(response, dict) else {}
    return str(told.get("Code", "")), str(getattr(error, "operation_name", ""))
