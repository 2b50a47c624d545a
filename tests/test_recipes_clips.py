"""AudioCaps, Clotho, MusicCaps and VGGSound in miniature."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from test_recipes_engine import assert_whole, left_out, lines, report, write_tone
from test_recipes_speech import assert_readable, prepare
from unisono.data.datasets import DATASETS
from unisono.errors import UserError

T2A, T2M, V2A = "text_to_audio", "text_to_music", "video_to_audio"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audiocaps", "looked for train.csv or val.csv or validation.csv or test.csv"),
        ("clotho", "looked for clotho_captions_development.csv"),
        ("musiccaps", "looked for musiccaps-public.csv"),
        ("vggsound", "looked for vggsound.csv"),
    ],
)
def test_a_wrong_folder_is_named_with_what_was_looked_for(name: str, message: str, tmp_path: Path) -> None:
    write_tone(tmp_path / "some where" / "sound.wav")
    with pytest.raises(UserError, match=message):
        prepare(name, tmp_path, tmp_path / "out")


# -- AudioCaps --------------------------------------------------------------------------------------------------------


def audiocaps_tables(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    header = "audiocap_id,youtube_id,start_time,caption\n"
    (root / "train.csv").write_text(
        header + "91139,r1nicOVtvkQ,130,A woman talks nearby as water pours\n"
        '58146,UDGBjjwyaqE,20,"Multiple clanging, and clanking sounds"\n'
        "1,-4gqARaEJE,0,Food sizzling\n"
        "2,gone0000000,10,A dog barks\n"
        "3,whole000000,10,A cat meows\n"
        "4,broken00000,soon,No time\n"
        "5,tooshort\n"
    )
    (root / "val.csv").write_text(header + "".join(f"{n},valvideo000,70,Caption {n}\n" for n in range(10, 15)))
    (root / "test.csv").write_text(header + "".join(f"{n},testvideo00,7,Caption {n}\n" for n in range(20, 25)))


def test_audiocaps_finds_clips_and_gathers_captions(tmp_path: Path) -> None:
    root = tmp_path / "Audio Caps"
    audiocaps_tables(root / "dataset")
    write_tone(root / "train" / "r1nicOVtvkQ_130.wav", 10.0)
    write_tone(root / "train" / "YUDGBjjwyaqE.flac", 9.7)
    write_tone(root / "train" / "-4gqARaEJE_0_10000.flac", 1.0)
    write_tone(root / "train" / "whole000000.wav", 14.0, sample_rate=8_000)
    write_tone(root / "valid" / "13.flac", 2.0)
    (root / "test").mkdir()
    (root / "test" / "testvideo00_7.wav").write_bytes(b"not a sound")
    out = prepare("audiocaps", root, tmp_path / "out", max_left_out=0.7)
    assert_whole(out)
    content = lines(out, T2A)
    assert {name: (line["caption"], line["split"]) for name, line in content.items()} == {
        "r1nicOVtvkQ_130": ("A woman talks nearby as water pours", "train"),
        "UDGBjjwyaqE_20": ("Multiple clanging, and clanking sounds", "train"),
        "-4gqARaEJE_0": ("Food sizzling", "train"),
        "valvideo000_70": ([f"Caption {n}" for n in range(10, 15)], "val"),
    }
    assert {name: kind for name, (kind, _) in left_out(out).items()} == {
        "gone0000000_10": "missing_audio",
        "whole000000_10": "too_long",
        "testvideo00_7": "unreadable",
        "train.csv:7": "broken_line",
        "train.csv:8": "broken_line",
    }
    assert report(out)["datasets"][T2A]["test"]["clips"] == 0
    assert_readable(out, T2A)


def test_audiocaps_clips_may_lie_elsewhere(tmp_path: Path) -> None:
    audiocaps_tables(tmp_path / "tables")
    for name in ("r1nicOVtvkQ", "UDGBjjwyaqE", "-4gqARaEJE", "valvideo000", "testvideo00"):
        write_tone(tmp_path / "big disk" / f"Y{name}.wav")
    with pytest.raises(UserError, match=r"items of audiocaps cannot be used \(missing_audio"):
        prepare("audiocaps", tmp_path / "tables", tmp_path / "out")
    out = prepare("audiocaps", tmp_path / "tables", tmp_path / "out", clips=tmp_path / "big disk")
    assert len(lines(out, T2A)) == 5
    with pytest.raises(UserError, match="--clips"):
        prepare("audiocaps", tmp_path / "tables", tmp_path / "out 2", clips=tmp_path / "none")


# -- Clotho -----------------------------------------------------------------------------------------------------------


def test_clotho_has_five_captions_and_a_licence_per_file(tmp_path: Path) -> None:
    root = tmp_path / "clotho v2"
    root.mkdir()
    for part in ("development", "validation", "evaluation"):
        rows = ["file_name," + ",".join(f"caption_{n}" for n in range(1, 6))]
        for name in (f"Santa Motor {part}.wav", "same name.wav"):
            write_tone(root / part / name, 0.5, sample_rate=44_100)
            rows.append(f'{name},"First, of {part}",second,third,fourth,fifth')
        rows.append(f"lost {part}.wav,a,b,c,d,e")
        (root / f"clotho_captions_{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "clotho_metadata_development.csv").write_bytes(
        "file_name,keywords,sound_id,license\nSanta Motor development.wav,caf\xe9,1,http://cc/by/3.0/\n".encode(
            "latin-1"
        )
    )
    out = prepare("clotho", tmp_path, tmp_path / "out")
    assert_whole(out)
    content = lines(out, T2A)
    assert len(content) == 6
    assert content["validation_same name"]["split"] == "val"
    assert content["evaluation_Santa Motor evaluation"]["split"] == "test"
    assert content["development_same name"]["caption"] == [
        "First, of development",
        "second",
        "third",
        "fourth",
        "fifth",
    ]
    assert content["development_Santa Motor development"]["license"] == "http://cc/by/3.0/"
    audio = lines(out, T2A, "audio")["evaluation_same name"]["audio"]
    assert audio.endswith("clotho v2/evaluation/same name.wav")
    assert {kind for kind, _ in left_out(out).values()} == {"missing_audio"}
    assert len(left_out(out)) == 3
    assert_readable(out, T2A)


def test_clotho_1_has_no_validation_part(tmp_path: Path) -> None:
    for part, count in (("development", 8), ("evaluation", 2)):
        rows = ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5"]
        for number in range(count):
            write_tone(tmp_path / f"clotho_audio_{part}" / f"{part} {number}.wav")
            rows.append(f"{part} {number}.wav,a,b,c,d,e")
        (tmp_path / f"clotho_captions_{part}.csv").write_text("\n".join(rows))
    out = prepare("clotho", tmp_path, tmp_path / "out")
    splits = [line["split"] for line in lines(out, T2A).values()]
    assert splits.count("test") == 2
    assert splits.count("val") >= 1
    assert report(out)["splits"]["val"] == "hash of the recording"


# -- MusicCaps --------------------------------------------------------------------------------------------------------


def test_musiccaps_tests_on_the_evaluation_part_of_audioset(tmp_path: Path) -> None:
    root = tmp_path / "music caps"
    root.mkdir()
    rows = [
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
    ]
    for number in range(8):
        aspects = "\"['low quality', 'sustained strings melody']\""
        caption = f'"The low ""quality"" recording {number},\nwith a soft voice."'
        rows.append(f'id{number:09},30,40,"/m/0140xf,/m/02cjck",{aspects},{caption},4,False,{number < 2}')
        name = [f"id{number:09}.wav", f"[id{number:09}]-[30-40].wav", f"id{number:09}_30.mp3"][number % 3]
        write_tone((root / "audio" / name).with_suffix(".wav"), 0.5)
    rows.append('deleted0001,0,10,/m/0,[],"Gone.",4,False,True')
    rows.append('wrong000001,0,ten,/m/0,[],"No end.",4,False,True')
    rows.append('wrong000002,0,10,/m/0,[],"No truth.",4,False,perhaps')
    (root / "musiccaps-public.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    out = prepare("musiccaps", root, tmp_path / "out")
    assert_whole(out)
    content = lines(out, T2M)
    assert {name for name, line in content.items() if line["split"] == "test"} == {"id000000000_30", "id000000001_30"}
    assert sum(line["split"] == "val" for line in content.values()) >= 1
    assert content["id000000003_30"]["caption"] == 'The low "quality" recording 3, with a soft voice.'
    assert content["id000000003_30"]["aspects"].startswith("['low quality'")
    assert sorted(kind for kind, _ in left_out(out).values()) == ["broken_line", "broken_line", "missing_audio"]
    assert_readable(out, T2M)


# -- VGGSound ---------------------------------------------------------------------------------------------------------


def write_video(path: Path, duration_s: float = 0.5, *, pictures: bool = True, sound_s: float | None = None) -> Path:
    """A moving square and a tone; ``sound_s`` 0 leaves the tone away."""
    import av

    rate, sample_rate = 25, 16_000
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=rate) if pictures else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=sample_rate, layout="mono") if sound_s != 0 else None
        for index in range(round(duration_s * rate) if video is not None else 0):
            picture = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
            picture[20:40, index % 40 : index % 40 + 20] = 255
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        if audio is not None:
            samples = round((duration_s if sound_s is None else sound_s) * sample_rate)
            tone = (0.3 * np.sin(np.arange(samples) * 0.1)).astype(np.float32)
            for start in range(0, samples, 1024):
                frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = sample_rate, start
                for packet in audio.encode(frame):
                    container.mux(packet)
        for stream in (video, audio):
            for packet in stream.encode(None) if stream is not None else ():
                container.mux(packet)
    return path


def test_vggsound_gives_videos_and_captions(tmp_path: Path) -> None:
    pytest.importorskip("av")
    root = tmp_path / "VGG Sound"
    videos = root / "scratch" / "video"
    write_video(videos / "---g-f_I2yQ_000001.mp4")
    write_video(videos / "--0PQM4-hqg_000030.mp4", 0.8)
    write_video(videos / "--5OkAjCI7g_50000_60000.mp4")
    for number in range(4):
        write_video(videos / f"train{number:06}_000000.mp4", 0.3)
    write_video(videos / "mute0000000_000001.mp4", sound_s=0)
    write_video(videos / "blind000000_000001.mp4", pictures=False)
    write_video(videos / "short000000_000001.mp4", 1.5, sound_s=0.5)
    shutil.copy(videos / "---g-f_I2yQ_000001.mp4", videos / "---g-f_I2yQ_000001.part")
    (videos / "damaged0000_000001.mp4").write_bytes((videos / "---g-f_I2yQ_000001.mp4").read_bytes()[:300])
    rows = [
        "---g-f_I2yQ,1,people marching,test",
        '--0PQM4-hqg,30,"bird chirping, tweeting",train',
        "--5OkAjCI7g,50,waterfall burbling,test",
        *(f"train{number:06},0,dog barking,train" for number in range(4)),
        *(f"{name},1,{name[:5]},train" for name in ("mute0000000", "blind000000", "short000000", "damaged0000")),
        "deleted0000,5,people crowd,train",
        "unquoted000,5,bird chirping, tweeting,train",
        "nosplit0000,5,people crowd,other",
    ]
    (root / "vggsound.csv").write_text("\n".join(rows) + "\n")
    out = prepare("vggsound", root, tmp_path / "out")
    assert_whole(out)
    content = lines(out, V2A)
    assert content["--0PQM4-hqg_000030"]["caption"] == "bird chirping, tweeting"
    assert content["--0PQM4-hqg_000030"]["video"].endswith("VGG Sound/scratch/video/--0PQM4-hqg_000030.mp4")
    assert {name for name, line in content.items() if line["split"] == "test"} == {
        "---g-f_I2yQ_000001",
        "--5OkAjCI7g_000050",
    }
    assert sum(line["split"] == "val" for line in content.values()) >= 1
    captions = lines(out, T2A)
    assert captions.keys() == content.keys()
    assert all(set(line) == {"audio_id", "caption", "license", "split"} for line in captions.values())
    assert {name: kind for name, (kind, _) in left_out(out).items()} == {
        "mute0000000_000001": "no_audio",
        "blind000000_000001": "unreadable",
        "short000000_000001": "lengths_differ",
        "damaged0000_000001": "unreadable",
        "deleted0000_000005": "missing_audio",
        "vggsound.csv:13": "broken_line",
        "vggsound.csv:14": "broken_line",
    }
    for task in (V2A, T2A):
        dataset = DATASETS[task](out / task / "train" / "content.jsonl", out / task / "train" / "audio.jsonl")
        assert dataset[0].waveform is not None


def test_vggsound_table_may_have_a_heading(tmp_path: Path) -> None:
    pytest.importorskip("av")
    for number in range(3):
        write_video(tmp_path / "videos" / f"abcdefghij{number}.mp4", 0.2)
    rows = ["YouTube ID,start seconds,label,split", *(f"abcdefghij{n},12,rain,train" for n in range(3))]
    (tmp_path / "vggsound.csv").write_text("\n".join(rows) + "\n")
    out = prepare("vggsound", tmp_path, tmp_path / "out")
    assert left_out(out) == {}
    assert set(lines(out, V2A)) == {f"abcdefghij{n}_000012" for n in range(3)}
