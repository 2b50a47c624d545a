"""Degradations of speech: what is asked for is heard, nothing else changes, nothing moves in time."""

import json
import pickle

import numpy as np
import pytest
from omegaconf import OmegaConf

from unisono.data.degrade import (
    NOISE_KINDS,
    DegradationChain,
    Recordings,
    RoomBank,
    SpeechDegradation,
    active_power,
    clip,
)
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.media.audio import write_audio

RATE = 16_000


def talk(seed: int = 0, seconds: float = 1.5) -> np.ndarray:
    """A buzz in syllables with a pause."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * RATE)) / RATE
    syllables = np.maximum(0, np.sin(2 * np.pi * 3 * time_s)) * (time_s % 1.0 < 0.7)
    return (0.1 * syllables * np.sin(2 * np.pi * 150 * time_s + rng.standard_normal(len(time_s)))).astype(np.float32)


def lag_samples(heard: np.ndarray, original: np.ndarray) -> int:
    """By how many samples ``heard`` is late."""
    spectrum = np.fft.rfft(heard, 4 * RATE) * np.conj(np.fft.rfft(original, 4 * RATE))
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    return lag if lag < 2 * RATE else lag - 4 * RATE


def everything(**changes) -> SpeechDegradation:
    settings = {
        "reverb_prob": 1,
        "band_prob": 0.5,
        "clip_prob": 0.5,
        "gain_db": [-6, 6],
        "rooms": 3,
        "rt60_s": [0.2, 0.3],
    }
    return SpeechDegradation(**(settings | changes))


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """A folder with a space in its name: 4 s of a chirp, 0.3 s of a tone, at two rates; a silent file apart."""
    folder = tmp_path_factory.mktemp("some noises")
    time_s = np.arange(4 * 8000) / 8000
    write_audio(folder / "long.wav", 0.5 * np.sin(2 * np.pi * (100 + 300 * time_s) * time_s), 8000)
    write_audio(folder / "deep" / "short.flac", 0.3 * np.sin(2 * np.pi * 440 * np.arange(4800) / RATE), RATE)
    write_audio(folder / "silent" / "silent.wav", np.zeros(RATE), RATE)
    return folder


@pytest.mark.parametrize("samples", [1, 2, 479, 20_001])
@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100])
def test_the_result_is_a_function_of_the_generator(samples, sample_rate):
    speech = np.resize(talk(), samples)
    before = speech.copy()
    degrade = everything(rooms=1)
    results = [degrade(np.random.default_rng(seed), speech, sample_rate) for seed in (5, 5, 6)]
    for waveform, description in results:
        assert waveform.shape == speech.shape and waveform.dtype == np.float32
        assert np.isfinite(waveform).all() and np.abs(waveform).max() <= 0.991
        json.dumps(description)
    assert np.array_equal(results[0].waveform, results[1].waveform)
    assert results[0].description == results[1].description
    assert results[0].description != results[2].description
    assert np.array_equal(speech, before)


def test_another_process_hears_the_same():
    degrade = everything()
    copy = pickle.loads(pickle.dumps(degrade))
    a, b = (d(np.random.default_rng(1), talk(), RATE) for d in (degrade, copy))
    assert np.array_equal(a.waveform, b.waveform) and a.description == b.description


def test_without_any_stage_the_speech_is_left_alone():
    result = SpeechDegradation(noise_prob=0, reverb_prob=0)(np.random.default_rng(0), talk(), RATE)
    assert np.array_equal(result.waveform, talk())
    assert result.description == {"gain_db": 0.0}


@pytest.mark.parametrize("seed", range(6))
def test_speech_stays_where_it_was(seed):
    speech = talk(seed) + 0.02 * np.random.default_rng(seed).standard_normal(len(talk())).astype(np.float32)
    degrade = everything(snr_db=[15, 30], band_prob=1, band_hz=[2000, 7000], clip_prob=1, clip_db=[3, 6])
    result = degrade(np.random.default_rng(seed), speech, RATE)
    assert {"rt60_s", "noise", "band_hz", "clipping"} <= set(result.description)
    assert abs(lag_samples(result.waveform, speech)) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_the_ratio_that_is_told(seed):
    speech = talk(seed)
    result = SpeechDegradation(reverb_prob=0)(np.random.default_rng(seed), speech, RATE)
    gain = 10 ** (result.description["gain_db"] / 20)
    added = result.waveform / gain - speech.astype(float)
    assert 10 * np.log10(active_power(speech) / np.mean(added**2)) == pytest.approx(
        result.description["snr_db"], abs=0.1
    )
    assert -5 <= result.description["snr_db"] <= 20


def test_changing_one_stage_leaves_the_draws_of_the_others():
    descriptions = [everything(reverb_prob=prob)(np.random.default_rng(2), talk(), RATE).description for prob in (0, 1)]
    assert "rt60_s" not in descriptions[0] and "rt60_s" in descriptions[1]
    for name in ("noise", "snr_db"):
        assert descriptions[0][name] == descriptions[1][name]


def test_how_often_stages_happen():
    degrade = SpeechDegradation(noises=["white"], noise_prob=0.5, reverb_prob=0.3, rooms=1, clip_prob=0.2)
    rng = np.random.default_rng(0)
    told = [degrade(rng, talk(seconds=0.1), RATE).description for _ in range(400)]
    for name, share in (("noise", 0.5), ("rt60_s", 0.3), ("clipping", 0.2)):
        assert np.mean([name in description for description in told]) == pytest.approx(share, abs=0.08)


def test_a_pause_gets_noise_of_the_usual_level():
    pause = 1e-6 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    for speech in (pause, np.zeros(RATE, np.float32)):
        degrade = SpeechDegradation(snr_db=[10, 10], noises=["white"], reverb_prob=0)
        result = degrade(np.random.default_rng(0), speech, RATE)
        assert result.description["pause"]
        assert 20 * np.log10(np.std(result.waveform)) == pytest.approx(-30, abs=0.2)


def test_loud_mixtures_are_turned_down_and_say_so():
    speech = 9 * talk()
    result = SpeechDegradation(snr_db=[0, 0], noises=["white"], reverb_prob=0)(np.random.default_rng(0), speech, RATE)
    assert np.abs(result.waveform).max() == pytest.approx(0.99, abs=1e-3)
    assert result.description["gain_db"] < -1


@pytest.mark.parametrize("below_db", [0.0, 3.0, 20.0])
def test_hard_clipping_cuts_at_the_limit(below_db):
    speech = talk()
    limit = np.abs(speech).max() * 10 ** (-below_db / 20)
    clipped = clip(speech, below_db, "hard")
    assert np.abs(clipped).max() == pytest.approx(limit, rel=1e-5)
    inside = np.abs(speech) < limit
    assert np.array_equal(clipped[inside], speech[inside])
    soft = clip(speech, below_db, "soft")
    assert np.abs(soft).max() <= limit and np.all(np.abs(soft) <= np.abs(speech) + 1e-7)
    assert np.array_equal(clip(np.zeros(5), 6.0, "soft"), np.zeros(5))


def test_rooms_come_from_the_bank_and_decay_as_told():
    bank = RoomBank(size=4, rt60_s=(0.2, 0.4), seed=3)
    rooms = [bank.room(index, RATE) for index in range(4)]
    assert [room.rt60_s for room in rooms] == pytest.approx([0.225, 0.275, 0.325, 0.375])
    for room in rooms:
        assert room.response[room.direct] == 1 and room.response.dtype == np.float32
        assert RATE * 0.1 < len(room.response) < RATE * 0.7
    assert RoomBank(size=4, rt60_s=[0.2, 0.4], seed=3).room(1, RATE) is rooms[1]  # computed once per process
    assert not np.array_equal(RoomBank(size=4, rt60_s=(0.2, 0.4), seed=4).room(1, RATE).response, rooms[1].response)
    with pytest.raises(ValueError, match="room 4 of 4"):
        bank.room(4, RATE)


def test_what_the_bank_cuts_off_is_not_heard():
    from unisono.data.degrade.rooms import _room_response

    bank = RoomBank(size=1, rt60_s=(0.3, 0.3))
    whole, direct = _room_response(np.random.default_rng([0, 0]), RATE, 0.3)
    room = bank.room(0, RATE)
    lost = whole[len(room.response) :]
    assert len(lost) > 0 and np.sum(lost**2) <= 1.001e-6 * np.sum(whole**2)
    assert np.allclose(room.response, whole[: len(room.response)] / whole[direct], atol=1e-6)


# ------------------------------------------------------------------------------------------------- recordings


def test_recordings_of_folders_files_and_manifests(noises, tmp_path):
    manifest = write_jsonl(
        noises / "audio.jsonl", [{"audio_id": "a", "audio": "long.wav"}, {"audio_id": "b", "audio": "deep/short.flac"}]
    )
    assert [p.stem for p in Recordings(noises).locations] == ["short", "long", "silent"]
    assert [p.stem for p in Recordings([str(manifest), noises / "long.wav"]).locations] == ["long", "short", "long"]
    with pytest.raises(UserError, match="no such folder, manifest or audio file"):
        Recordings(noises / "missing.wav")
    with pytest.raises(UserError, match="no audio file below"):
        Recordings(tmp_path)
    with pytest.raises(UserError, match="empty"):
        Recordings([])


@pytest.mark.parametrize("samples", [1, 1000, 40_000])
def test_stretches_have_the_wanted_length_and_rate(noises, samples):
    recordings = Recordings([noises / "long.wav", noises / "deep"])
    found = [recordings.stretch(np.random.default_rng(seed), samples, RATE) for seed in (1, 1, 2, 3, 4)]
    assert all(waveform.shape == (samples,) and waveform.dtype == np.float32 for waveform, _ in found)
    assert np.array_equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert len({name for _, name in found}) == 2


def test_short_recordings_go_round_without_clicks(noises):
    waveform, _ = Recordings(noises / "deep").stretch(np.random.default_rng(0), 3 * RATE, RATE)
    assert np.abs(np.diff(waveform)).max() < 1.2 * 0.3 * 2 * np.pi * 440 / RATE
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


def test_silent_recordings_are_drawn_again_and_told_in_the_end(noises):
    mixed = Recordings(noises)
    for seed in range(10):
        assert np.any(mixed.stretch(np.random.default_rng(seed), 2000, RATE)[0])
    with pytest.raises(UserError, match=r"silent\.wav: silent, as were 15 stretches"):
        Recordings(noises / "silent").stretch(np.random.default_rng(0), 2000, RATE)


def test_recorded_noise_and_babble_are_mixed_in(noises):
    degrade = SpeechDegradation(
        noises=[], recordings=[str(noises / "long.wav")], snr_db=[0, 0], reverb_prob=0, noise_prob=1
    )
    result = degrade(np.random.default_rng(0), talk(), RATE)
    assert result.description["noise"].endswith("long.wav")
    babble = SpeechDegradation(noises=["babble"], talkers=noises, reverb_prob=0)
    assert babble(np.random.default_rng(0), talk(), RATE).description["noise"] == "babble"


# --------------------------------------------------------------------------------------------------- settings


def test_settings_come_from_yaml():
    settings = OmegaConf.create({"snr_db": [0, 5], "noises": ["pink"], "rt60_s": [0.2, 0.3], "rooms": 2})
    result = SpeechDegradation(**settings)(np.random.default_rng(0), talk(), RATE)
    assert result.description["noise"] == "pink"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"snr_db": [5, 0]}, r"snr_db is \[5, 0\]"),
        ({"snr_db": 5}, "lowest, highest"),
        ({"snr_db": [0, float("nan")]}, "snr_db"),
        ({"noises": ["purple"]}, "'purple'; choose from white"),
        ({"noises": list(NOISE_KINDS)}, "talkers"),
        ({"noises": []}, "no recordings"),
        ({"noise_prob": 1.5}, "noise_prob is 1.5; give a probability"),
        ({"reverb_prob": True}, "reverb_prob"),
        ({"rt60_s": [0.05, 0.5]}, "within 0.15 to 1"),
        ({"rooms": -1}, "size is -1"),
        ({"clipping": ["medium"]}, "hard, soft"),
        ({"clipping": [], "clip_prob": 1}, "clipping is empty"),
        ({"recordings": "/nowhere/at all"}, "no such folder"),
    ],
)
def test_bad_settings_are_explained(settings, message):
    with pytest.raises(UserError, match=message):
        SpeechDegradation(**settings)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros((100, 2), np.float32), "one channel"),
        (np.array([0.0, np.nan], np.float32), "sample 1 is NaN"),
        (np.array([np.inf], np.float32), "infinite"),
    ],
)
def test_bad_waveforms_are_explained(waveform, message):
    with pytest.raises(UserError, match=message):
        SpeechDegradation()(np.random.default_rng(0), waveform, RATE)


def test_chains_join_what_their_steps_did():
    chain = DegradationChain(
        [SpeechDegradation(noises=["white"], reverb_prob=0), SpeechDegradation(noise_prob=0, reverb_prob=1, rooms=1)]
    )
    result = chain(np.random.default_rng(0), talk(), RATE)
    assert {"noise", "rt60_s"} <= set(result.description)
    assert np.array_equal(result.waveform, chain(np.random.default_rng(0), talk(), RATE).waveform)
    with pytest.raises(UserError, match="steps is empty"):
        DegradationChain([])
