"""Pictures of videos: the right one at every time, from every container, however it was recorded."""

import io
import struct
import sys
import tarfile
from fractions import Fraction

import numpy as np
import pytest

from unisono.errors import UserError
from unisono.media.video import iterate_video_frames, read_video_frames, video_info

av = pytest.importorskip("av")

WIDTH, HEIGHT, RATE_HZ = 64, 48, 25
BITS = 8
CODECS = {
    "mp4": "libx264",
    "matroska": "libx264",
    "mov": "mpeg4",
    "mpegts": "libx264",
    "flv": "libx264",
    "webm": "libvpx",
}


def numbered(number: int) -> np.ndarray:
    """A picture that shows its number as eight vertical bars, within the square in the middle."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        left = 8 + 6 * bit
        picture[:, left : left + 6] = 255 * (number >> bit & 1)
    return picture


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that pictures show; ``(T, 48, 48, 3)``, the middle square of ``numbered``."""
    assert frames.dtype == np.uint8 and frames.shape[1:] == (HEIGHT, HEIGHT, 3)
    return [sum(int(f[24, 6 * bit + 3].mean() > 128) << bit for bit in range(BITS)) for f in frames]


def quadrants(number: int = 0) -> np.ndarray:
    """Red, green over blue, white."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for row, column, colour in ((0, 0, (255, 0, 0)), (0, 1, (0, 255, 0)), (1, 0, (0, 0, 255)), (1, 1, (255, 255, 255))):
        top, left = row * HEIGHT // 2, column * WIDTH // 2
        picture[top : top + HEIGHT // 2, left : left + WIDTH // 2] = colour
    return picture


def corners(picture: np.ndarray) -> str:
    """Initials of the colours top left, top right, bottom left, bottom right."""
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}
    return "".join(names[tuple(int(c) for c in picture[y, x] > 128)] for y in (4, -5) for x in (4, -5))


def write(
    path, container="mp4", count=50, times=None, audio_s=0.0, draw=numbered, first=0, gop=12, b_frames=2, pixel=None,
    options=None, rate=RATE_HZ,
):  # fmt: skip
    """Write a video; ``times`` in hundredths of a second, or a constant rate from frame ``first`` on."""
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        stream = out.add_stream(CODECS[container], rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        if pixel:
            stream.codec_context.sample_aspect_ratio = pixel
        if CODECS[container] == "libx264":
            stream.options = {"preset": "veryfast", "bf": str(b_frames)}
        unit = Fraction(1, 100) if times else Fraction(1, rate)
        stream.codec_context.time_base = unit
        sound = out.add_stream("libopus" if container == "webm" else "aac", rate=48_000) if audio_s else None
        if sound:
            sound.layout = "mono"
        for number in range(len(times) if times else count):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else first + number, unit
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            silence = np.zeros((1, 960), np.int16 if sound.format.name == "s16" else np.float32)
            for start in range(0, int(audio_s * 48_000), 960):
                frame = av.AudioFrame.from_ndarray(silence, format=sound.format.name, layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
                out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """100 pictures in 4 s with B-frames and a sound track, in a folder with a space."""
    return write(tmp_path_factory.mktemp("some videos") / "a clip.mp4", count=100, audio_s=4.0)


def test_info(clip):
    info = video_info(clip)
    assert (info.width, info.height, info.num_frames, info.has_audio) == (WIDTH, HEIGHT, 100, True)
    assert info.duration_s == pytest.approx(4.0, abs=1e-3) and info.frame_rate_hz == pytest.approx(25)


@pytest.mark.parametrize("container", CODECS)
@pytest.mark.parametrize("audio_s", [0.0, 2.0])
def test_every_picture_of_every_container(tmp_path, container, audio_s):
    path = write(tmp_path / "v", container, audio_s=audio_s)
    info = video_info(path)
    assert info.has_audio == (audio_s > 0) and info.frame_rate_hz == pytest.approx(25)
    assert 2.0 <= info.duration_s < 2.1
    shown = numbers(read_video_frames(path, RATE_HZ, HEIGHT))
    # Where the coder's warm-up is part of the sound track, it begins before the pictures; FLV counts from elsewhere.
    lead = shown.index(1) - 1
    assert shown == [0] * lead + list(range(50)) + [49] * (len(shown) - lead - 50)
    assert len(shown) <= 53 and (lead == 0 or container in ("mpegts", "flv"))
    part = read_video_frames(path, RATE_HZ, HEIGHT, start_s=(30 + lead) / RATE_HZ, duration_s=0.4)
    assert numbers(part) == list(range(30, 40))


@pytest.mark.parametrize("rate_hz", [1, 4.5, 10, 24, 25, 30, 60, 100.3])
@pytest.mark.parametrize("start_s", [0.0, 0.5, 1.237, 3.9])
def test_pictures_are_those_on_the_screen(clip, rate_hz, start_s):
    frames = read_video_frames(clip, rate_hz, HEIGHT, start_s=start_s)
    count = int(np.ceil((4.0 - start_s) * rate_hz - 1e-6))
    times_s = start_s + np.arange(count) / rate_hz
    half_tick_s = 0.5 / 12_800
    assert numbers(frames) == np.floor((times_s + half_tick_s) * RATE_HZ).astype(int).tolist()


def test_parts_are_cut_out_of_the_whole(clip):
    whole = read_video_frames(clip, RATE_HZ, 16)
    for start in (0, 1, 13, 26, 50, 77, 99):
        part = read_video_frames(clip, RATE_HZ, 16, start / RATE_HZ, min(1.0, (100 - start) / RATE_HZ))
        assert np.array_equal(part, whole[start : start + 25])
    one_by_one = list(iterate_video_frames(clip, RATE_HZ, 16, 1.0, 2.0))
    assert np.array_equal(one_by_one, whole[25:75])


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_variable_frame_rate(tmp_path, container):
    times = [0, 10, 11, 12, 50, 51, 90, 100, 180, 190, 195, 200]
    path = write(tmp_path / "v", container, times=times, b_frames=0)
    frames = read_video_frames(path, 100, HEIGHT, duration_s=2.0)
    assert numbers(frames) == (np.searchsorted(times, np.arange(200), side="right") - 1).tolist()
    late = read_video_frames(path, 20, HEIGHT, start_s=1.2, duration_s=0.7)
    assert numbers(late) == [7] * 12 + [8] * 2


def test_thirty_per_second_in_milliseconds(tmp_path):
    """Matroska rounds 2/30 s up to 67 ms: picture 2 is nevertheless the one at 2/30 s."""
    path = write(tmp_path / "v.mkv", "matroska", count=60, rate=30)
    assert numbers(read_video_frames(path, 30, HEIGHT)) == list(range(60))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_pictures_that_begin_after_the_sound(tmp_path, container):
    path = write(tmp_path / "v", container, first=10, audio_s=2.4)
    assert video_info(path).duration_s == pytest.approx(2.4, abs=0.03)
    assert numbers(read_video_frames(path, RATE_HZ, HEIGHT, duration_s=2.4)) == [0] * 10 + list(range(50))


def test_the_beginning_of_the_container_is_time_zero(tmp_path):
    """A recording of a broadcast starts at any time."""
    path = write(tmp_path / "v.ts", "mpegts", first=2500)
    assert video_info(path).duration_s == pytest.approx(2.0, abs=0.01)
    assert numbers(read_video_frames(path, RATE_HZ, HEIGHT)) == list(range(50))
    assert numbers(read_video_frames(path, RATE_HZ, HEIGHT, 1.6, 0.2)) == list(range(40, 45))


def test_edit_lists_are_heeded(tmp_path):
    """An editor cut the first 0.4 s off by moving the start of the edit, as phones do."""
    data = bytearray(write(tmp_path / "v.mp4", "mp4", b_frames=0).read_bytes())
    at = data.index(b"elst")
    _, entries, length, media_start = struct.unpack(">IIIi", data[at + 4 : at + 20])
    assert (entries, length, media_start) == (1, 2000, 0)
    ticks = int(0.4 * 12_800)
    data[at + 12 : at + 20] = struct.pack(">Ii", 1600, ticks)
    frames = read_video_frames(io.BytesIO(bytes(data)), RATE_HZ, HEIGHT, duration_s=1.6)
    assert numbers(frames) == list(range(10, 50))


def test_sound_longer_than_the_pictures(tmp_path):
    """The last picture stays where the container's length is that of its sound."""
    path = write(tmp_path / "v.flv", "flv", audio_s=3.0)
    frames = read_video_frames(path, RATE_HZ, HEIGHT)
    assert len(frames) >= 75 and numbers(frames)[-20:] == [49] * 20


