"""Documented configurations: commands of docs/configuration.md run, its messages are what is said, data blocks load."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unisono.config.preflight import compose_checked, read_launch
from unisono.errors import UserError
from unisono.types import Batch

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with a small corpus and the files that the page shows."""
    from unisono.data.mini.corpus import build_mini_corpus

    place = tmp_path_factory.mktemp("a checkout")
    for name in ("train.py", "inference.py", "evaluate.py", "configs"):
        (place / name).symlink_to(ROOT / name)
    counts = dict.fromkeys(("text_to_audio", "text_to_speech", "speech_enhancement"), (34, 3, 3))
    build_mini_corpus(place / "data/mini", workers=1, progress=False, counts=counts)
    for text in [*blocks("yaml"), *blocks("python")]:
        name = text.splitlines()[0].removeprefix("# ")
        if not (place / name).exists():  # the page also quotes a file of the tree
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
    return place


def test_the_page_has_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 25
    for part in ("--multirun", "--config-path", "8gpus.yaml", "2machines", "unisono check", "--cfg job", "+data_dict"):
        assert any(part in command for command in COMMANDS), part


@pytest.mark.slow
def test_every_command_runs(workplace: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(workplace / "hf"),
    }
    for command in COMMANDS:
        if re.search(r"launch .*(8gpus|2machines)", command):
            continue  # composed below
        done = subprocess.run(
            ["bash", "-c", command], cwd=workplace, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    for made in ("mine/model", "sweep/multirun/3/model", "two/model", "launched/model", "few/inference/manifest.jsonl"):
        assert (workplace / "experiments" / made).exists(), made


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search(r"launch .*(8gpus|2machines)", c)])
def test_commands_for_many_gpus_are_understood_and_pass_the_check(command: str) -> None:
    from accelerate.commands.launch import launch_command_parser

    args = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert args.training_script == "train.py"
    processes = read_launch(ROOT / args.config_file).num_processes
    assert processes == (16 if "2machines" in command else 8)
    cfg, _, warnings = compose_checked("default", [*args.training_script_args, "data_root=absent"], None, processes)
    assert not warnings
    if "epochs=100" in command:
        assert (cfg.trainer.epochs, cfg.trainer.warmup_params.warmup_steps) == (100, 500)
        assert (cfg.train_dataloader.batch_size, cfg.val_dataloader.batch_size) == (12, 12)


