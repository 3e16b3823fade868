import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_stores import store

from electra_kernels.data import packing
from electra_kernels.data.packing import plan_rows
from electra_kernels.errors import UserError

LENGTHS = st.lists(st.integers(0, 60), max_size=40).filter(any)
CORPUS = [0, 300, 5, 61, 18, 18, 18, 1, 90, 0, 7, 36, 12, 2, 54]


def rows_of(plan):
    """(start, length) of the pieces of each row."""
    pieces = list(zip(plan.starts.tolist(), plan.lengths.tolist()))
    return [pieces[start:end] for start, end in zip(plan.rows[:-1], plan.rows[1:])]


@settings(deadline=None)
@given(LENGTHS, st.integers(10, 40), st.integers(0, 2**32))
def test_every_token_stands_in_exactly_one_row(tmp_path_factory, lengths, length, seed):
    corpus = store(tmp_path_factory.mktemp("store"), lengths)
    plan = plan_rows(corpus, length, seed=seed)
    places = sorted(place for start, n in zip(plan.starts, plan.lengths) for place in range(start, start + n))
    assert places == list(range(len(corpus.tokens)))
    assert plan.tokens == len(corpus.tokens)
    assert plan.dropped_pieces == plan.dropped_tokens == 0


@settings(deadline=None)
@given(LENGTHS, st.integers(10, 40))
def test_pieces_fit_their_rows_and_cross_no_boundary_of_a_document(tmp_path_factory, lengths, length):
    corpus = store(tmp_path_factory.mktemp("store"), lengths)
    plan = plan_rows(corpus, length, seed=0)
    for row in rows_of(plan):
        assert 0 < sum(n + 2 for _, n in row) <= length
        assert [n for _, n in row] == sorted((n for _, n in row), reverse=True)
        for start, n in row:
            assert n > 0
            document = np.searchsorted(corpus.offsets, start, side="right")
            assert start + n <= corpus.offsets[document]
    # Only the last piece of a document is shorter than a row.
    assert len(plan.starts) == sum(-(-n // (length - 2)) for n in lengths)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=40).filter(lambda n: max(n, default=0) >= 8), st.integers(10, 40)
)
def test_without_packing_short_pieces_are_dropped_and_counted(tmp_path_factory, lengths, length):
    corpus = store(tmp_path_factory.mktemp("store"), lengths)
    plan = plan_rows(corpus, length, seed=0, pack=False)
    width = length - 2
    pieces = [min(width, n - start) for n in lengths for start in range(0, n, width)]
    assert plan.lengths.tolist() == [n for n in pieces if n >= 8]
    assert [len(row) for row in rows_of(plan)] == [1] * len(plan)
    assert plan.dropped_pieces == sum(n < 8 for n in pieces)
    assert plan.dropped_tokens == sum(n for n in pieces if n < 8) == len(corpus.tokens) - plan.tokens


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("length", [20, 64])
def test_the_window_changes_neither_cuts_nor_totals(tmp_path, monkeypatch, pack, length):
    at_once = plan_rows(store(tmp_path / "a", CORPUS), length, seed=1, pack=pack)
    monkeypatch.setattr(packing, "_WINDOW", 3)
    in_windows = plan_rows(store(tmp_path / "b", CORPUS), length, seed=1, pack=pack)
    assert sorted(zip(in_windows.starts, in_windows.lengths)) == sorted(zip(at_once.starts, at_once.lengths))
    assert in_windows.tokens == at_once.tokens
    assert in_windows.dropped_tokens == at_once.dropped_tokens
    assert len(in_windows.rows) >= len(at_once.rows)
    if not pack:
        assert in_windows.starts.tolist() == at_once.starts.tolist()


@pytest.mark.parametrize("length", [128, 512, 1024])
def test_less_than_one_percent_of_an_ordinary_text_is_padding(tmp_path, length):
    lengths = np.random.default_rng(0).lognormal(7, 1, 1000).astype(int)
    corpus = store(tmp_path, lengths)
    assert plan_rows(corpus, length, seed=0, pack=False).padding > 0.03
    packed = plan_rows(corpus, length, seed=0)
    assert packed.padding < 0.01
    cells = (packed.tokens + 2 * len(packed.starts)) / (len(packed) * length)
    assert packed.padding == pytest.approx(1 - cells)


def test_tweets_share_rows(tmp_path):
    plan = plan_rows(store(tmp_path, np.random.default_rng(0).integers(5, 8, 3000)), 128, seed=0)
    assert plan.padding < 0.02
    assert plan.dropped_tokens == 0
    assert len(plan.starts) / len(plan) > 12


def test_the_seed_chooses_the_neighbours_in_a_row(tmp_path):
    corpus = store(tmp_path, [30] * 4000)
    rows = [rows_of(plan_rows(corpus, 64, seed=seed)) for seed in (0, 1)]
    assert rows[0] != rows[1]
    distances = [abs(a - b) // 30 for (a, _), (b, _) in rows[0]]
    assert np.mean(distances) > 1000, "neighbours in the text stand in the same row"


def test_a_plan_is_computed_once_and_mapped_into_memory(tmp_path, monkeypatch):
    corpus = store(tmp_path, CORPUS)
    first = plan_rows(corpus, 20, seed=3)
    monkeypatch.setattr(packing, "_write", None)
    second = plan_rows(corpus, 20, seed=3)
    assert isinstance(second.starts, np.memmap)
    assert rows_of(first) == rows_of(second)
    assert (first.tokens, first.padding) == (second.tokens, second.padding)


def test_each_digest_length_seed_and_packing_has_a_plan(tmp_path):
    corpus = store(tmp_path, CORPUS)
    for length, seed, pack in [(20, 1, True), (20, 2, True), (21, 1, True), (20, 1, False), (20, 2, False)]:
        plan_rows(corpus, length, seed=seed, pack=pack)
    assert len(list((tmp_path / "plans").iterdir())) == 4, "the seed is unused without packing"
    corpus.meta["digest"] = "e" * 64
    plan_rows(corpus, 20, seed=1)
    assert len(list((tmp_path / "plans").iterdir())) == 5


@pytest.mark.parametrize("name", ["starts.npy", "lengths.npy", "rows.npy", "plan.json"])
@pytest.mark.parametrize("damage", [0.0, 0.5, None])
def test_a_torn_plan_is_made_again(tmp_path, name, damage):
    corpus = store(tmp_path, CORPUS)
    whole = plan_rows(corpus, 20, seed=3)
    expected = rows_of(whole)
    (folder,) = (tmp_path / "plans").iterdir()
    if damage is None:
        (folder / name).unlink()
    else:
        os.truncate(folder / name, int(damage * (folder / name).stat().st_size))
    assert rows_of(plan_rows(corpus, 20, seed=3)) == expected
    assert list((tmp_path / "plans").iterdir()) == [folder]


def test_a_plan_of_other_rules_is_made_again(tmp_path, monkeypatch):
    corpus = store(tmp_path, CORPUS)
    plan_rows(corpus, 20, seed=3)
    monkeypatch.setattr(packing, "_VERSION", 99)
    plan_rows(corpus, 20, seed=3)
    (folder,) = (tmp_path / "plans").iterdir()
    assert json.loads((folder / "plan.json").read_text())["rule"]["version"] == 99


@pytest.mark.parametrize("is_early", [True, False])
def test_the_plan_of_the_fastest_process_is_kept(tmp_path, monkeypatch, is_early):
    """The other one finishes, and sweeps up, before or after we write our files."""
    corpus, write = store(tmp_path, CORPUS), packing._write

    def write_second(folder, offsets, rule):
        monkeypatch.setattr(packing, "_write", write)
        steps = [lambda: plan_rows(corpus, 20, seed=3), lambda: write(folder, offsets, rule)]
        for step in steps if is_early else reversed(steps):
            step()

    monkeypatch.setattr(packing, "_write", write_second)
    plan = plan_rows(corpus, 20, seed=3)
    (folder,) = (tmp_path / "plans").iterdir()
    assert Path(plan.starts.filename).parent == folder


def test_leftovers_of_killed_processes_are_swept_up(tmp_path):
    leftover = tmp_path / "plans" / f"20-packed-3-{'d' * 16}.k1ll3d"
    leftover.mkdir(parents=True)
    (leftover / "starts.npy").write_bytes(b"half")
    other = plan_rows(store(tmp_path, CORPUS), 20, seed=4)
    assert leftover.exists(), "it may be of a process that is at work"
    plan_rows(store(tmp_path, CORPUS), 20, seed=3)
    assert not leftover.exists()
    assert Path(other.starts.filename).exists()


def test_a_failed_write_leaves_nothing_and_names_the_plan(tmp_path, monkeypatch):
    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_write", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*plans.*20-packed-3"):
        plan_rows(store(tmp_path, CORPUS), 20, seed=3)
    assert list((tmp_path / "plans").iterdir()) == []


def test_the_plan_of_a_cache_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    corpus = store(tmp_path / "cache", CORPUS)
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != corpus.folder)
    plan = plan_rows(corpus, 20, seed=3, folder=tmp_path / "run")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(packing, "_write", None)
    assert rows_of(plan_rows(corpus, 20, seed=3, folder=tmp_path / "run")) == rows_of(plan)


def test_a_text_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="too little text: no document has 1 tokens"):
        plan_rows(store(tmp_path, [0, 0]), 20, seed=0)
    with pytest.raises(UserError, match="too little text: no document has 8 tokens"):
        plan_rows(store(tmp_path, [7, 7]), 20, seed=0, pack=False)
    with pytest.raises(UserError, match="too little text"):
        plan_rows(store(tmp_path, []), 20, seed=0)


def test_a_length_without_room_for_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="length: 9 should be at least 10"):
        plan_rows(store(tmp_path, CORPUS), 9, seed=0)
