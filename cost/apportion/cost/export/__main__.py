"""The process that writes: a request on standard input, what was written on standard output."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from apportion.core.errors import ApportionError
from apportion.cost.export.days import write_days
from apportion.cost.export.export import Request
from apportion.cost.ledger.reader import LedgerReader


def main() -> int:
    """Exit status 2: refused, with a sentence on standard error."""
    request = Request(**json.load(sys.stdin))
    try:
        with LedgerReader.of(request.ledger) as ledger:
            since, until = request.since_unix_ns, request.until_unix_ns
            exported = write_days(ledger, Path(request.directory), since, until)
    except ApportionError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    except OSError as error:
        place = error.filename or request.directory
        sys.stderr.write(f"{place} cannot be written ({error.strerror}): give another directory\n")
        return 2
    json.dump(asdict(exported), sys.stdout)
    return 0


sys.exit(main())
