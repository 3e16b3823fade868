"""The fixtures of a small language (tests/small_language.py), for every test of this folder."""

from small_language import *  # noqa: F403
