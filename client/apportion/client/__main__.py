"""`python -m apportion.client`: why nothing arrives from this environment.

`python -m apportion.client hash tenant NAME` says what a name is called where ids are hashed.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from apportion.client import id_hashing
from apportion.client.counting import counts
from apportion.client.selftest import Finding, diagnose
from apportion.client.vllm.installed import findings

_USAGE = f"usage: python -m apportion.client [hash {{{','.join(id_hashing.KINDS)}}} TEXT ...]\n"


def main(environ: Mapping[str, str], argv: Sequence[str] = ()) -> int:
    """Print what was found; 0 where spans of this environment reach an agent whole, else 1."""
    if argv:
        return _hash(environ, argv)
    arrive = _shown(diagnose(environ))
    whole = _shown(itertools.chain(findings(environ), _ids(environ)))
    for reason, times in sorted(counts().items()):
        print(f"FAIL {reason}: {times}")
        arrive = False
    if not arrive:
        print("spans from here do not arrive")
    else:
        short = "" if whole else ", but not with all that they could say"
        print("spans from here arrive" + short)
    return 0 if arrive and whole else 1


def _shown(found: Iterable[Finding]) -> bool:
    """Print them; whether all are good."""
    good = True
    for finding in found:
        print("ok  " if finding.good else "FAIL", finding.text)
        good = good and finding.good
    return good


def _ids(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether ids are hashed here, where that is asked for."""
    ids = id_hashing.HashedIds()
    ids.configure(environ)
    if ids.on:
        problem = ids.problem()
        if problem is None:
            yield Finding(good=True, text=f"ids are hashed by the key in {ids.path}")
        else:
            yield Finding(good=False, text=f"requests have no ids: {problem}")


def _hash(environ: Mapping[str, str], argv: Sequence[str]) -> int:
    command, kind, *texts = *argv, *[""] * (2 - len(argv))
    if command != "hash" or kind not in id_hashing.KINDS or not texts:
        sys.stderr.write(_USAGE)
        return 2
    path = environ.get(id_hashing.KEY_FILE)
    if not path:
        sys.stderr.write(f"set {id_hashing.KEY_FILE} to the file of the key\n")
        return 2
    try:
        key = id_hashing.read_key(Path(path))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for text in texts:
        print(id_hashing.hashed(key, kind, text))
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ, sys.argv[1:]))
