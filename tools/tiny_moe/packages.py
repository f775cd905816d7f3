"""Debian packages whose text is in the public domain, and how each one's text is read.

Every decoder takes the unpacked package folder and returns documents in reading order, plain ASCII.
"""

from __future__ import annotations

import gzip
import itertools
import re
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-", "…": "...", "æ": "ae", "é": "e"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One chapter or dictionary entry; a `book` is held out as a whole; `term` is a headword or ''."""

    book: str
    text: str
    term: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One Debian package; `licence` quotes its copyright file, word for word."""

    package: str
    licence: str
    read: Callable[[Path], list[Document]]


def plain(text: str) -> str:
    """Printable ASCII, one space between words of a line, no trailing space."""
    text = text.translate(ASCII).encode("ascii", "ignore").decode()
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+", " ", text)).replace(" \n", "\n").strip()


def read_kjv(folder: Path) -> list[Document]:
    """`bible.data`: big-endian header (window bytes, count, offsets), then compress(1) windows without magic bytes."""
    raw = (folder / "usr/lib/bible.data").read_bytes()
    count = struct.unpack(">I", raw[0x58:0x5C])[0]
    offsets = struct.unpack(f">{count + 1}I", raw[0x5C : 0x5C + 4 * (count + 1)])
    windows = [
        subprocess.run(["gzip", "-dc"], input=b"\x1f\x9d\x90" + raw[a:b], capture_output=True, check=True).stdout
        for a, b in itertools.pairwise(offsets)
    ]
    chapters: dict[tuple[str, str], list[str]] = {}
    for book, chapter, verse in re.findall(
        r"^(\d?[A-Z][A-Za-z]+)(\d+):\d+ (.+)$", b"".join(windows).decode("ascii"), re.M
    ):
        chapters.setdefault((book, chapter), []).append(verse)
    return [Document(book=book, text=plain("\n".join(verses))) for (book, _), verses in chapters.items()]


def read_web(folder: Path) -> list[Document]:
    """SWORD zText: `.bzs` holds (offset, size, unpacked size) per zlib block of OSIS; a chapter begins at its sID."""
    module = folder / "usr/share/sword/modules/texts/ztext/engWEB2015eb"
    markup = ""
    for part in ("ot", "nt"):
        index, packed = (module / f"{part}.bzs").read_bytes(), (module / f"{part}.bzz").read_bytes()
        for offset, size, _ in struct.iter_unpack("<3I", index):
            markup += zlib.decompress(packed[offset : offset + size]).decode() if size else ""
    pieces = re.split(r'<chapter [^>]*osisID="(\w+)\.\d+" sID="[^"]+"/>', markup)
    return [Document(book=book, text=_osis_text(body)) for book, body in zip(pieces[1::2], pieces[2::2], strict=True)]


def _osis_text(markup: str) -> str:
    markup = re.sub(r"<(note|title)\b.*?</\1>", " ", markup, flags=re.S)
    markup = re.sub(r'<(l|lg|div)\b[^>]*eID=[^>]*type="x-p"[^>]*>|<(l|lg)\b[^>]*sID=[^>]*>', "\n", markup)
    text = plain(re.sub(r"<[^>]+>", "", markup).replace("&amp;", "&"))
    return re.sub(r"\n+ *", "\n", text)


def _dictd(folder: Path, name: str, encoding: str = "utf-8") -> str:
    return gzip.decompress((folder / f"usr/share/dictd/{name}.dict.dz").read_bytes()).decode(encoding)


def read_devil(folder: Path) -> list[Document]:
    """The Devil's Dictionary, one document per definition."""
    body = _dictd(folder, "devil").split("ABASEMENT, n.", 1)[1]
    pieces = re.split(
        r"^([A-Z][A-Z' -]+), ((?:n|adj|v|adv|pp|x|pro)\.(?:[a-z]+\.)?)", "ABASEMENT, n." + body, flags=re.M
    )
    return [
        Document(book=f"devil {term}", term=term.lower(), text=plain(f"{term}, {kind} {text.strip()}"))
        for term, kind, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
    ]


def read_jargon(folder: Path) -> list[Document]:
    body = re.sub(r"\{\s*([^}]*?)\s*\}", r"\1", _dictd(folder, "jargon").split("(TM)\n", 1)[1])
    pieces = re.split(r"\n\n(?=\S[^\n]*\n(?: /| [a-z]+\.|\n))", body)
    return [_jargon_entry(piece) for piece in pieces if re.match(r"[A-Za-z]", piece)]


def _jargon_entry(piece: str) -> Document:
    term, _, rest = piece.partition("\n")
    text = plain(re.sub(r"^ {4}", "", re.sub(r"^ [^ \n][^\n]*\n", "", rest), flags=re.M))
    return Document(book=f"jargon {term}", term=term, text=f"{plain(term)}: {text}")


def read_elements(folder: Path) -> list[Document]:
    """Only elements 1 to 103: the texts of the heavier ones came from another work, the file says."""
    body = _dictd(folder, "elements", "latin-1")
    entries = re.findall(r"^([a-z]+)\nSymbol: (\w+)\nAtomic number: (\d+)\n(.+?)(?=\n\n|\Z)", body, re.M | re.S)
    return [
        Document(
            book=f"element {name}", term=name, text=f"{name}: symbol {symbol}, atomic number {number}.\n{plain(text)}"
        )
        for name, symbol, number, text in entries
        if int(number) <= 103
    ]


SOURCES = (
    Source(
        package="bible-kjv-text",
        licence="The copyright for the King James Version text of the Bible is expired since the translation was done "
        "in 1611 under King James the first of Great Britain.",
        read=read_kjv,
    ),
    Source(
        package="sword-text-web",
        licence="The World English Bible is in the Public Domain. That means that it is not copyrighted.",
        read=read_web,
    ),
    Source(
        package="dict-devil",
        licence="The Devil's Dictionary is in the public domain, its copyright has expired.",
        read=read_devil,
    ),
    Source(
        package="dict-jargon",
        licence="This document (the Jargon File) is in the public domain, to be freely used, shared, and modified.",
        read=read_jargon,
    ),
    Source(
        package="dict-elements",
        licence="So, I place this in the public domain, if it somehow breaks, you get to keep both pieces.",
        read=read_elements,
    ),
)
