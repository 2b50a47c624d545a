"""Files and archive members: the same sound and the same numbers wherever they lie; damage is named."""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile as sf
from safetensors.numpy import save_file

from toy import make_tar
from unisono.errors import UserError
from unisono.media.audio import audio_info, open_audio, read_audio, verify_audio_file, write_audio
from unisono.media.locations import Location, parse_location, read_array
from unisono.timing import seconds_to_samples

RATE = 24_000
av = pytest.importorskip("av")


def sweep(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * t + 900 * t**2))).astype(np.float32)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * RATE)).astype(np.float32)


def encoded(waveform: np.ndarray, kind: str = "FLAC", rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, waveform, rate, format=kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the same sweep as a file, a tar member, encoded in HDF5 and as samples in HDF5."""
    folder = tmp_path / "with space é"
    data = encoded(sweep())
    make_tar(folder / "a.tar", {"./clips/one.flac": data, "clips/" + "long" * 40 + ".flac": data, "x.txt": b"no sound"})
    (folder / "one.flac").write_bytes(data)
    with h5py.File(folder / "a.h5", "w") as file:
        file["files/one"] = np.frombuffer(data, dtype=np.uint8)
        samples = file.create_dataset("samples/one", data=np.stack([sweep(), sweep()], axis=1))
        samples.attrs["sample_rate"] = RATE
        pcm = file.create_dataset("pcm", data=(sweep() * 32768).astype(np.int16))
        pcm.attrs["sample_rate"] = RATE
        file.create_dataset("no rate", data=sweep())
        file.create_dataset("unsigned", data=np.zeros(9, np.uint16)).attrs["sample_rate"] = RATE
        file.create_dataset("text", data=["words"], dtype=h5py.string_dtype())
    return folder


PLACES = ["one.flac", "a.tar::clips/one.flac", "a.h5::files/one", "a.h5::samples/one", "a.h5::pcm"]
PLACES += ["a.tar::clips/" + "long" * 40 + ".flac"]


@pytest.mark.parametrize("place", PLACES)
def test_a_recording_sounds_the_same_wherever_it_lies(folder: Path, place: str) -> None:
    location = parse_location(place, folder)
    assert location.exists() and str(location).startswith(str(folder))
    assert audio_info(location)[:2] == (RATE, 1.0)
    assert np.abs(read_audio(location, RATE) - sweep()).max() < 1e-4
    verify_audio_file(location)


@pytest.mark.parametrize("place", PLACES[:4])
@pytest.mark.parametrize("rate", [RATE, 16_000, 44_100])
def test_a_part_is_what_it_is_within_the_whole(folder: Path, place: str, rate: int) -> None:
    location = parse_location(place, folder)
    whole = read_audio(location, rate)
    for start_s, duration_s in ((0.0, 0.3), (0.24, 0.5), (0.5, 0.1), (0.7, 0.5), (0.36, 1e-3)):
        part = read_audio(location, rate, start_s, duration_s)
        first = seconds_to_samples(start_s, rate)
        assert len(part) == seconds_to_samples(duration_s, rate)
        inside = whole[first : first + len(part)]
        # At the recording's own end the resampler has seen other samples.
        assert np.abs(part[: len(inside)] - inside)[: max(1, len(inside) - 200)].max() < 2e-4
        assert not part[len(inside) :].any()
    with pytest.raises(UserError, match=r"from 1\.500 s on was asked for; it ends at 1\.000 s"):
        read_audio(location, rate, 1.5, 0.1)


def _read_in_child(place: str, queue) -> None:
    queue.put(float(np.abs(read_audio(place, RATE) - sweep()).max()))


def test_open_archives_survive_a_fork(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    for place in PLACES[1:4]:
        read_audio(str(folder / place), RATE)  # opens the archive here
        queue = context.Queue()
        children = [context.Process(target=_read_in_child, args=(str(folder / place), queue)) for _ in range(2)]
        for child in children:
            child.start()
        assert max(queue.get(timeout=30) for _ in children) < 1e-4
        for child in children:
            child.join()


def test_a_changed_archive_is_read_anew(folder: Path) -> None:
    location = parse_location("a.tar::clips/one.flac", folder)
    read_audio(location, RATE)
    make_tar(folder / "a.tar", {"first.txt": b"x" * 5000, "clips/one.flac": encoded(sweep() / 2)})
    assert np.abs(read_audio(location, RATE) - sweep() / 2).max() < 1e-4


# -- what FFmpeg reads ----------------------------------------------------------------------------------------------


def write_m4a(path: Path, waveform: np.ndarray, rate: int = RATE, video_lead_s: float = 0.0) -> Path:
    """AAC, and pictures beside it that begin earlier where asked."""
    with av.open(str(path), "w") as container:
        if video_lead_s:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width = pictures.height = 32
        sound = container.add_stream("aac", rate=rate)
        sound.layout = "mono"
        if video_lead_s:
            for number in range(25):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 9, np.uint8), format="rgb24")
                frame.pts = number
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
        for begin in range(0, len(waveform), 1024):
            block = waveform[None, begin : begin + 1024]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, begin + round(video_lead_s * rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """Samples by which ``b`` is late."""
    size = 1 << (len(a) + len(b)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)))
    best = int(np.argmax(correlation))
    return best if best < size // 2 else best - size


def test_a_format_of_ffmpeg_is_read_without_a_shift(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE * 2).astype(np.float32) * 0.1
    path = write_m4a(tmp_path / "a.m4a", noise)
    waveform = read_audio(path, RATE)
    assert lag(noise, waveform) == 0 and abs(len(waveform) - len(noise)) <= 2048
    assert abs(audio_info(path).duration_s - len(waveform) / RATE) < 0.05
    part = read_audio(path, RATE, 0.5, 1.0)
    assert np.abs(part - waveform[RATE // 2 : RATE // 2 + RATE]).max() < 1e-3
    verify_audio_file(path)


def test_sound_that_begins_after_the_pictures_keeps_its_place(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    path = write_m4a(tmp_path / "a.mp4", noise, video_lead_s=0.4)
    waveform = read_audio(path, RATE)
    assert abs(lag(noise, waveform) - round(0.4 * RATE)) <= RATE / 1000  # the container counts milliseconds
    assert np.abs(waveform[: round(0.35 * RATE)]).max() < 1e-3


def test_blocks_of_any_size_are_the_whole(tmp_path: Path) -> None:
    path = write_m4a(tmp_path / "a.m4a", sweep(1.0))
    whole = read_audio(path, RATE)
    with open_audio(path) as reader:
        parts, position = [], 0
        while len(block := reader.read(position, 777)):
            parts.append(block[:, 0])
            position += len(block)
    assert np.array_equal(np.concatenate(parts), whole)


# -- arrays ---------------------------------------------------------------------------------------------------------


def test_arrays_are_the_same_wherever_they_lie(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    save_file({"one": values}, tmp_path / "one.safetensors")
    save_file({"one": values, "two": values + 1}, tmp_path / "two.safetensors")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/y"] = values
    make_tar(tmp_path / "a.tar", {"a.npy": (tmp_path / "a.npy").read_bytes()})
    for place in ("a.npy", "one.safetensors", "two.safetensors::one", "a.h5::x/y", "a.tar::a.npy"):
        assert np.array_equal(read_array(tmp_path / place), values)


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects"):
        read_array(tmp_path / "a.npy")


# -- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("one.flac::member", "'::' names a member of an archive"),
        ("a.tar.gz::one.flac", "compressed tar cannot be found in place; make a plain .tar"),
        ("a.tar::", "name of the member is missing"),
    ],
)
def test_a_name_that_names_no_member_is_refused(tmp_path: Path, place: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_location(place, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("gone.tar::a.flac", "gone.tar: no such audio file"),
        ("a.tar::gone.flac", "a.tar::gone.flac: the archive has 3 members, none of that name"),
        ("a.tar::x.txt", "a.tar::x.txt: not readable as audio"),
        ("a.h5::gone", "a.h5::gone: the file has no data set of that name"),
        ("a.h5::files", "a.h5::files: the file has no data set of that name"),
        ("a.h5::no rate", "a.h5::no rate: samples need an attribute sample_rate"),
        ("a.h5::unsigned", "a.h5::unsigned: samples are uint16; store int16"),
        ("a.h5::text", "a.h5::text: holds object, not numbers"),
    ],
)
def test_a_member_that_is_no_recording_is_named(folder: Path, place: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_audio(parse_location(place, folder), RATE)
    assert words in str(caught.value)


def test_damaged_archives_are_named_with_the_place(folder: Path) -> None:
    whole = (folder / "a.tar").read_bytes()
    location = parse_location("a.tar::clips/one.flac", folder)
    (folder / "a.tar").write_bytes(whole[:2000])
    with pytest.raises(UserError, match=r"a\.tar: cut off within member 'clips/one\.flac'"):
        read_audio(location, RATE)
    size = 512 + -(-len(encoded(sweep())) // 512) * 512
    broken = bytearray(whole)
    broken[size : size + 100] = b"\xff" * 100  # the second member's header
    (folder / "a.tar").write_bytes(broken)
    with pytest.raises(UserError, match=r"damaged tar archive after member './clips/one\.flac' \(no header follows\)"):
        read_audio(location, RATE)
    (folder / "a.tar").write_bytes(b"\x01" * 5000)
    with pytest.raises(UserError, match="damaged tar archive after its beginning"):
        read_audio(location, RATE)
    flipped = bytearray(whole)
    flipped[3000:3400] = os.urandom(400)  # within the flac member
    (folder / "a.tar").write_bytes(flipped)
    with pytest.raises(UserError, match=r"a\.tar::clips/one\.flac: damaged audio"):
        verify_audio_file(location)
    (folder / "a.h5").write_bytes((folder / "a.h5").read_bytes()[:300])
    with pytest.raises(UserError, match=r"a\.h5: not readable as HDF5"):
        read_audio(parse_location("a.h5::pcm", folder), RATE)


def test_numbers_that_lie_in_other_files_are_not_followed(folder: Path) -> None:
    with h5py.File(folder / "b.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(folder / "a.h5"), "pcm")
        file.create_dataset("outside", shape=(9,), dtype="f4", external=[(str(folder / "one.flac"), 0, 36)])
    for member, words in (("link", "is a link to another file"), ("outside", "its values lie in other files")):
        with pytest.raises(UserError, match=words):
            read_array(folder / f"b.h5::{member}")


def test_no_step_of_a_path_leads_into_another_file(folder: Path) -> None:
    with h5py.File(folder / "b.h5", "w") as file:
        file["own/pcm"] = np.zeros(9, np.float32)
        file["group"] = h5py.ExternalLink(str(folder / "a.h5"), "/samples")
        file["deep/group"] = h5py.ExternalLink(str(folder / "a.h5"), "/samples")
        file["soft"] = h5py.SoftLink("/deep/group/one")
        file["own/back"] = h5py.SoftLink("/own")
        file["loop"] = h5py.SoftLink("/loop")
    for member in ("group/one", "deep/group/one", "soft", "/group/one"):
        with pytest.raises(UserError, match="'group' is a link to another file"):
            read_array(folder / f"b.h5::{member}")
    for member in ("own/pcm", "own/back/pcm", "own/back/back/./pcm"):
        assert len(read_array(folder / f"b.h5::{member}")) == 9
    assert not parse_location("b.h5::loop", folder).exists()


@pytest.mark.parametrize("rate", [np.nan, np.inf, -np.inf, 1j, 24_000.5, "24000"])
def test_a_sample_rate_that_is_none_is_refused(tmp_path: Path, rate) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=noise(0.1)).attrs["sample_rate"] = rate
    with pytest.raises(UserError, match=r"a\.h5::a: samples need an attribute sample_rate, whole Hz"):
        audio_info(parse_location("a.h5::a", tmp_path))


@pytest.mark.parametrize("by_pax", [False, True])
def test_a_member_of_negative_size_is_damage(tmp_path: Path, by_pax: bool) -> None:
    info = tarfile.TarInfo("a.flac")
    if by_pax:
        info.pax_headers = {"size": "-512"}
    else:
        info.size = -512
    header = info.tobuf(tarfile.PAX_FORMAT if by_pax else tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(header + bytes(10_240))
    with pytest.raises(UserError, match=r"a\.tar: damaged tar archive .*a size of -512 bytes"):
        read_audio(parse_location("a.tar::a.flac", tmp_path), RATE)


def test_an_empty_member_is_named_not_the_object_in_memory(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"a.flac": b""})
    with pytest.raises(UserError) as caught:
        read_audio(parse_location("a.tar::a.flac", tmp_path), RATE)
    assert "a.tar::a.flac: not readable as audio" in str(caught.value)
    assert "BytesIO" not in str(caught.value) and "<none>" not in str(caught.value)


def npy_of(header: bytes) -> bytes:
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04" + bytes(99), "is no .npy file"),
        (b"", "is no .npy file"),
        (npy_of(b"(" * 20_000), "not readable as an array"),
        (
            npy_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }\n"),
            "not readable as an array",
        ),
        (npy_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 30 + b",), }\n"), "not readable"),
    ],
)
def test_what_is_no_array_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "e.npy").write_bytes(data)
    make_tar(tmp_path / "a.tar", {"e.npy": data})
    for place in ("e.npy", "a.tar::e.npy"):
        with pytest.raises(UserError, match=words) as caught:
            read_array(parse_location(place, tmp_path))
        assert place in str(caught.value) and "allow_pickle" not in str(caught.value)


def test_a_tensor_that_is_not_there_does_not_exist(tmp_path: Path) -> None:
    save_file({"one": np.zeros(3)}, tmp_path / "a.safetensors")
    assert parse_location("a.safetensors::one", tmp_path).exists()
    assert not parse_location("a.safetensors::two", tmp_path).exists()


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"a.flac": b"1", "./a.flac": b"2"})
    with pytest.raises(UserError, match=r"member 'a\.flac' is there twice"):
        Location(path, "a.flac").exists()


@pytest.mark.parametrize("kind", ["txt", "noise", "empty", "video without sound"])
def test_what_is_no_audio_is_refused_by_both_readers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.m4a"
    if kind == "video without sound":
        with av.open(str(path), "w", format="mp4") as container:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width = pictures.height = 32
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
            container.mux(pictures.encode())
    else:
        data = {"txt": b"not a sound\n" * 99, "noise": np.random.default_rng(0).bytes(20_000), "empty": b""}
        path.write_bytes(data[kind])
    with pytest.raises(UserError) as caught:
        verify_audio_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("samples", [1, 2, 100])
def test_a_single_sample_and_eight_channels_are_read(tmp_path: Path, channels: int, samples: int) -> None:
    sf.write(tmp_path / "a.wav", np.full((samples, channels), 0.5), RATE)
    assert read_audio(tmp_path / "a.wav", RATE) == pytest.approx(np.full(samples, 0.5), abs=1e-4)


def test_three_hours_are_read_in_parts_without_decoding_them(tmp_path: Path) -> None:
    import time

    with sf.SoundFile(tmp_path / "long.wav", "w", 8000, 1, "PCM_16") as file:
        for minute in range(180):
            file.write(np.full(8000 * 60, minute / 200))
    started = time.perf_counter()
    part = read_audio(tmp_path / "long.wav", 8000, 150 * 60 + 10.0, 2.0)
    assert time.perf_counter() - started < 1.0
    assert part == pytest.approx(np.full(16_000, 150 / 200), abs=1e-3)


@pytest.mark.parametrize("head", ["#EXTM3U\n", "#EXTM3U\n# caf\udce9\n", "ffconcat version 1.0\n# \udcff\udcfe\n" * 50])
def test_no_playlist_reaches_ffmpeg_whatever_its_encoding(head: str, tmp_path: Path) -> None:
    path = tmp_path / "list.m4a"
    path.write_bytes((head + "file 'one.flac'\n").encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="it is a text, such as a playlist"):
        read_audio(path, RATE)


def test_minutes_of_vorbis_are_written(tmp_path: Path) -> None:
    """In one piece they overflow the stack of libsndfile's coder."""
    sound = (0.1 * np.random.default_rng(0).standard_normal(120 * 24_000)).astype(np.float32)
    path = write_audio(tmp_path / "long.ogg", sound, 24_000)
    assert audio_info(path).duration_s == pytest.approx(120)
