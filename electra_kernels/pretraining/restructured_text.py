"""reStructuredText → the paragraphs of prose in it, without code, tables, headings and markup."""

import re
from collections.abc import Iterator

# Directives whose body is prose. The argument of a remark is prose too; that of the others is a name or a version.
_REMARKS = frozenset(
    "note warning tip hint important caution danger attention error deepalchemy legacy".split()
)
_DESCRIPTIONS = frozenset(
    "admonition topic sidebar container glossary class method attribute function classmethod staticmethod data"
    " exception module setting django-admin django-admin-option fieldlookup templatefilter templatetag signal event"
    " command option envvar control state object describe reqmeta stat versionadded versionchanged deprecated"
    " list-item seealso".split()
)
_DIRECTIVE = re.compile(r"\.\.\s+(?:[\w-]+:)?([\w-]+)::\s*(.*)$")
_LIST_ITEM = re.compile(r"(?:[*+•-]|#\.|\(?(?:\d+|[a-zA-Z])[.)])\s+(?=\S)")
_FIELD = re.compile(r":[^:`]+:(?:\s+|$)")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}$")
_TABLE = re.compile(r"[=+-]{2,}(?:[\s=+-]*[=+-])?$|\||\+[=+-]|>>>")

_INLINE = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\\ ", ""),
        (r":(?:rfc|pep):`(\d+)`", r"number \1"),
        (
            r"(?<!`)(?::[\w+-]+)*:?`([^`<]+?)\s*<[^`>]*>`_{0,2}",
            r"\1",
        ),  # :role:`text <target>`, `text <link>`_
        (r":[\w:+-]+:`~([^`]*\.)?([^`.]+)`", r"\2"),  # :role:`~a.b.c` is shown as c
        (r":doc:`/?(?:[^`/]*/)*([^`/]+)`", lambda match: _words(match[1])),
        (r":ref:`([^`]+)`", lambda match: _words(match[1])),
        (r":[\w:+-]+:`[!.]?([^`]*)`", r"\1"),
        (r"``(.+?)``", r"\1"),
        (r"`([^`]+)`_{0,2}", r"\1"),
        (r"\[[#*\d][\w-]*\]_", ""),
        (r"(?<![*\w])\*\*(\S(?:[^*]*\S)?)\*\*", r"\1"),
        (r"(?<![*\w])\*(\S(?:[^*]*\S)?)\*(?![*\w])", r"\1"),
        (r"(?<=[a-z])__?(?=[\s.,;:)]|$)", ""),  # word_ is a link
        (r"::$", ":"),
        (r"\\(?=\S)", ""),
        (r"\s+", " "),
        (r" (?=[.,;:](?:\s|$))", ""),
    )
)


def prose_paragraphs(source: str) -> list[str]:
    """The paragraphs of English in a reStructuredText file, in order, each on one line.

    Left out: literal and code blocks, doctests, directives that are not remarks or descriptions (of those, the
    body stays), comments, headings, tables, field names, and every paragraph that does not read like a sentence:
    fewer than five words, no full stop, an address, or markup that could not be rendered. Roles, links,
    emphasis and inline code become their text.
    """
    paragraphs = (render_inline(" ".join(block)) for block in _blocks(source))
    return [paragraph for paragraph in paragraphs if _reads_like_prose(paragraph)]


def render_inline(text: str) -> str:
    """Inline markup as the text that a reader of the page sees."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text.strip()


def _blocks(source: str) -> Iterator[list[str]]:
    """Runs of lines that belong to one paragraph."""
    block: list[str] = []
    indent = 0
    skipped_under: int | None = None  # lines with a larger indent than this are no prose
    for line in [*source.expandtabs().splitlines(), ""]:
        text = line.strip()
        here = len(line) - len(line.lstrip())
        if skipped_under is not None:
            if not text or here > skipped_under:
                continue
            skipped_under = None
        item = _LIST_ITEM.match(text)
        if not text or text.startswith(".. ") or item or here != indent:
            if block:
                yield from _kept(block)
                if block[-1].endswith("::") and (not text or here > indent):
                    skipped_under = indent
                block = []
            if not text or (skipped_under is not None and here > skipped_under):
                continue
            skipped_under = None
            indent = here
        if text == ".." or text.startswith(".. "):
            argument = _directive_text(text)
            if argument is None:
                skipped_under = here
            elif argument:
                block = [argument]
            continue
        if item:
            indent, text = here + item.end(), text[item.end() :]
        block.append(text)


def _kept(block: list[str]) -> Iterator[list[str]]:
    """The block, without what it has of headings and field names; nothing if it is a table."""
    if any(_UNDERLINE.match(line) for line in block) or any(_TABLE.match(line) for line in block):
        return
    paragraph: list[str] = []
    for line in block:
        field = _FIELD.match(line)
        if field:
            yield paragraph
            paragraph = []
        paragraph.append(line[field.end() :] if field else line)
    yield paragraph


def _directive_text(line: str) -> str | None:
    """What a directive's own line adds to the text; None if its body is no prose."""
    match = _DIRECTIVE.match(line)
    if match is None or match[1] not in _REMARKS | _DESCRIPTIONS:
        return None
    return match[2] if match[1] in _REMARKS else ""


def _words(target: str) -> str:
    return re.sub(r"[-_:]+", " ", target.lstrip("~!"))


def _reads_like_prose(text: str) -> bool:
    words = re.findall(r"(?<![\w.])[A-Za-z]+(?:['’-][A-Za-z]+)*(?=[\s.,;:?!)\"']|$)", text)
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        len(words) >= 5
        and text[-1] in ".?!:)\"'"
        and letters >= 0.85 * len(text)
        and not re.search(r"`|::|://|\||:\w+:|\.\. |>>>", text)
    )
