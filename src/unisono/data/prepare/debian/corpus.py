"""The recipe ``debian``: data sets of all tasks from Debian packages. docs/prepare_data.md explains it."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.data.prepare.debian import effects, films, music, narrow, noisy, packages, report, singing, speech
from unisono.data.prepare.debian.effects import EffectJob
from unisono.data.prepare.debian.manifests import audio_line, write_manifests
from unisono.data.prepare.debian.tables import tables_fingerprint
from unisono.data.prepare.jobs import Record, run_step
from unisono.data.prepare.splits import split_of
from unisono.errors import UserError
from unisono.files import locked, write_json
from unisono.text.align import text_to_words
from unisono.workers import default_workers

logger = logging.getLogger(__name__)

# Raise it when the same packages and tables would give other files.
RECIPE_VERSION = 3
PACKAGES = (
    speech.TEXT_PACKAGE,
    speech.SOUND_PACKAGE,
    *effects.EFFECT_PACKAGES,
    music.MUSIC_PACKAGE,
)


@dataclass(frozen=True)
class _Run:
    """Where this run works and how."""

    out: Path
    seed: int
    workers: int
    progress: bool

    @property
    def work(self) -> Path:
        return self.out / ".work"

    def step(self, name: str, function: Any, jobs: list[Any], description: str) -> list[Record]:
        return run_step(
            function,
            jobs,
            self.work / name,
            description=description,
            workers=self.workers,
            progress=self.progress,
        )


def prepare_debian(
    out: Path, *, cache: Path | None = None, seed: int = 0, workers: int | None = None, progress: bool = True
) -> Path:
    """Build the data sets of ``report.TASKS`` in ``out``.

    A run that was killed goes on where it stopped; a finished folder is left as it is. The same seed and the same
    versions of the packages give the same files.

    Args:
        out: a new or empty folder, or one that this function began.
        cache: where downloaded packages are kept (80 MB); ``out/.cache`` by default.
        seed: of noises, rooms, filters, melodies and films; at least 0.
        workers: processes; all processors by default.
        progress: show progress bars.

    Returns:
        ``out``. ``corpus.json`` in it, written last, tells that it is complete.

    Raises:
        UserError: no apt-get or network, missing Python packages, ``out`` holds something else.
    """
    out = Path(out)
    if seed < 0:
        raise UserError(f"seed is {seed}; give a whole number of at least 0")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; give a whole number of at least 1")
    recipe = {"recipe": "debian", "recipe_version": RECIPE_VERSION, "tables": tables_fingerprint(), "seed": seed}
    if _is_finished(out, recipe):
        logger.info("%s is complete already", out)
        shutil.rmtree(out / ".work", ignore_errors=True)
        return out
    run = _Run(out, seed, workers or default_workers(), progress)
    _check_installed()
    cache = Path(cache) if cache is not None else out / ".cache"
    _check_out(out, cache)
    fetched = {name: packages.fetch_package(name, cache) for name in PACKAGES}
    refusal = f"another run is preparing {run.out} at this moment; wait for it, or end it"
    with locked(run.work / "lock", refusal=refusal):
        _begin(run, {**recipe, "packages": {package.name: package.version for package in fetched.values()}})
        _build(run, recipe, list(fetched.values()))
        shutil.rmtree(run.work)
    return out


def _build(run: _Run, recipe: Record, fetched: list[packages.Package]) -> None:
    # What a killed run was just writing.
    for task in report.TASKS:
        for partial in (run.out / task).glob("*/.*"):
            partial.unlink()
    roots = {package.name: packages.unpack_package(package, run.work / "unpacked") for package in fetched}
    effects.unpack_opensfx(roots[effects.OPENSFX])

    utterances, splits, left_out = _speech(run, roots)
    _enhancement(run, roots, utterances, splits)
    _singing(run, utterances, splits)
    kept, effect_splits, effects_left_out = _effects(run, roots)
    left_out += effects_left_out
    left_out += _super_resolution(run, kept, effect_splits)
    left_out += _music(run, roots, kept, effect_splits)
    _films(run, kept, effect_splits)
    report.write_report(run.out, recipe, fetched, roots, left_out)


def _speech(run: _Run, roots: dict[str, Path]) -> tuple[list[Record], dict[str, str], list[Record]]:
    folder = run.out / "text_to_speech"
    jobs, left_out = speech.prompt_jobs(roots[speech.TEXT_PACKAGE], roots[speech.SOUND_PACKAGE], folder / "audio")
    records = run.step("speech", speech.prepare_prompt, jobs, "aligning speech")
    utterances = [utterance for record in records for utterance in record["utterances"]]
    left_out += [entry for record in records for entry in record["left_out"]]
    splits = {u["audio_id"]: split_of(" ".join(text_to_words(u["text"]))) for u in utterances}
    content = [
        {
            "audio_id": utterance["audio_id"],
            "phonemes": utterance["phonemes"],
            "durations_s": utterance["durations_s"],
            "text": utterance["text"],
            "speaker": speech.SPEAKER,
            "license": speech.LICENSE,
            "source": speech.SOUND_PACKAGE,
        }
        for utterance in utterances
    ]
    audio = [audio_line(u["audio_id"], "../audio", u["duration_s"], speech.LICENSE) for u in utterances]
    write_manifests(folder, splits, content, audio)
    return utterances, splits, left_out


def _enhancement(run: _Run, roots: dict[str, Path], utterances: list[Record], splits: dict[str, str]) -> None:
    folder = run.out / "speech_enhancement"
    recordings = noisy.noise_recordings({name: roots[name] for name in effects.EFFECT_PACKAGES})
    clean_folder = run.out / "text_to_speech" / "audio"
    jobs = noisy.noisy_jobs(utterances, splits, recordings, clean_folder, folder / "noisy", run.seed)
    records = run.step("noisy", noisy.prepare_noisy, jobs, "adding noise")
    content, audio = [], []
    for job, record in zip(jobs, records, strict=True):
        clean_id = job.clean.stem
        content.append(
            {
                "audio_id": job.job_id,
                "noisy_audio": f"../noisy/{job.job_id}.flac",
                "snr_db": record["snr_db"],
                "noise": record["noise"],
                "rt60_s": record["rt60_s"],
                "license": speech.LICENSE,
                "source": speech.SOUND_PACKAGE,
            }
        )
        line = audio_line(clean_id, "../../text_to_speech/audio", record["duration_s"], speech.LICENSE)
        audio.append({**line, "audio_id": job.job_id})
    write_manifests(folder, {job.job_id: splits[job.clean.stem] for job in jobs}, content, audio)


def _singing(run: _Run, utterances: list[Record], splits: dict[str, str]) -> None:
    speech, songs = run.out / "text_to_speech" / "audio", run.out / "singing_voice_synthesis" / "audio"
    contours = run.out / "singing_acoustic_modeling" / "f0"
    jobs = singing.sung_jobs(utterances, splits, speech, songs, contours, run.seed)
    records = run.step("singing", singing.prepare_sung, jobs, "singing")
    singing.write_sung(run.out, jobs, records, utterances, splits)


Effects = list[tuple[EffectJob, Record]]


def _effects(run: _Run, roots: dict[str, Path]) -> tuple[Effects, dict[str, str], list[Record]]:
    folder = run.out / "text_to_audio"
    jobs: list[effects.EffectJob] = []
    left_out: list[Record] = []
    for package in effects.EFFECT_PACKAGES:
        package_jobs, package_left_out = effects.effect_jobs(package, roots[package], folder / "audio")
        jobs += package_jobs
        left_out += package_left_out
    records = run.step("effects", effects.prepare_effect, jobs, "sound effects")
    kept, dropped = effects.drop_copies(jobs, records)
    content, audio = [], []
    for job, record in kept:
        content.append({"audio_id": job.job_id, "caption": job.caption, "license": job.license, "source": job.package})
        line = audio_line(job.job_id, "../audio", record["duration_s"], job.license)
        line["native_sample_rate"] = record["native_sample_rate"]
        audio.append({**line, "credit": job.credit.strip()} if job.credit else line)
    splits = effects.effect_splits(kept)
    write_manifests(folder, splits, content, audio)
    return kept, splits, left_out + dropped


def _super_resolution(run: _Run, kept: Effects, splits: dict[str, str]) -> list[Record]:
    folder = run.out / "audio_super_resolution"
    jobs = narrow.narrow_jobs(kept, folder / "narrow", run.seed)
    records = run.step("narrow", narrow.prepare_narrow, jobs, "taking treble away")
    return narrow.write_narrow(folder, jobs, records, splits)


def _music(run: _Run, roots: dict[str, Path], kept: Effects, splits: dict[str, str]) -> list[Record]:
    folder = run.out / "text_to_music"
    jobs, left_out = music.piece_jobs(roots[music.MUSIC_PACKAGE], folder / "audio")
    jobs += music.effect_music_jobs([job for job, _ in kept], folder / "audio")
    records = run.step("music", music.prepare_music, jobs, "music")
    return left_out + music.write_music(folder, jobs, records, splits)


def _films(run: _Run, kept: Effects, splits: dict[str, str]) -> None:
    folder = run.out / "video_to_audio"
    sounds = films.film_sounds([job for job, _ in kept], splits)
    jobs = films.film_jobs(sounds, folder, run.seed)
    records = run.step("films", films.prepare_film, jobs, "films")
    films.write_films(folder, jobs, records)


def _is_finished(out: Path, recipe: Record) -> bool:
    """True if ``out`` holds this very corpus; another finished corpus is an error."""
    if not (out / "corpus.json").is_file():
        return False
    try:
        made = dict(json.loads((out / "corpus.json").read_text(encoding="utf-8")))
    except ValueError:
        made = {}
    if all(made.get(key) == value for key, value in recipe.items()):
        return True
    raise UserError(
        f"{out} holds another corpus already (recipe {made.get('recipe')}, version {made.get('recipe_version')}, "
        f"seed {made.get('seed')}); remove it or choose another folder"
    )


def _check_installed() -> None:
    missing = [
        name for name in ("av", "pocketsphinx", "pyroomacoustics", "pyworld") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(f"the recipe 'debian' needs {', '.join(missing)}; run: pip install 'unisono[speech,singing]'")


def _check_out(out: Path, cache: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a folder")
    if (out / ".work").is_dir() or not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if path.resolve() != cache.resolve() and path.name != ".cache")
    if others:
        raise UserError(f"{out} holds other files ({', '.join(others[:3])}); choose a new or empty folder")


def _begin(run: _Run, state: Record) -> None:
    """Remember what is being made, so that a later run goes on only with the same."""
    path = run.work / "state.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != state:
            raise UserError(
                f"{run.out} holds an unfinished corpus with another seed or other packages; "
                "remove the folder or choose another"
            )
        return
    write_json(path, state)
