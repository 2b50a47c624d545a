"""The feature cache: what it gives equals what was computed, and nothing stale is found."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cached import BytesEncoder, attached, autoencoder, corpus, data_set, encoded, filled, target
from conftest import SAMPLE_RATE, TASKS, tone
from feature_sources import write_video
from toy import toy_collator, toy_dataset, toy_model
from unisono.data.datasets import (
    ConcatDataset,
    SpeechEnhancementDataset,
    TextToAudioDataset,
    TextToSpeechDataset,
    VideoToAudioDataset,
)
from unisono.data.datasets.base import Window
from unisono.data.feature_cache import CachedLatents, CachedSequences, CachedTexts, FeatureStore
from unisono.data.feature_cache.attach import attach
from unisono.data.feature_cache.build import fill_demands
from unisono.data.feature_cache.demands import demands_of
from unisono.data.feature_cache.digests import FileDigests, content_digest
from unisono.data.feature_cache.encoders import (
    FrameFeatureEncoder,
    frame_spec,
    text_spec,
)
from unisono.data.feature_cache.table import KeyTable, split_keys
from unisono.data.loader import train_dataloader
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.media.audio import read_audio, write_audio
from unisono.media.locations import Location
from unisono.models.autoencoder import LogMelAutoencoder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "feature cache"  # a path with a space, on purpose


# -- latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_cached_latents_are_what_the_encoder_gives(tmp_path: Path, cache: Path, kind: str) -> None:
    dataset = corpus(tmp_path / "my corpus", kind=kind)
    result = filled(cache, dataset)
    assert (result.num_inputs, result.num_missing, result.faults) == (3, 0, [])
    latents = attached(dataset, cache)
    for item in range(len(dataset)):
        waveform = read_audio(target(dataset, item), SAMPLE_RATE)
        latent, num_samples = latents.read(target(dataset, item))
        assert latent.dtype == torch.float32 and torch.equal(latent, encoded(target(dataset, item)))
        assert num_samples == len(waveform)
        sample = dataset[item]
        assert sample.waveform is None and sample.latent is not None and torch.equal(sample.latent, latent)
        assert sample.num_samples == num_samples


def test_a_model_sees_the_same_with_and_without_the_cache(toy_corpus: Path, cache: Path) -> None:
    model = toy_model(dim=32, layers=1)
    datasets = [toy_dataset(toy_corpus, task) for task in TASKS]
    raw = toy_collator()(list(ConcatDataset(datasets)))
    fill_demands(demands_of({"autoencoder": model.autoencoder}, [datasets]), cache, 1)
    attach(datasets, {"autoencoder": model.autoencoder}, cache)
    cached = toy_collator()(list(ConcatDataset(datasets)))
    assert cached.waveform is None and cached.contents["audio"].inputs.keys() == {"latent", "latent_lengths"}
    sigma, generator = torch.full((len(raw),), 0.5), torch.Generator().manual_seed(0)
    noise = torch.randn(len(raw), 30, 40, generator=generator)
    outputs = [model.eval()(batch, sigma=sigma, noise=noise) for batch in (raw, cached)]
    assert torch.equal(outputs[0].frame_mask, outputs[1].frame_mask)
    assert torch.equal(outputs[0].target, outputs[1].target)
    assert torch.equal(outputs[0].prediction, outputs[1].prediction)


def test_inputs_are_cached_unless_a_data_set_degrades(toy_corpus: Path, cache: Path) -> None:
    folder = toy_corpus / "speech_enhancement"
    paired = toy_dataset(toy_corpus, "speech_enhancement")
    assert isinstance(paired, SpeechEnhancementDataset)
    assert filled(cache, paired).num_inputs == 16
    attached(paired, cache)
    assert paired[0].content[0].latent is not None and paired[0].content[0].waveform is None
    degrading = SpeechEnhancementDataset(folder / "content.jsonl", folder / "audio.jsonl", _Quieter())
    attach([paired, degrading], {"autoencoder": autoencoder()}, cache)
    for dataset in (paired, degrading):
        assert dataset[0].latent is not None and dataset[0].waveform is None
        assert dataset[0].content[0].waveform is not None and dataset[0].content[0].latent is None
        assert len(dataset[0].content[0].waveform) == dataset[0].num_samples


class _Quieter:
    """A degradation."""

    def __call__(self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> _Quieter:
        self.waveform = waveform * 0.5
        return self


def test_crops_are_cut_from_the_whole_latent(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    latents = attached(dataset, cache)
    location, whole = target(dataset, 2), encoded(target(dataset, 2))  # 2 s, 100 frames
    latent, num_samples = latents.read(location, Window(0.5, 0.31))
    assert num_samples == 7440 and torch.equal(latent, whole[25:41])
    # A part that begins between frames is cut at the nearest.
    assert torch.equal(latents.read(location, Window(0.512, 0.2))[0], whole[26:36])
    # What a recording lacks at its end is left out, if it is no more than rounding or a manifest's tolerance.
    latent, num_samples = latents.read(location, Window(1.5, 0.53))
    assert num_samples == 12000 and torch.equal(latent, whole[75:])
    with pytest.raises(UserError, match="correct 'duration_s'"):
        latents.read(location, Window(1.5, 0.6))
    with pytest.raises(UserError, match="correct 'duration_s'"):
        latents.read(location, Window(2.1, 0.01))


def test_a_latent_is_fitted_to_the_length_of_its_counterpart(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    latents, location = (
        attached(dataset, cache),
        target(dataset),
    )  # 1 s, 50 frames
    latent, num_samples = latents.read(location, num_samples=24_900)
    assert num_samples == 24_900 and torch.equal(latent[:50], encoded(location)) and torch.equal(latent[51], latent[49])
    assert len(latent) == 52 and len(latents.read(location, num_samples=23_500)[0]) == 49
    with pytest.raises(UserError, match=r"more than 0\.05 s"):
        latents.read(location, num_samples=26_000)


def test_cropping_data_sets_draw_the_same_parts_with_and_without_the_cache(tmp_path: Path, cache: Path) -> None:
    corpus(tmp_path)
    options = {"crop_s": 0.5, "seed": 3}
    raw, cached = (TextToAudioDataset(tmp_path / "content.jsonl", tmp_path / "audio.jsonl", **options) for _ in "ab")
    filled(cache, cached)
    attached(cached, cache)
    for epoch in range(3):
        one, other = raw.sample(2, epoch), cached.sample(2, epoch)
        assert one.waveform is not None and other.latent is not None and other.num_samples == len(one.waveform)
        alone = autoencoder().encode(one.waveform[None], torch.tensor([len(one.waveform)]))[0][0]
        # Inside, where no window reaches over the cut.
        torch.testing.assert_close(alone[3:-3], other.latent[3:-3], rtol=0, atol=1e-3)


def test_what_is_done_to_a_sample_does_not_reach_the_cache(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    latent = attached(dataset, cache).read(target(dataset))[0]
    latent += 1.0
    fresh = attached(dataset, cache).read(target(dataset))[0]
    assert torch.equal(fresh, encoded(target(dataset)))


def test_recordings_that_are_encoded_together_get_their_own_latents(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path, [0.3 + 0.07 * number for number in range(20)])
    demands = demands_of({"autoencoder": autoencoder()}, [[dataset]])
    (result,) = fill_demands(demands, cache, 2, device=torch.device("cpu"))  # in batches, as on a GPU
    assert (result.num_inputs, result.num_missing) == (20, 0)
    latents = attached(dataset, cache)
    for item in range(20):
        latent, alone = latents.read(target(dataset, item))[0], encoded(target(dataset, item))
        assert torch.equal(latent, alone)


def test_half_precision_takes_half_the_room(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    dtypes = ("float32", "bfloat16", "float16")
    sizes = {dtype: filled(cache, dataset, dtype=dtype).store.size_bytes for dtype in dtypes}
    assert sizes["bfloat16"] == sizes["float16"] < 0.55 * sizes["float32"]
    for dtype, worst in (("bfloat16", 2**-8), ("float16", 2**-11)):
        latent = attached(dataset, cache, dtype).read(target(dataset))[0]
        assert latent.dtype == torch.float32
        torch.testing.assert_close(latent, encoded(target(dataset)), rtol=worst, atol=0)
    with pytest.raises(UserError, match="'int8'"):
        filled(cache, dataset, dtype="int8")


def test_workers_read_the_same_forked_and_pickled(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    latents = attached(dataset, cache)
    copied: CachedLatents = pickle.loads(pickle.dumps(latents))
    assert len(pickle.dumps(latents)) < 4000, "the copy takes no tables along"
    assert torch.equal(copied.read(target(dataset))[0], latents.read(target(dataset))[0])
    batches = {}
    for workers in (0, 2):
        loader = train_dataloader(ConcatDataset([dataset]), 3, toy_collator(), num_workers=workers)
        batches[workers] = next(iter(loader))
    assert torch.equal(batches[0].latent, batches[2].latent) and batches[0].audio_ids == batches[2].audio_ids


# -- what is recognised -----------------------------------------------------------------------------------------------


def test_a_changed_file_is_noticed_whatever_its_size_and_time(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    latents, location = attached(dataset, cache), target(dataset)
    before = os.stat(location.path)
    waveform = read_audio(location, SAMPLE_RATE)
    write_audio(location.path, waveform[::-1].copy(), SAMPLE_RATE)
    os.utime(location.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(location.path)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for reader in (latents, pickle.loads(pickle.dumps(latents))):
        with pytest.raises(UserError, match=r"0\.wav .*changed.*unisono cache"):
            reader.read(location)
    with pytest.raises(UserError, match="1 of 3 inputs have no latents"):
        attached(dataset, cache)
    assert filled(cache, dataset).num_missing == 0
    assert torch.equal(attached(dataset, cache).read(location)[0], encoded(location))


def test_a_file_that_was_only_touched_or_moved_is_not_encoded_again(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path / "a")
    shards = sorted(filled(cache, dataset).store.folder.glob("shard-*"))
    os.utime(target(dataset).path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = TextToAudioDataset(tmp_path / "b/content.jsonl", tmp_path / "b/audio.jsonl")
    for again in (dataset, moved):
        result = filled(cache, again)
        assert (result.num_inputs, result.num_missing) == (3, 0)
        assert sorted(result.store.folder.glob("shard-*")) == shards
        attached(again, cache)


def test_equal_recordings_are_encoded_once(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    shutil.copyfile(target(dataset, 0).path, target(dataset, 1).path)
    result = filled(cache, dataset)
    assert (result.num_inputs, len(result.store)) == (2, 2)


def test_another_encoder_finds_nothing(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    for other in (autoencoder(mels=41), LogMelAutoencoder(n_mels=40, mean=0.5)):
        with pytest.raises(UserError, match=r"3 of 3 inputs have no latents(.|\n)*unisono cache"):
            attach([dataset], {"autoencoder": other}, cache)
    with pytest.raises(UserError, match="16000 Hz and 480"):
        attach([dataset], {"autoencoder": LogMelAutoencoder(sample_rate=16_000, n_mels=40)}, cache)


def test_members_of_archives_are_inputs(tmp_path: Path, cache: Path) -> None:
    h5py = pytest.importorskip("h5py")
    plain = corpus(tmp_path)
    waveform = read_audio(target(plain), SAMPLE_RATE)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(target(plain).path, "clips/a.wav")
    with h5py.File(tmp_path / "clips.h5", "w") as file:
        for name, rate in (("slow", 12_000), ("right", SAMPLE_RATE)):
            file[name] = waveform
            file[name].attrs["sample_rate"] = rate
    names = ["shard.tar::clips/a.wav", "clips.h5::slow", "clips.h5::right"]
    lines = [{"audio_id": str(number), "audio": name} for number, name in enumerate(names)]
    dataset = data_set(tmp_path, [{"audio_id": str(number), "caption": "a"} for number in range(3)], lines)
    assert filled(cache, dataset).num_inputs == 3, "the same samples at another rate are another recording"
    latents = attached(dataset, cache)
    for item in range(3):
        assert torch.equal(latents.read(target(dataset, item))[0], encoded(target(dataset, item)))
    assert content_digest(target(dataset, 0)) == content_digest(target(plain))
    assert len(latents.read(target(dataset, 1))[0]) == 100  # 1 s read as 2 s


def test_digests_are_remembered_and_joined(tmp_path: Path) -> None:
    locations = [Location(tmp_path / f"{name}.bin") for name in "abc"]
    for number, location in enumerate(locations):
        location.path.write_bytes(bytes([number]))
        files = FileDigests(tmp_path / "files")
        files.digest(location)
        assert files.save()
    assert len(list((tmp_path / "files").glob("*.npy"))) > 1
    files = FileDigests(tmp_path / "files")
    assert [files.known(location) for location in locations] == [content_digest(location) for location in locations]
    assert len(list((tmp_path / "files").glob("*.npy"))) == 1, "tables of several runs become one"
    damaged = next((tmp_path / "files").glob("*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    files = FileDigests(tmp_path / "files")
    assert files.known(locations[0]) is None and files.digest(locations[0]) == content_digest(locations[0])


def test_a_file_written_again_within_one_tick_is_recognised(tmp_path: Path) -> None:
    files, location = FileDigests(tmp_path / "files"), Location(tmp_path / "a.bin")
    for number in range(20):
        location.path.write_bytes(bytes([number]))
        assert files.digest(location) == content_digest(location)


def test_keys_with_one_half_in_common_are_told_apart(tmp_path: Path) -> None:
    keys = [bytes(8) + bytes([0] * 7 + [low]) for low in (1, 2, 4)] + [bytes([255]) * 16]
    values = np.arange(4, dtype=np.uint64)[None]
    table = KeyTable.of([np.concatenate([split_keys(keys[::-1]), values[:, ::-1]])], 1)
    absent = bytes(8) + bytes([0] * 7 + [3])
    for read in (table, _written(table, tmp_path / "table.npy")):
        assert [read.values(read.find(key) or 0) for key in keys] == [[0], [1], [2], [3]]
        assert read.find(absent) is None
        assert read.contains(split_keys([*keys, absent])).tolist() == [True] * 4 + [False]
    twice = KeyTable.of([table.columns, np.concatenate([split_keys(keys[:1]), np.array([[9]], np.uint64)])], 1)
    assert len(twice) == 4 and twice.values(twice.find(keys[0]) or 0) == [9]


def _written(table: KeyTable, path: Path) -> KeyTable:
    table.write(path)
    return KeyTable.read(path, 1)


# -- texts, voices, videos --------------------------------------------------------------------------------------------


def test_every_text_that_may_be_drawn_is_embedded_once(tmp_path: Path, cache: Path) -> None:
    corpus(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "content.jsonl").read_text().splitlines()]
    lines[1]["instruction"] = "Hüm it."
    lines[2]["caption"] = lines[0]["caption"]
    write_jsonl(tmp_path / "content.jsonl", lines)
    dataset = TextToAudioDataset(tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    encoder = BytesEncoder()
    parts = {"instruction_encoder": encoder, "content_encoders": {"text": encoder, "audio": torch.nn.Identity()}}
    for _ in range(2):  # the second run has nothing to do
        (result,) = fill_demands(demands_of(parts, [[dataset]]), cache, 1)
        assert result.num_missing == 0
    texts = ["Hüm it.", *dataset.task_row.instructions, "tone 0", "sound 0", "tone 1", "sound 1"]
    assert sorted(encoder.asked) == sorted(texts)
    reader: CachedTexts = pickle.loads(pickle.dumps(CachedTexts(cache, text_spec(encoder))))
    assert all(torch.equal(reader.read(text), encoder.embed([text])[0]) for text in texts)
    with pytest.raises(UserError, match=r"'tone 2'.*unisono cache"):
        reader.read("tone 2")


def test_voices_are_those_of_the_recordings_that_lines_name(toy_corpus: Path, tmp_path: Path, cache: Path) -> None:
    lines = [json.loads(line) for line in (toy_corpus / "text_to_speech/content.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        del line["speaker"]
        line["speaker_audio"] = f"{number % 2}.wav"
    rng = np.random.default_rng(0)
    for number in range(2):
        write_audio(tmp_path / f"{number}.wav", tone(200.0 * (number + 1), 0.5, rng), SAMPLE_RATE)
    content = write_jsonl(tmp_path / "content.jsonl", lines)
    dataset = TextToSpeechDataset(
        content, toy_corpus / "text_to_speech/audio.jsonl", speaker_encoder="statistics", check_files=True
    )
    plain = [dataset[item].content[0].speaker for item in range(len(dataset))]
    (result,) = fill_demands(demands_of({}, [[dataset, toy_dataset(toy_corpus, "text_to_audio")]]), cache, 1)
    assert (result.store.spec.kind, result.num_inputs, result.num_missing) == ("speakers", 2, 0)
    fill_demands(demands_of({"autoencoder": autoencoder()}, [[dataset]]), cache, 1)
    attached(dataset, cache)
    dataset.speaker_encoder = None  # nothing is computed any more
    for item, vector in enumerate(plain):
        assert isinstance(vector, torch.Tensor) and torch.equal(dataset[item].content[0].speaker, vector)
    assert not torch.equal(plain[0], plain[1])


def test_features_of_pictures_are_cut_with_the_sound(tmp_path: Path, cache: Path) -> None:
    av = pytest.importorskip("av")
    from unisono.features.video import Luminance, video_features

    with av.open(str(tmp_path / "a clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for number in range(20):
            picture = np.full((64, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    location = Location(tmp_path / "a clip.mp4")
    spec = frame_spec(Luminance(), 10.0)
    store = FeatureStore(cache, spec)
    store.create()
    writer = store.writer()
    writer.add(content_digest(location), FrameFeatureEncoder(Luminance(), 10.0).encode([location])[0])
    writer.flush()
    whole = torch.from_numpy(video_features(location, Luminance(), 10.0))
    reader = CachedSequences(cache, spec, 10.0)
    assert torch.equal(reader.read(location), whole) and len(whole) == 20
    assert torch.equal(reader.read(location, Window(0.52, 0.7)), whole[5:12])
    assert torch.equal(reader.read(location, Window(1.9, 0.01)), whole[19:])
    other = CachedSequences(cache, frame_spec(Luminance(), 12.5), 12.5)
    with pytest.raises(UserError, match="no feature"):
        other.read(location)


def test_features_of_videos_are_read_as_they_would_be_computed(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("av")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (50, 64, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "a clip.mp4", frames)
    write_audio(tmp_path / "a clip.wav", tone(300.0, 2.0, rng), SAMPLE_RATE)
    content = write_jsonl(tmp_path / "content.jsonl", [{"audio_id": "a", "video": "a clip.mp4"}])
    audio = write_jsonl(tmp_path / "audio.jsonl", [{"audio_id": "a", "audio": "a clip.wav"}])
    for crop_s in (None, 0.73):
        dataset = VideoToAudioDataset(content, audio, frame_encoder="luminance", frame_rate_hz=12.5, crop_s=crop_s)
        plain = [dataset.sample(0, epoch).content[0].features for epoch in range(5)]
        assert plain[0].shape == ((25 if crop_s is None else len(plain[0])), 128)
        fill_demands(demands_of({"autoencoder": autoencoder()}, [[dataset]]), cache, 1)
        attached(dataset, cache)
        dataset.frame_encoder = None
        assert all(torch.equal(dataset.sample(0, epoch).content[0].features, plain[epoch]) for epoch in range(5))
    assert len({tuple(features.flatten()[:9].tolist()) for features in plain}) > 1  # the crops differ
