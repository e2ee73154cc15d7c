"""A stranger's text as text of XML and HTML."""

from __future__ import annotations

from html import escape


def xml_text(text: str) -> str:
    """`text` with nothing in it that is markup, nor a control character, which XML has not."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return escape(text, quote=False)
