"""The ways in which servers that speak S3 differ: what each is asked for, and what its refusals and its answers teach.

Everything is asked for as AWS has it. Who refuses something, or takes no notice of it, is asked for what it knows from then on. All
of that is decided here, in pure functions over one table; what is lost by it is told to the user, once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ckpt_async.stores.s3.access import S3Access

__all__ = [
    "CHECKSUM_CRC32",
    "CHECKSUM_MD5",
    "CHECKSUM_OFF",
    "Dialect",
    "Lesson",
    "Refusal",
    "dialect_for",
    "heeded",
    "learn",
    "overlooked",
]

#: What protects a body on its way: its CRC-32 (free, for it is known), its MD5 (what every server knows), or nothing.
CHECKSUM_CRC32, CHECKSUM_MD5, CHECKSUM_OFF = "crc32", "md5", "off"

CONDITIONS = frozenset({"IfMatch", "IfNoneMatch"})
_SUMS = frozenset({"ChecksumCRC32", "ChecksumAlgorithm", "ChecksumType"})
_WRITES = frozenset({"put_object", "upload_part", "create_multipart_upload", "copy_object"})

_MD5_COST = "That costs the uploads 1.7 s of a core per GiB; The option checksums:off does without."
_CRC_REFUSED = f"The store refuses CRC-32 checksums: what is sent carries its MD5 instead. {_MD5_COST}"
_CRC_OVERLOOKED = f"The store does not say that it has checked a CRC-32: from now on what is sent carries its MD5. {_MD5_COST}"
_MD5_REFUSED = "The store refuses checksums of every kind: what is damaged on its way there is noticed only when it is loaded."
_NOT_ENCRYPTED = "The store does not say that it encrypts what it was asked to encrypt. Some servers pass that request by."


@dataclass(frozen=True)
class Dialect:
    """What a server is asked for.

    Attributes
    ----------
    checksum : str
        What goes along with a body: `CHECKSUM_CRC32`, `CHECKSUM_MD5` or `CHECKSUM_OFF`.
    whole_checksum : bool
        Whether the CRC-32 of an object in parts is that of the whole; else each part has its own.
    conditions : frozenset of str
        The conditions that writes carry.
    proven : frozenset of str
        Those of them that the server is known to heed: some accept them and take no notice.
    batch : str
        How a batch of deletions is protected: `CHECKSUM_CRC32` or `CHECKSUM_MD5`; `CHECKSUM_OFF`: there are none, each key is
        deleted by itself.
    list_v2 : bool
        Whether objects are listed by the second version of that request.
    """

    checksum: str = CHECKSUM_CRC32
    whole_checksum: bool = True
    conditions: frozenset[str] = CONDITIONS
    proven: frozenset[str] = frozenset()
    batch: str = CHECKSUM_CRC32
    list_v2: bool = True


@dataclass(frozen=True)
class Refusal:
    """An answer by which a server refuses a request.

    Attributes
    ----------
    operation : str
        As botocore calls it: ``"put_object"``.
    asked : collection of str
        The names of the request's parameters.
    code, message : str
        Of the answer.
    """

    operation: str
    asked: Collection[str]
    code: str
    message: str


@dataclass(frozen=True)
class Lesson:
    """What was learnt: how the server is asked from now on, and what the user is told of it (empty: nothing is lost)."""

    dialect: Dialect
    notice: str = ""


@dataclass(frozen=True)
class _Row:
    """One difference: a refusal that `fits` is answered by the change."""

    operations: frozenset[str]
    asked: frozenset[str]
    fits: Callable[[Refusal], bool]
    change: Callable[[Dialect, Refusal], Dialect]
    notice: str = ""


#: "I don't know that", without a word of what.
_UNKNOWN = {"NotImplemented", "501", "MethodNotAllowed", "405"}
#: "That is wrong": what it means is in the message.
_WRONG = {"InvalidArgument", "InvalidRequest", "BadRequest", "400", "InvalidHeader", "UnsupportedArgument", "UnsupportedHeader"}
#: Not all that speaks of a checksum means that checksums are not known: a wrong one is refused too.
_UNSUPPORTED = re.compile(r"(?i)not (implemented|supported|allowed|recogni[sz]ed|known)|un(supported|known|recogni[sz]ed|expected)")


def _unknown(refusal: Refusal) -> bool:
    return refusal.code in _UNKNOWN


def _unknown_header(refusal: Refusal) -> bool:
    """Whether some header is not known. Where encryption is asked for, it may be that one."""
    said = refusal.code in _UNKNOWN and "header" in refusal.message.lower()
    return said and "ServerSideEncryption" not in refusal.asked


def _says(*words: str) -> Callable[[Refusal], bool]:
    """Whether it is refused by name."""

    def fits(refusal: Refusal) -> bool:
        text = refusal.message.lower()
        said = any(word in text for word in words)
        return said and (refusal.code in _UNKNOWN or (refusal.code in _WRONG and _UNSUPPORTED.search(text) is not None))

    return fits


def _without_conditions(dialect: Dialect, asked: Collection[str]) -> Dialect:
    lost = frozenset(asked)
    return dataclasses.replace(dialect, conditions=dialect.conditions - lost, proven=dialect.proven - lost)


_names_checksum = _says("checksum")


def _wants_md5(refusal: Refusal) -> bool:
    return refusal.code == "MissingContentMD5" or (refusal.code in _WRONG and "content-md5" in refusal.message.lower())


def _without_crc32(dialect: Dialect) -> Dialect:
    return dataclasses.replace(dialect, checksum=CHECKSUM_MD5, whole_checksum=False)


#: The first row that fits counts. Encryption is in none of them: who asks for it does not get less.
_TABLE = (
    # Cloudflare R2: a CRC-32 for each part, none for the whole. Tried first where only "not implemented" is said.
    _Row(
        frozenset({"create_multipart_upload"}),
        frozenset({"ChecksumType"}),
        lambda refusal: _unknown(refusal) or _says("checksum-type", "checksumtype", "checksum type", "full_object")(refusal),
        lambda dialect, _: dataclasses.replace(dialect, whole_checksum=False),
    ),
    # Backblaze B2, older Cloudflare R2, S3Proxy, NetApp.
    _Row(_WRITES, _SUMS, _names_checksum, lambda dialect, _: _without_crc32(dialect), _CRC_REFUSED),
    # Backblaze B2: a condition is a header that "implies functionality that is not implemented". (The user is told of it by the
    # trait of the store.)
    _Row(
        frozenset({"put_object"}),
        CONDITIONS,
        lambda refusal: _unknown(refusal) or _says("if-match", "if-none-match", "conditional", "precondition")(refusal),
        lambda dialect, refusal: _without_conditions(dialect, refusal.asked),
    ),
    # S3Proxy says only that some header is not implemented. Without that word it may be anything, such as copies at all.
    _Row(_WRITES, _SUMS, _unknown_header, lambda dialect, _: _without_crc32(dialect), _CRC_REFUSED),
    _Row(
        frozenset({"put_object", "upload_part"}),
        frozenset({"ContentMD5"}),
        lambda refusal: _unknown_header(refusal) or _says("content-md5")(refusal),
        lambda dialect, _: dataclasses.replace(dialect, checksum=CHECKSUM_OFF),
        _MD5_REFUSED,
    ),
    # Older MinIO and Ceph want an MD5 for a batch of deletions; Backblaze B2 wants no other sum.
    _Row(
        frozenset({"delete_objects"}),
        frozenset(),
        lambda refusal: _wants_md5(refusal) or _names_checksum(refusal),
        lambda dialect, _: dataclasses.replace(dialect, batch=CHECKSUM_MD5 if dialect.batch == CHECKSUM_CRC32 else CHECKSUM_OFF),
    ),
    # Google Cloud Storage takes a batch for a request to make a bucket: "invalid argument".
    _Row(
        frozenset({"delete_objects"}),
        frozenset(),
        lambda refusal: refusal.code in _UNKNOWN | _WRONG,
        lambda dialect, _: dataclasses.replace(dialect, batch=CHECKSUM_OFF),
    ),
    _Row(
        frozenset({"list_objects_v2"}),
        frozenset(),
        lambda refusal: refusal.code in _UNKNOWN | _WRONG,
        lambda dialect, _: dataclasses.replace(dialect, list_v2=False),
    ),
)


def dialect_for(access: S3Access) -> Dialect:
    """Return how a server is asked before anything is known of it but how it is reached."""
    # AWS itself heeds conditions.
    proven = access.endpoint_url is None if access.conditional_writes is None else access.conditional_writes
    return Dialect(
        checksum=access.checksums,
        whole_checksum=access.checksums == CHECKSUM_CRC32,
        conditions=frozenset() if access.conditional_writes is False else CONDITIONS,
        proven=CONDITIONS if proven else frozenset(),
    )


def learn(dialect: Dialect, refusal: Refusal) -> Lesson | None:
    """Return what a refusal teaches: the request is then to be sent again. None where it is meant as it is."""
    for row in _TABLE:
        concerned = refusal.operation in row.operations and (not row.asked or not row.asked.isdisjoint(refusal.asked))
        if concerned and row.fits(refusal):
            changed = row.change(dialect, refusal)
            # Refused once more after that, it is no difference of dialect.
            return None if changed == dialect else Lesson(changed, row.notice)
    return None


def overlooked(dialect: Dialect, asked: Collection[str], confirmed: Collection[str]) -> list[Lesson]:
    """Return what the answer to a request that was carried out teaches: who honours something says so in the answer.

    Parameters
    ----------
    asked : collection of str
        The names of the request's parameters.
    confirmed : collection of str
        Those of them that the answer names too.
    """
    lessons = []
    if "ChecksumCRC32" in asked and "ChecksumCRC32" not in confirmed and dialect.checksum == CHECKSUM_CRC32:
        dialect = _without_crc32(dialect)
        lessons.append(Lesson(dialect, _CRC_OVERLOOKED))
    if "ServerSideEncryption" in asked and "ServerSideEncryption" not in confirmed:
        lessons.append(Lesson(dialect, _NOT_ENCRYPTED))
    return lessons


def heeded(dialect: Dialect, condition: str, *, refused: bool) -> Lesson:
    """Return what is known once a write has been tried whose condition did not hold.

    Parameters
    ----------
    condition : str
        ``"IfMatch"`` or ``"IfNoneMatch"``.
    refused : bool
        Whether the server refused it, as it must.
    """
    if refused:
        return Lesson(dataclasses.replace(dialect, proven=dialect.proven | {condition}))
    return Lesson(_without_conditions(dialect, {condition}))
