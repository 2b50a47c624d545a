"""The sentences that the mini corpus speaks and sings."""

import numpy as np
import pytest

from unisono.data.mini.sentences import MAX_WORDS, MIN_WORDS, draw_sentences, make_sentence, split_of
from unisono.errors import UserError

SPLITS = ("train", "val", "test")


def test_sentences_belong_to_their_split_and_have_the_right_length():
    drawn = {split: draw_sentences(np.random.default_rng(7), split, 500) for split in SPLITS}
    for split, sentences in drawn.items():
        assert len(set(sentences)) == 500
        assert {split_of(sentence) for sentence in sentences} == {split}
        assert all(MIN_WORDS <= len(sentence.split()) <= MAX_WORDS for sentence in sentences)
        assert all(sentence[0].isupper() and sentence[-1] in ".?!" for sentence in sentences)
        assert not any("{" in sentence or "_" in sentence for sentence in sentences)
    # Whatever the seed: a sentence of the test split is never one of training.
    others = set(draw_sentences(np.random.default_rng(8), "train", 3000))
    assert not others & (set(drawn["test"]) | set(drawn["val"]))
    words = {word.strip(".,?!").lower() for sentence in others for word in sentence.split()}
    assert len(words) > 400


def test_longer_list_begins_with_the_shorter():
    few, many = (draw_sentences(np.random.default_rng(3), "val", count) for count in (5, 50))
    assert many[:5] == few


def test_articles_agree():
    sentences = " ".join(draw_sentences(np.random.default_rng(0), "train", 2000))
    assert " a a" not in sentences.lower()
    assert " a o" not in sentences.lower()
    assert "an apple" in sentences


def test_unknown_split_is_refused():
    with pytest.raises(UserError, match="choose one of train, val, test"):
        make_sentence(np.random.default_rng(0), "dev")