@pytest.mark.parametrize(
    ("written", "said"), re.findall(r"^\| `([^|]+=[^|]*)` \| ([^|]+) \|$", PAGE.partition("is said |")[2], re.MULTILINE)
)
def test_the_quoted_messages_are_what_is_said(written: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_checked("default", [*shlex.split(written), "data_root=absent"])
    assert all(part in str(caught.value) for part in said.split("…")), str(caught.value)


# -- blocks that configure data -------------------------------------------------------------------------------------

PAGES = {name: (ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("data_format", "prepare_data")}
PAGES["configuration"] = PAGE


def files_of(page: str) -> dict[str, str]:
    """The YAML blocks of a page by the file that their first line names."""
    found = {}
    for text in blocks("yaml", PAGES[page]):
        name = text.splitlines()[0].removeprefix("# ").strip()
        assert text.startswith("# ") and name.endswith(".yaml") and name not in found, f"{page}: {text[:80]}"
        found[name] = text
    return found


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder with the data that the pages speak of."""
    import numpy as np

    from unisono.data.datasets import TextToAudioDataset
    from unisono.data.manifest import write_jsonl
    from unisono.data.tar_shards import write_shards
    from unisono.media.audio import write_audio

    place = tmp_path_factory.mktemp("some data")
    (place / "data").mkdir()
    (place / "data/mini").symlink_to(data_root / "mini")
    rng = np.random.default_rng(0)
    write_audio(place / "data/noises/n.flac", rng.uniform(-0.1, 0.1, 48_000).astype(np.float32), 24_000)
    fields: dict[str, dict] = {
        "text_to_audio": {"caption": "a hiss"},
        "text_to_speech": {"phonemes": ["_", "a"], "durations_s": [0.4, 0.6], "speaker": "me"},
        "speech_enhancement": {"noisy_audio": "a0.flac"},
        "audio_super_resolution": {"narrow_audio": "a0.flac"},
    }
    for task, more in fields.items():
        for split in ("train", "val", "test"):
            folder = place / "data/mine" / task / split
            for i in range(3):
                write_audio(folder / f"a{i}.flac", rng.uniform(-0.3, 0.3, 24_000).astype(np.float32), 24_000)
            write_jsonl(folder / "content.jsonl", [{"audio_id": f"a{i}", **more} for i in range(3)])
            write_jsonl(folder / "audio.jsonl", [{"audio_id": f"a{i}", "audio": f"a{i}.flac"} for i in range(3)])
    manifests = [place / f"data/mine/text_to_audio/train/{name}.jsonl" for name in ("content", "audio")]
    list(write_shards(TextToAudioDataset(*manifests), place / "data/mine/shards"))
    return place


def written(page: str, place: Path) -> Path:
    """A checkout's configs and a folder of one's own, with the files of a page."""
    shutil.copytree(ROOT / "configs", place / "configs")
    for name, text in files_of(page).items():
        # A data set's file may as well lie in a folder of one's own, as the page says.
        for where in {name, name.replace("configs/data/datasets/", "my_configs/data/datasets/")}:
            (place / where).parent.mkdir(parents=True, exist_ok=True)
            (place / where).write_text(text, encoding="utf-8")
    return place


def loaded(folder: Path, config_name: str, *overrides: str) -> list[Batch]:
    """Compose a configuration, make its loaders and take a batch of each."""
    import hydra
    from hydra.utils import instantiate

    from unisono.config import resolved
    from unisono.config.tree import hydra_in

    with hydra_in(folder):
        cfg = resolved(hydra.compose(config_name, overrides=list(overrides)))
    nodes = (cfg.train_dataloader, cfg.val_dataloader)
    return [next(iter(instantiate(node))) for node in nodes if node is not None]


def composed_files() -> list[tuple[str, str]]:
    """Pages and those of their files that are configurations, or data sets in a checkout."""
    return [
        (page, name)
        for page in PAGES
        for name in files_of(page)
        if re.fullmatch(r"my_configs/\w+\.yaml|configs/data/(datasets/)?\w+\.yaml", name)
    ]


def test_the_pages_configure_sets_of_ones_own_lists_streams_and_degradations() -> None:
    names = {name for _, name in composed_files()}
    assert {"configs/data/datasets/mine.yaml", "my_configs/conf.yaml", "my_configs/streamed.yaml"} <= names
    text = "".join(text for page in PAGES for text in files_of(page).values())
    for part in ("SpeechDegradation", "BandwidthDegradation", "min_bandwidth_hz", "TarShards", "mixture:", "crop_s:"):
        assert part in text, part


@pytest.mark.parametrize(("page", "name"), composed_files())
def test_a_block_that_configures_data_loads(
    page: str, name: str, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpora)
    place = written(page, tmp_path / "a place")
    path = Path(name)
    if path.parts[0] == "my_configs":
        batches = loaded(place / "my_configs", path.stem)
    elif path.parent.name == "datasets":
        register = place / "configs/data/all.yaml"  # the second of the documented steps
        register.write_text(register.read_text().rstrip("\n") + f"\n      - {path.stem}\n")
        lists = [
            f"++{loader}_dataloader.dataset.datasets=['${{data_dict.{path.stem}.{loader}}}']"
            for loader in ("train", "val")
        ]
        batches = loaded(place / "configs", "default", *lists)
    else:
        batches = loaded(place / "configs", "default", f"data@train_dataloader.dataset.datasets={path.stem}")
    assert batches
    for batch in batches:
        assert batch.waveform is not None and batch.waveform.shape[1] > 0 and all(batch.audio_ids)
