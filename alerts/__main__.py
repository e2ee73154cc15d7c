"""Writes what `alerts/source/` says as Prometheus', promtool's and Grafana's files and a page.

    python -m alerts [--check] [--output FOLDER [--set NAME=VALUE ...]]

Without `--output` the repository's own files are written, which have the defaults. A folder of
one's own keeps what was set for it (`alerts/parameters.yaml` there), and `--set` changes that. With
`--check` nothing is written; the exit status is 1 where a file is not in step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from alerts import grafana, prometheus, runbook
from alerts.parameters import KEPT, ParameterError, keeping, kept
from alerts.source import Source, SourceError, load

REPOSITORY: Final = Path(__file__).parents[1]
_HEAD: Final = "# Made from alerts/source/ by `make alerts`; do not edit.\n"


def files(source: Source) -> dict[Path, str]:
    """The text of each file, by its path below the folder for them."""
    documents = prometheus.rules(source) | prometheus.tests(source)
    made = {Path("alerts/prometheus") / name: _yaml(each) for name, each in documents.items()}
    made[Path("alerts/grafana/apportion.yaml")] = _yaml(grafana.provisioning(source))
    made[Path("docs/runbook.md")] = runbook.page(source)
    return made


class _Dumper(yaml.SafeDumper):
    """Block style, lists indented, long texts on lines of their own."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 - PyYAML's signature
        return super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _text(_: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(document: Any) -> str:
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
    return _HEAD + body


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them; 0 where they are in step."""
    parser = argparse.ArgumentParser(prog="python -m alerts")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="given")
    parser.add_argument("--output", type=Path, default=REPOSITORY, metavar="FOLDER")
    options = parser.parse_args(arguments)
    pairs = [entry.partition("=") for entry in options.given]
    if any(not separator for _, separator, _ in pairs):
        parser.error("--set wants NAME=VALUE")
    output: Path = options.output
    own = output.resolve() != REPOSITORY.resolve()
    if pairs and not own:
        parser.error("--set wants --output FOLDER: the repository's own files have the defaults")
    try:
        chosen = kept(output) | {name: value for name, _, value in pairs} if own else {}
        made = files(load(chosen))
    except (SourceError, ParameterError) as error:
        parser.error(str(error))
    if own:
        made[KEPT] = keeping(chosen)
    stale = 0
    for name, text in made.items():
        path = output / name
        if options.check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                sys.stderr.write(f"{name} is not in step; run it without --check\n")
                stale = 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if own and not options.check:
        settings = " ".join(f"{name}={value}" for name, value in sorted(chosen.items()))
        sys.stdout.write(f"{len(made)} files in {output} with {settings or 'all defaults'}\n")
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
