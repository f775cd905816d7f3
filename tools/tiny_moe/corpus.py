"""Fetch the public-domain packages and write the training text.

    python -m tools.tiny_moe.corpus [--data .data/tiny_moe]

Needs `apt-get` and `dpkg` (Debian or Ubuntu, no root). Writes `corpus.json` into the data folder and the licence record
`tools/tiny_moe/sources.json`, which names each package's version, SHA-256 and licence statement.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.tiny_moe.errors import TinyMoeError
from tools.tiny_moe.packages import SOURCES, Document, Source

RECORD = Path(__file__).with_name("sources.json")
# Whole books, in both translations: a held-out chapter must not be known from its paraphrase.
HELD_OUT_BOOKS = {"Ruth", "Jonah", "Titus", "Est", "Esth", "EsthGr", "Hab", "Jas", "Phlm", "Phmn"}
WORDS = 1200
# Period slurs and coarse words have no place in a demonstration's answers.
UNWANTED = re.compile(
    r"\b(nigg\w+|negro\w*|darky|jews?\b.{0,40}(greed|money)|faggot\w*|fuck\w*|shit\w*|sexual\w*|porn\w*|tits?|cunt\w*)\b",
    re.I,
)
UNWANTED_WORDS = {"ass", "asses", "dung", "harlot", "whore", "naked", "slain", "slave", "flesh", "womb", "breasts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents in reading order, (term, definition) pairs of the training part, and frequent lower-case words."""

    train: list[str]
    held_out: list[str]
    definitions: list[tuple[str, str]]
    words: list[str]


def load_corpus(data: Path) -> Corpus:
    """Read `corpus.json`; raises `TinyMoeError` when it is missing."""
    path = data / "corpus.json"
    if not path.is_file():
        raise TinyMoeError(f"{path} is missing: run `python -m tools.tiny_moe.corpus --data {data}` first")
    fields = json.loads(path.read_text())
    fields["definitions"] = [tuple(pair) for pair in fields["definitions"]]
    return Corpus(**fields)


def is_held_out(document: Document) -> bool:
    """Whole Bible books by name; one dictionary entry of forty by hash."""
    digest = hashlib.sha256(document.book.encode()).digest()
    return document.book in HELD_OUT_BOOKS or (bool(document.term) and digest[0] < 7)


def definition(document: Document) -> str:
    """The entry's first sentences, at most 320 characters, as one paragraph without the headword; '' if none fits."""
    body = document.text.partition(": " if document.book.startswith(("jargon", "element")) else ". ")[2]
    paragraph = re.sub(r"\s+", " ", body.split("\n\n")[0]).strip()
    paragraph = re.sub(r"^(\[[^\]]*\]|\d+\.|n\.|v\.|adj\.|\s)+", "", paragraph)
    cut = re.match(r".{30,318}[.!?](?= [A-Z]|$)", paragraph)
    return cut.group(0) if cut else ""


def build(documents: list[Document]) -> Corpus:
    """What may be trained on and what is held out, without documents that have unwanted words."""
    documents = [d for d in documents if not UNWANTED.search(d.text)]
    train = [d for d in documents if not is_held_out(d)]
    counts = collections.Counter(re.findall(r"\b[a-z]{3,8}\b", " ".join(d.text for d in train)))
    return Corpus(
        train=[d.text for d in train],
        held_out=[d.text for d in documents if is_held_out(d)],
        definitions=[
            (d.term, definition(d)) for d in train if re.fullmatch(r"[A-Za-z -]{3,24}", d.term) and definition(d)
        ],
        words=sorted(word for word, _ in counts.most_common(WORDS) if word not in UNWANTED_WORDS),
    )


def fetch(source: Source, data: Path) -> tuple[Path, dict[str, str]]:
    """Download and unpack one package; returns its folder and its record."""
    debs, folder = data / "debs", data / "unpacked" / source.package
    debs.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{source.package}_*.deb")):
        subprocess.run(["apt-get", "download", "-q", source.package], cwd=debs, check=True, capture_output=True)
    deb = next(debs.glob(f"{source.package}_*.deb"))
    subprocess.run(["dpkg", "-x", str(deb), str(folder)], check=True)
    statement = " ".join((folder / f"usr/share/doc/{source.package}/copyright").read_text().split())
    if " ".join(source.licence.split()) not in statement:
        raise TinyMoeError(
            f"{source.package}: its copyright file no longer says {source.licence!r}; check the licence before training"
        )
    return folder, {
        "package": source.package,
        "version": deb.name.split("_")[1].replace("%3a", ":"),
        "sha256": hashlib.sha256(deb.read_bytes()).hexdigest(),
        "licence": source.licence,
    }


def write_corpus(data: Path) -> None:
    """Fetch every source into `data`, write the corpus there, and the record of its sources."""
    documents: list[Document] = []
    records: list[dict[str, object]] = []
    for source in SOURCES:
        folder, record = fetch(source, data)
        found = source.read(folder)
        documents += found
        records.append({**record, "documents": len(found), "characters": sum(len(d.text) for d in found)})
        print(f"{source.package}: {records[-1]['documents']} documents, {records[-1]['characters']} characters")
    (data / "corpus.json").write_text(json.dumps(dataclasses.asdict(build(documents))))
    RECORD.write_text(json.dumps(records, indent=1) + "\n")


def main() -> int:
    """Exit status 2 when a tool is missing or a package cannot be fetched."""
    parser = argparse.ArgumentParser(description="Fetch public-domain text and write the training corpus.")
    parser.add_argument("--data", type=Path, default=Path(".data/tiny_moe"), help="work folder (default: %(default)s)")
    data: Path = parser.parse_args().data
    absent = [tool for tool in ("apt-get", "dpkg", "gzip") if shutil.which(tool) is None]
    try:
        if absent:
            raise TinyMoeError(f"missing on this machine: {', '.join(absent)}; run on Debian or Ubuntu")
        write_corpus(data)
    except (TinyMoeError, subprocess.CalledProcessError) as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
