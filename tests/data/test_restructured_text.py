from textwrap import dedent

import pytest

from electra_kernels.data.restructured_text import prose_paragraphs, section_titles

PROSE = "This is a sentence that stays."


def paragraphs(source):
    return prose_paragraphs(dedent(source))


def test_a_paragraph_becomes_one_line():
    assert paragraphs("""
        The first paragraph
        has two lines.

        The second one has one line only.
        """) == ["The first paragraph has two lines.", "The second one has one line only."]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("call :meth:`save` on it", "call save on it"),
        ("call :meth:`~django.db.models.Model.save` on it", "call save on it"),
        ("call :py:meth:`.Model.save` on it", "call Model.save on it"),
        ("call :func:`_orm.relationship` on it", "call relationship on it"),
        ("the :class:`list of users <app.Users>` on it", "the list of users on it"),
        ("the :doc:`/topics/http/file-uploads` on it", "the file uploads on it"),
        ("the :ref:`unknown-label` on it", "the unknown label on it"),
        ("the :ref:`known-label` on it", "the Known Title on it"),
        ("see :rfc:`9110#section-8.3` for it", "see RFC 9110 for it"),
        ("see `the page <https://example.org>`_ for it", "see the page for it"),
        ("see `the page`_ and there_, too", "see the page and there, too"),
        ("use ``__eq__()`` or *that* and **this**", "use __eq__() or that and this"),
        (r"the :class:`user`\ s of it", "the users of it"),
        ("as was said [1]_ elsewhere", "as was said elsewhere"),
        ("`link", None),
        ("see https://example.org for it", None),
        ("|substitution| for it", None),
    ],
)
def test_inline_markup_becomes_what_the_reader_sees(markup, text):
    found = prose_paragraphs(f"You can {markup}, and that is all.", {"known-label": "Known Title"})
    assert found == ([f"You can {text}, and that is all."] if text else [])


@pytest.mark.parametrize(
    "excluded",
    [
        ".. code-block:: python\n\n    This is a sentence inside of code.\n\n    Another one is here as well.",
        "..\n    This is a comment of some length.",
        ".. This is a comment of some length.",
        ".. image:: a.png\n   :alt: This is the text for it.",
        ".. _target: This is no sentence at all.",
        "This Is a Heading of Some Length.\n=================================",
        "+-----+-----------------+\n| one | This is a table cell of it. |\n+-----+-----------------+",
        "=====  =====\nThis is a row of a table.\n=====  =====",
        ">>> print('This is a test of the docs.')\nThis is a test of the docs.",
        "Too short for it.",
        "A line of a menu without an end",
        "x = [a, b, c, d]; y = {e: f} (and so on for a while).",
    ],
)
def test_text_that_is_not_prose_is_excluded(excluded):
    assert paragraphs(f"{PROSE}\n\n{excluded}\n\n{PROSE}") == [PROSE, PROSE]


def test_a_literal_block_is_excluded_and_its_introduction_is_kept():
    assert paragraphs("""
        This is how it is done::

            Here is some literal text in it.

                It goes on with an indent here.

        And here the prose goes on.
        """) == ["This is how it is done:", "And here the prose goes on."]


def test_a_literal_block_in_a_list_ends_with_the_item():
    assert paragraphs("""
        * This is how it is done::

            Here is some literal text in it.

        * The second item is here, and
          has a second line.
        """) == ["This is how it is done:", "The second item is here, and has a second line."]


def test_remarks_and_descriptions_keep_their_text_without_name_and_options():
    assert paragraphs("""
        .. note:: This remark begins at once
            and goes on below.

            It has a second paragraph, too.

        .. method:: Model.save(force_insert=False, using=None)
            :async:

            Saves the instance to the database.

            :param using: the database that the instance
                is to be saved to.
            :returns: nothing that anybody would want.
        """) == [
        "This remark begins at once and goes on below.",
        "It has a second paragraph, too.",
        "Saves the instance to the database.",
        "the database that the instance is to be saved to.",
        "nothing that anybody would want.",
    ]


def test_a_definition_is_kept_without_its_term():
    assert paragraphs("""
        lazy loading
            This means that it is loaded when needed.
        """) == ["This means that it is loaded when needed."]


def test_a_title_belongs_to_all_labels_before_it():
    assert section_titles(
        dedent("""
        .. _first-label:
        .. _Second Label:

        ============
        Using ``it``
        ============

        .. _no-heading:

        This is a paragraph.

        Other
        -----
        """)
    ) == {"first-label": "Using it", "second label": "Using it"}