# --------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(("degrees", "seen"), [(0, "RGBW"), (90, "BRWG"), (180, "WBGR"), (270, "GWRB")])
def test_phones_hold_their_pictures_upright(tmp_path, degrees, seen):
    """Turned clockwise by the matrix in the track header, as phones write it."""
    data = bytearray(write(tmp_path / "v.mp4", count=3, draw=quadrants).read_bytes())
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *(v << 16 for v in (cosine, sine, 0, -sine, cosine, 0, 0, 0)), 1 << 30)
    turned = io.BytesIO(bytes(data))
    assert corners(read_video_frames(turned, 25, 32)[0]) == seen
    info = video_info(turned)
    assert (info.width, info.height) == ((WIDTH, HEIGHT) if degrees % 180 == 0 else (HEIGHT, WIDTH))


def test_the_middle_square_is_kept(tmp_path):
    def stripes(number):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[:, 8:-8] = 200
        return picture

    path = write(tmp_path / "v.mp4", count=3, draw=stripes)
    for size in (48, 24, 96):
        frame = read_video_frames(path, 25, size)[0].astype(int)
        assert frame.shape == (size, size, 3)
        inner = frame[:, size // 12 : -size // 12]
        assert abs(inner - 200).max() < 12
    assert read_video_frames(path, 25, 1).shape == (3, 1, 1, 3)


def test_pixels_that_are_not_square(tmp_path):
    path = write(tmp_path / "v.mp4", count=3, draw=numbered, pixel=Fraction(2, 1))
    assert video_info(path).width == 2 * WIDTH
    wide, square = read_video_frames(path, 25, 48)[0], numbered(0)
    assert wide.shape == square[:, :48].shape


def test_values_are_those_that_were_written(tmp_path):
    path = write(tmp_path / "v.mp4", count=20, draw=lambda n: np.full((HEIGHT, WIDTH, 3), 12 * n, np.uint8))
    frames = read_video_frames(path, 25, 32).astype(int)
    assert np.abs(frames - 12 * np.arange(20)[:, None, None, None]).max() <= 4


# ---------------------------------------------------------------------------------------------- sources, size


def test_sources(clip, tmp_path):
    expected = read_video_frames(clip, 5, 16)
    with clip.open("rb") as file:
        file.seek(100)
        assert np.array_equal(read_video_frames(file, 5, 16), expected)
    assert np.array_equal(read_video_frames(io.BytesIO(clip.read_bytes()), 5, 16), expected)
    with tarfile.open(tmp_path / "shard 0.tar", "w") as tar:
        tar.add(clip, "clips/a clip.mp4")
    assert np.array_equal(read_video_frames(f"{tmp_path / 'shard 0.tar'}::clips/a clip.mp4", 5, 16), expected)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_a_long_video_is_searched_not_decoded(tmp_path, container, monkeypatch):
    """Ten minutes at 5 Hz; a part of them decodes little more than itself."""
    path = write(tmp_path / "long", container, count=3000, rate=5, gop=25)
    from unisono.media import video

    decoded = []
    init = video._Picture.__init__
    monkeypatch.setattr(video._Picture, "__init__", lambda self, *args: (decoded.append(1), init(self, *args))[1])
    for start_s in (300.0, 599.0):
        decoded.clear()
        frames = read_video_frames(path, 5, HEIGHT, start_s=start_s, duration_s=1.0)
        assert numbers(frames) == [(round(start_s * 5) + i) % 256 for i in range(5)]
        assert len(decoded) < 120


def test_more_than_memory_holds_is_refused(clip):
    with pytest.raises(UserError, match=r"400 pictures of 4096 x 4096 take 18\.8 GiB; read it in parts"):
        read_video_frames(clip, 100, 4096)


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate_hz": 0}, "rate_hz is 0"),
        ({"rate_hz": float("nan")}, "rate_hz is nan"),
        ({"rate_hz": 1e6}, "at most 1000"),
        ({"size": 0}, "size is 0"),
        ({"size": 1.5}, "size is 1.5"),
        ({"start_s": -1}, "start_s is -1"),
        ({"start_s": 4.0}, r"from 4\.000 s to its end were asked for; the video lasts 4\.000 s"),
        ({"start_s": 3.0, "duration_s": 2.0}, r"to 5\.000 s were asked for"),
        ({"duration_s": 0}, "duration_s is 0"),
        ({"duration_s": float("inf")}, "duration_s is inf"),
    ],
)
def test_bad_arguments_are_explained(clip, arguments, message):
    with pytest.raises(UserError, match=message):
        read_video_frames(clip, **({"rate_hz": 5, "size": 16} | arguments))


