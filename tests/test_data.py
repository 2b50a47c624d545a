"""Data sets, sampler, loaders and collate: order, randomness and padding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SAMPLE_RATE, TASKS, TOY_PHONEMES, TOY_SPEAKERS
from toy import toy_collator, toy_dataset
from unisono.data.collate import Collator
from unisono.data.datasets import ConcatDataset, TextToSpeechDataset
from unisono.data.loader import eval_dataloader, train_dataloader
from unisono.data.manifest import parse_line, write_jsonl
from unisono.data.vocabulary import check_vocabulary
from unisono.errors import UserError
from unisono.tasks import TASKS as TASK_TABLE
from unisono.tasks import get_task
from unisono.text.tokens import byte_tokens
from unisono.types import AudioContent, Batch, PhonemeContent, Sample, TextContent, length_mask


def equal(a, b) -> bool:
    """Same values in every field, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if dataclasses.is_dataclass(a):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return a == b


# -- data sets and loaders ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(toy_corpus: Path) -> ConcatDataset:
    return ConcatDataset([toy_dataset(toy_corpus, task) for task in TASKS])


def test_concatenation_finds_each_item_and_the_epoch(everything: ConcatDataset) -> None:
    assert len(everything) == 24 and len(list(everything)) == 24
    for item in (0, 7, 8, 23):
        dataset, position = everything.locate(item)
        assert dataset is everything.datasets[item // 8] and position == item % 8
    assert everything[24 * 5 + 9].audio_id == everything[9].audio_id == "text_to_speech_1"
    assert everything.durations_s == pytest.approx([s.waveform.shape[0] / SAMPLE_RATE for s in everything], rel=1e-6)


def test_instructions_are_drawn_from_epoch_and_item(everything: ConcatDataset) -> None:
    drawn = [[everything[24 * epoch + item].instruction for epoch in range(30)] for item in range(4)]
    for per_item in drawn:
        assert set(per_item) <= set(get_task("t2a").instructions) and len(set(per_item)) > 5
    assert drawn[0] != drawn[1]
    assert drawn[0][17] == everything[24 * 17].instruction
    dataset = everything.datasets[0]
    reseeded = type(dataset)(dataset.line(0).path, dataset.target_line(0).path, seed=1)
    assert [reseeded.sample(i, 0).instruction for i in range(4)] != [dataset[i].instruction for i in range(4)]


def test_any_number_of_workers_gives_the_same_batches(everything: ConcatDataset) -> None:
    batches: dict[int, list[Batch]] = {}
    for num_workers in (0, 1, 3):
        loader = train_dataloader(everything, 4, toy_collator(), num_workers=num_workers, seed=2)
        loader.batch_sampler.start = 4  # epoch 0 has 6 batches: the next ones come from epochs 0, 1 and 2
        stream = iter(loader)
        batches[num_workers] = [next(stream) for _ in range(10)]
        del stream
    assert all(equal(a, b) for a, b in zip(batches[0], batches[1], strict=True))
    assert all(equal(a, b) for a, b in zip(batches[0], batches[3], strict=True))
    decoded = {bytes(t[t > 0].sub(1).tolist()).decode() for b in batches[3] for t in b.instruction["tokens"]}
    assert len(decoded) > 12  # paraphrases of later epochs arrive in the workers as well


def test_evaluation_loader_gives_each_item_once_longest_first(everything: ConcatDataset) -> None:
    batches = list(eval_dataloader(everything, 5, toy_collator()))
    assert sorted(i for b in batches for i in b.audio_ids) == sorted(s.audio_id for s in everything)
    longest = [int(b.waveform_lengths.max()) for b in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("line", [b'{"a": "b", "c": 1, "c": 2}', b'{"a": {"c": 1, "c": 1}}', b'{"c": 1, "\\u0063": 1}'])
def test_a_key_that_comes_twice_is_an_error(line: bytes) -> None:
    with pytest.raises(UserError, match=r"f:1: not usable JSON \(key 'c' is there twice; keep one of them\)"):
        parse_line("f:1", line)
    assert parse_line("f:1", b'{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}


def test_limits_leave_out_items_and_say_how_many(toy_corpus: Path) -> None:
    folder = toy_corpus / "text_to_audio"
    cls = type(toy_dataset(toy_corpus, "text_to_audio"))
    assert len(cls(folder / "content.jsonl", folder / "audio.jsonl", max_samples=3)) == 3
    kept = cls(folder / "content.jsonl", folder / "audio.jsonl", max_duration_s=0.6)
    assert len(kept) == 8 and kept.num_left_out == 0
    with pytest.raises(UserError, match=r"none of 8 items is left \(max_duration_s=0.5"):
        cls(folder / "content.jsonl", folder / "audio.jsonl", max_duration_s=0.5)
    with pytest.raises(UserError, match="list of data sets is empty"):
        ConcatDataset([])


def test_without_targets_nothing_but_content_is_needed(toy_corpus: Path) -> None:
    for task in TASKS:
        dataset = type(toy_dataset(toy_corpus, task))(toy_corpus / task / "content.jsonl")
        sample = dataset[0]
        assert sample.waveform is None and dataset.durations_s.tolist() == [0.0] * 8
        assert toy_collator()([sample]).waveform is None
        assert sample.item_name.endswith("content.jsonl:1") and dataset.describe(dataset.line(0))


# -- collate --------------------------------------------------------------------------------------------------------


def mixed(everything: ConcatDataset, seed: int, size: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = [everything[int(i)] for i in rng.permutation(len(everything))[:size]]
    # Different lengths, so that there is padding; contents that lie in time are as long as their targets.
    shortened = []
    for sample in samples:
        assert sample.waveform is not None
        length = int(rng.integers(100, 14_000))
        content = tuple(
            dataclasses.replace(one, waveform=one.waveform[:length])
            if isinstance(one, AudioContent) and one.waveform is not None
            else dataclasses.replace(one, durations_s=one.durations_s * (length / len(sample.waveform)))
            if isinstance(one, PhonemeContent) and one.durations_s is not None
            else one
            for one in sample.content
        )
        shortened.append(dataclasses.replace(sample, waveform=sample.waveform[:length], content=content))
    return shortened


@pytest.mark.parametrize("size", [1, 2, 9, 24])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_find_back_to_their_items_in_any_order_of_tasks(everything: ConcatDataset, seed: int, size: int) -> None:
    samples = mixed(everything, seed, size)
    batch = toy_collator()(samples)
    assert len(batch) == size and batch.audio_ids == tuple(s.audio_id for s in samples)
    assert [list(TASK_TABLE)[i] for i in batch.task_index] == [s.task for s in samples]
    found: list[int] = []
    for modality, content in batch.contents.items():
        found += content.index.tolist()
        for row, item in enumerate(content.index.tolist()):
            own = samples[item].content[0]
            assert own.modality == modality
            if isinstance(own, TextContent):
                tokens = content.inputs["tokens"][row]
                assert bytes((tokens[tokens > 0] - 1).tolist()).decode() == own.text
            elif isinstance(own, PhonemeContent):
                tokens = content.inputs["tokens"][row]
                units = len(own.phonemes)
                assert [TOY_PHONEMES[t - 1] for t in tokens[:units]] == list(own.phonemes)
                assert TOY_SPEAKERS[content.inputs["speaker"][row] - 1] == own.speaker
                assert torch.equal(content.durations_s[row, :units], own.durations_s)
                assert not tokens[units:].any() and not content.durations_s[row, units:].any()
            elif isinstance(own, AudioContent):
                samples_in = int(content.inputs["lengths"][row])
                assert torch.equal(content.inputs["waveform"][row, :samples_in], own.waveform)
                assert not content.inputs["waveform"][row, samples_in:].any()
    assert sorted(found) == list(range(size))
    for row, sample in enumerate(samples):
        length = int(batch.waveform_lengths[row])
        assert length == len(sample.waveform)
        assert torch.equal(batch.waveform[row, :length], sample.waveform) and not batch.waveform[row, length:].any()


def test_tokens_decode_back_to_any_text() -> None:
    texts = ["a", "naïve 雨 🔔", "\x00 zero byte", "x" * 500]
    tokens = byte_tokens(texts)
    for row, text in zip(tokens, texts, strict=True):
        length = len(text.encode())
        assert bytes((row[:length] - 1).tolist()).decode() == text
        assert (row[:length] > 0).all() and not row[length:].any()


@pytest.mark.parametrize("blank", ["", " \t"])
def test_an_empty_text_is_refused(blank: str) -> None:
    with pytest.raises(UserError, match="empty"):
        byte_tokens(["a", blank])


def test_units_without_durations_or_speaker() -> None:
    sample = Sample("x", "text_to_speech", "Say it.", (PhonemeContent(("a", "b")),))
    content = toy_collator()([sample]).contents["phoneme"]
    assert content.durations_s is None and content.inputs["speaker"].tolist() == [0]
    spoken = Sample("y", "text_to_speech", "Say it.", (PhonemeContent(("a",), torch.tensor([0.2]), "bob"),))
    both = toy_collator()([sample, spoken]).contents["phoneme"].durations_s
    assert both is not None and both[0].tolist() == [0, 0] and both[1].tolist() == pytest.approx([0.2, 0])


def test_an_item_may_have_content_of_two_modalities(everything: ConcatDataset) -> None:
    both = dataclasses.replace(everything[16], content=(*everything[16].content, TextContent("a bell")))
    batch = toy_collator()([everything[0], both])
    assert batch.contents["text"].index.tolist() == [0, 1] and batch.contents["audio"].index.tolist() == [1]


def test_a_batch_with_and_without_targets_is_refused(everything: ConcatDataset) -> None:
    with pytest.raises(ValueError, match="with and without"):
        toy_collator()([everything[0], dataclasses.replace(everything[1], waveform=None)])


def test_masks_mark_the_valid_part() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_unknown_symbols_are_found_before_training_without_reading_audio(
    everything: ConcatDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.data.datasets.base.read_audio", lambda *_: pytest.fail("read audio"))
    check_vocabulary(everything, toy_collator())
    with pytest.raises(UserError, match=r"content.jsonl:\d+: phonemes \['h'\] are not among the model's 7"):
        check_vocabulary(everything, Collator(TOY_PHONEMES[:-1], TOY_SPEAKERS))
    with pytest.raises(UserError, match=r"content.jsonl:2: speaker 'bob' is unknown .* \(it has: ann\)"):
        check_vocabulary(everything, Collator(TOY_PHONEMES, ("ann",)))


def test_symbols_of_items_that_are_left_out_do_not_matter(tmp_path: Path) -> None:
    def content(symbols: str) -> ConcatDataset:
        seconds = [4.0, 3.0, 2.0, 1.0]
        lines = [{"audio_id": str(i), "phonemes": [s], "durations_s": [seconds[i]]} for i, s in enumerate(symbols)]
        audio = [{"audio_id": str(i), "audio": "a.wav", "duration_s": seconds[i]} for i in range(4)]
        files = write_jsonl(tmp_path / "content.jsonl", lines), write_jsonl(tmp_path / "audio.jsonl", audio)
        return ConcatDataset([TextToSpeechDataset(*files, max_duration_s=3, check_files=False)])

    check_vocabulary(content("xaba"), Collator("ab"))
    for symbols, line in (("axbx", 2), ("xabx", 4)):
        with pytest.raises(UserError, match=rf"content\.jsonl:{line}: phonemes \['x'\]"):
            check_vocabulary(content(symbols), Collator("ab"))


def test_tasks_are_found_by_name_and_short_name_and_unknown_ones_list_the_choices() -> None:
    for name, row in TASK_TABLE.items():
        assert get_task(name) is get_task(row.short) is row
        assert len(set(row.instructions)) == len(row.instructions) >= 5
    with pytest.raises(UserError) as caught:
        get_task("text_to_smell")
    assert "text_to_smell" in str(caught.value)
    assert all(f"{row.name} ({row.short})" in str(caught.value) for row in TASK_TABLE.values())
