"""reStructuredText → its paragraphs of prose, without code, tables, headings and markup."""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

# Directives whose body is prose. The first line of a remark is prose too; that of a description is a name or a version.
_REMARKS = r"note|warning|tip|hint|important|caution|danger|attention|error|deepalchemy|legacy"
_DESCRIPTIONS = (
    r"admonition|topic|sidebar|container|glossary|seealso|version(?:added|changed)|deprecated|object|describe"
    r"|(?:class|static)?method|class|attribute|function|data|exception|module|setting|django-admin(?:-option)?"
    r"|fieldlookup|template(?:filter|tag)|signal|event|command|option|envvar|control|state|reqmeta|stat"
)
_REMARK = re.compile(rf"\.\.\s+(?:{_REMARKS})::\s*(.*)$")
_DESCRIPTION = re.compile(rf"\.\.\s+(?:\w+:)?(?:{_DESCRIPTIONS})::")
_MARKER = re.compile(r"(?:[*+•-]|#\.|\(?(?:\d+|[a-zA-Z])[.)])\s+(?=\S)|:[^:`]+:(?:\s+|$)")  # list item, field
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}$")
_TABLE = re.compile(r"[=+-]{2,}(?:[\s=+-]*[=+-])?$|\||\+[=+-]|>>>")
_LABEL = re.compile(r"\.\. _([^:]+):$")

_INLINE = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"(?<![\w.`<])([A-Za-z]+)__?(?=[\s.,;:)]|$)", r"\1"),  # word_ is a link
        (r"\\ ", ""),
        (r":(rfc|pep|cve):`(\d[\d-]*)[^`]*`", lambda match: f"{match[1].upper()} {match[2]}"),
        (r"(?::[\w+-]+)*:`([^`<]+?)\s*<[^`>]*>`", r"\1"),  # :role:`text <target>`
        (r"(?<!`)`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1"),  # `text <address>`_
        (r":doc:`/?(?:[^`/]*/)*([^`/]+)`", lambda match: _target_words(match[1])),
        (r":[\w:+-]+:`~(?:[^`]*\.)?([^`.]+)`", r"\1"),  # :role:`~a.b.c` is shown as c
        (r":[\w:+-]+:`[!.]?(?:_\w+\.)?([^`]*)`", r"\1"),
        (r"``(.+?)``", r"\1"),
        (r"`([^`]+)`_{0,2}", r"\1"),
        (r"\[[#*\d][\w-]*\]_", ""),
        (r"(?<![*\w])\*\*(\S(?:[^*]*\S)?)\*\*", r"\1"),
        (r"(?<![*\w])\*(\S(?:[^*]*\S)?)\*(?![*\w])", r"\1"),
        (r"(?<=[.?!:])::$", ""),
        (r"::$", ":"),
        (r"\\(?=\S)", ""),
        (r"\s+", " "),
        (r" (?=[.,;:](?:\s|$))", ""),
    )
)
_REFERENCE = re.compile(r":ref:`([^`<]+)`")
_WORD = re.compile(r"(?<![\w.])[A-Za-z]+(?:['’-][A-Za-z]+)*(?=[\s.,;:?!)\"']|$)")
_LEFTOVER = re.compile(r"`|::|://|\||:\w+:|\.\. |>>>|\\")


def prose_paragraphs(source: str, titles: Mapping[str, str] | None = None) -> list[str]:
    """The paragraphs of English in a reStructuredText file, in order, each on one line.

    The body of remarks and descriptions is kept; other directives are excluded. So are literal and code blocks,
    doctests, comments, headings, tables, names of fields, and every paragraph that does not read like a sentence: fewer
    than five words, no full stop, an address, or markup that could not be rendered. Roles, links, emphasis and inline
    code become their text.

    Args:
        source: content of the file.
        titles: label → title, collected by `section_titles` from all files that a reference may point to.
    """
    paragraphs = (render_inline(" ".join(block), titles or {}) for block in _blocks(source))
    return [paragraph for paragraph in paragraphs if _reads_like_prose(paragraph)]


def section_titles(source: str) -> dict[str, str]:
    """Label → title of the section that follows it. A reference to the label is shown as this title."""
    lines = [line for line in source.splitlines() if line.strip()]
    titles: dict[str, str] = {}
    labels: list[str] = []  # labels of the next heading
    for line, following in pairwise(lines):
        label = _LABEL.match(line)
        if label:
            labels.append(label[1].strip("`").lower())
        elif labels and not _UNDERLINE.match(line):
            if _UNDERLINE.match(following):
                titles.update(dict.fromkeys(labels, render_inline(line, {})))
            labels = []
    return titles


def render_inline(text: str, titles: Mapping[str, str]) -> str:
    """Replace inline markup by the text that a reader of the page sees."""
    text = _REFERENCE.sub(
        lambda match: titles.get(match[1].strip("!~ ").lower()) or _target_words(match[1]), text
    )
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text.strip()


def _blocks(source: str) -> Iterator[list[str]]:
    """Runs of lines that belong to one paragraph, without headings and tables."""
    block: list[str] = []
    margin = 0  # indent of the block's first line
    continued: int | None = 0  # indent of its other lines; None until one is seen
    skipped_under: int | None = None  # lines with a larger indent than this are not prose
    for line in [*source.expandtabs().splitlines(), ""]:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if skipped_under is not None and (not text or indent > skipped_under):
            continue
        skipped_under = None
        directive = text == ".." or text.startswith(".. ")
        marker = _MARKER.match(text)
        if block and (not text or directive or marker or continued not in (None, indent)):
            if not any(_UNDERLINE.match(line) or _TABLE.match(line) for line in block):
                yield block
            if not text and block[-1].endswith("::"):
                skipped_under = margin
            block = []
        if not block:
            margin, continued = indent, None if directive or marker else indent
        elif continued is None:
            continued = indent
        if directive:
            remark = _REMARK.match(text)
            skipped_under = None if remark or _DESCRIPTION.match(text) else indent
            text = remark[1] if remark else ""
        block += [text[marker.end() :] if marker else text] if text else []


def _target_words(target: str) -> str:
    return re.sub(r"[-_:]+", " ", target.lstrip("~!"))


def _reads_like_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        len(_WORD.findall(text)) >= 5
        and text[-1] in ".?!:)\"'"
        and letters >= 0.85 * len(text)
        and not _LEFTOVER.search(text)
    )