def test_what_is_no_video_is_explained(tmp_path, clip):
    import soundfile as sf

    sound = io.BytesIO()
    sf.write(sound, np.zeros(8000), 8000, format="WAV")
    with pytest.raises(UserError, match=r"no video stream \(it holds audio\)"):
        video_info(sound)
    for junk in (b"", b"hello" * 1000, bytes(range(256)) * 20):
        with pytest.raises(UserError, match="not readable as a video"):
            video_info(io.BytesIO(junk))
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(UserError, match="no such video file"):
            video_info(path)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na clip.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile 'a clip.mp4'\n",
    ],
)
def test_playlists_do_not_open_other_files(clip, monkeypatch, text):
    playlist = clip.with_name("list.m3u8")
    playlist.write_text(text)
    monkeypatch.chdir(clip.parent)
    with pytest.raises(UserError, match=r"list\.m3u8: not readable as a video \(it is a text"):
        video_info(playlist)


def test_the_cover_of_a_song_is_no_video():
    import soundfile as sf
    from PIL import Image

    sound, cover = io.BytesIO(), io.BytesIO()
    sf.write(sound, np.zeros(8000), 8000, format="MP3")
    Image.new("RGB", (32, 32)).save(cover, "JPEG")
    picture = b"\0image/jpeg\0\3\0" + cover.getvalue()
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    with pytest.raises(UserError, match=r"it holds a cover picture, audio"):
        read_video_frames(io.BytesIO(b"ID3\3\0\0" + size + frame + sound.getvalue()), 5, 16)


def busy(number: int) -> np.ndarray:
    """A pattern that moves, so that there are bytes to damage."""
    pattern = np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return np.ascontiguousarray(pattern[number % 30 : number % 30 + HEIGHT, number : number + WIDTH])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_cut_files_are_found(tmp_path, container):
    options = {"movflags": "faststart"} if container == "mp4" else {}
    path = write(tmp_path / "v", container, draw=busy, options=options)
    data = path.read_bytes()
    whole = read_video_frames(path, RATE_HZ, 16)
    for tenths in range(1, 9):
        with pytest.raises(UserError, match=r"cut off|damaged|not readable"):
            read_video_frames(io.BytesIO(data[: len(data) * tenths // 10]), RATE_HZ, 16)
    # What lies before the cut is whole.
    part = read_video_frames(io.BytesIO(data[: len(data) * 8 // 10]), RATE_HZ, 16, duration_s=0.4)
    assert np.array_equal(part, whole[:10])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_damaged_files_are_found(tmp_path, container):
    """Most of them: a decoder cannot know every wrong bit. None makes it hang or fail without a word."""
    data = write(tmp_path / "v", container, draw=busy).read_bytes()
    found = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        bad = bytearray(data)
        for at in rng.integers(len(data) // 5, len(data), 8):
            bad[at] ^= int(rng.integers(1, 256))
        try:
            frames = read_video_frames(io.BytesIO(bytes(bad)), RATE_HZ, 16)
        except UserError:
            found += 1
        else:
            assert frames.shape[1:] == (16, 16, 3)
    assert found >= 9


def test_streams_without_times_are_explained(tmp_path):
    path = tmp_path / "v.h264"
    with av.open(str(path), "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"no time stamps; .*ffmpeg -i FILE"):
        read_video_frames(path, 5, 16)


def test_files_that_do_not_tell_their_length(tmp_path):
    """As browsers record: Matroska written to a stream, without duration and index."""
    path = write(tmp_path / "v.mkv", "matroska", count=75, options={"live": "1"})
    assert video_info(path).duration_s == pytest.approx(3.0, abs=0.05)
    assert numbers(read_video_frames(path, RATE_HZ, HEIGHT, duration_s=2.9))[-3:] == [70, 71, 72]
    assert numbers(read_video_frames(path, RATE_HZ, HEIGHT, 2.0, 0.4)) == list(range(50, 60))


def test_a_missing_library_is_named(monkeypatch, clip):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[video\]'"):
        video_info(clip)


def test_streams_that_cannot_be_searched_are_explained():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    with pytest.raises(UserError, match="cannot be searched"):
        video_info(Pipe(b""))
