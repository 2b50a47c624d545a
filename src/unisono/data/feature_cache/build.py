"""Encode what the cache lacks: in several processes on a CPU, in batches on a GPU; what is done survives a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from unisono.data.feature_cache.demands import Demand
from unisono.data.feature_cache.digests import FileDigests
from unisono.data.feature_cache.encoders import FeatureEncoder, Wanted
from unisono.data.feature_cache.reading import digests_folder
from unisono.data.feature_cache.scan import Scan, chunks, scan
from unisono.data.feature_cache.shards import Feature
from unisono.data.feature_cache.store import FeatureStore, ShardWriter
from unisono.errors import UserError
from unisono.files import locked
from unisono.media.locations import Location

_CHUNK = 16
_AHEAD = 2  # chunks that a worker has, so that it never waits for the next
_FEW = 4 * _CHUNK  # encoded sooner than processes are started
_REFRESH_EVERY_S = 5.0


@dataclass(frozen=True)
class Filled:
    """What came of a demand.

    Attributes:
        store: where its features are.
        num_inputs: distinct inputs.
        num_missing: those that are not cached (now).
        faults: inputs that could not be read or encoded, with their manifest lines.
    """

    store: FeatureStore
    num_inputs: int
    num_missing: int
    faults: list[str]


def fill_demands(
    demands: Sequence[Demand],
    cache: Path,
    workers: int,
    device: torch.device | None = None,
    dry_run: bool = False,
    progress: bool = False,
) -> list[Filled]:
    """Look up what data sets need of frozen encoders, and encode what is missing.

    Args:
        demands: of ``demands_of``.
        cache: folder of all stores.
        workers: processes that encode, threads that read.
        device: see ``fill``.
        dry_run: only look.
        progress: show bars.
    """
    files, results = FileDigests(digests_folder(cache)), []
    for demand in demands:
        store = FeatureStore(cache, demand.encoder.spec)
        store.refresh(repair=not dry_run)
        found = scan(demand, store, files, workers, progress)
        if progress:
            what = f"{store.spec.kind} of {store.spec.made_by}"
            tqdm.write(f"{what}: {found.num_inputs} inputs, {found.num_missing} of them not cached", file=sys.stderr)
        faults = list(found.faults)
        if found.num_missing and not dry_run:
            faults += fill(found, store, files, workers, device, progress)
        missing = int((~store.table.contains(found.keys)).sum())
        results.append(Filled(store, found.num_inputs, missing, faults))
    return results


def fill(
    found: Scan,
    store: FeatureStore,
    files: FileDigests,
    workers: int,
    device: torch.device | None = None,
    progress: bool = False,
) -> list[str]:
    """Encode what a scan found missing.

    Several runs may fill one store at once: each takes up what the others have written meanwhile.

    Args:
        found: what is missing.
        store: where it goes.
        files: as used by the scan.
        workers: processes; 1 works in this one.
        device: a GPU encodes in this process, in batches, while ``workers`` threads read; None is the CPU.
        progress: show a bar.

    Returns:
        Inputs that could not be read, with their manifest lines.

    Raises:
        UserError: the disk is full, a worker was killed.
    """
    store.create()
    faults: list[str] = []
    encoder = found.demand.encoder
    with (
        _first_run(store.folder / "building.lock") as first,
        tqdm(total=found.num_missing, desc=f"encode {store.spec.kind}", unit="item", disable=not progress) as bar,
    ):
        todo = chunks(_unsolved(found, store, files, faults, bar, first), _CHUNK)
        if device is not None or workers <= 1 or found.num_missing <= _FEW:
            _encode_here(encoder, store.writer(), todo, device, workers, faults, bar)
        else:
            _encode_in_workers(encoder, store, todo, workers, faults, bar)
    store.refresh()
    store.write_index()
    return faults


@contextmanager
def _first_run(path: Path) -> Iterator[bool]:
    """Whether no other run fills this store now; the system frees the lock when the process dies."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, refusal=f"another run fills {path.parent}"))
        except UserError:
            yield False
            return
        yield True


def _unsolved(
    found: Scan, store: FeatureStore, files: FileDigests, faults: list[str], bar: tqdm, first: bool
) -> Iterator[Wanted]:
    """Missing inputs, without those that another run has written in the meantime."""
    begins = np.arange(0, found.num_missing, _CHUNK)
    if not first:
        # An order of its own: runs that went the same way would do the same work side by side. What comes out does not
        # depend on it.
        np.random.default_rng(zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode())).shuffle(begins)
    refreshed = time.monotonic()
    for begin in begins.tolist():
        part = np.arange(begin, min(begin + _CHUNK, found.num_missing))
        if time.monotonic() - refreshed > _REFRESH_EVERY_S:
            store.refresh()
            refreshed = time.monotonic()
        done = store.table.contains(found.keys[:, part])
        wanted = list(found.wanted(files, part[~done].tolist(), faults))
        bar.update(len(part) - len(wanted))
        yield from wanted


def _loaded(encoder: FeatureEncoder, wanted: Wanted) -> Any:
    """An input as its encoder takes it; what a user can mend is returned, not raised."""
    try:
        return encoder.load(wanted.source)
    except UserError as error:
        return error
    except Exception as error:
        error.add_note(f"while {wanted.source} was read, named by {wanted.where}")
        raise


def _encode(encoder: FeatureEncoder, writer: ShardWriter, wanted: Sequence[Wanted], loaded: Sequence[Any]) -> list[str]:
    """Encode loaded inputs together; returns faults."""
    pairs = list(zip(wanted, loaded, strict=True))
    faults = [f"{item.where}: {value}" for item, value in pairs if isinstance(value, UserError)]
    good = [(item, value) for item, value in pairs if not isinstance(value, UserError)]
    if not good:
        return faults
    try:
        features = encoder.encode([value for _, value in good])
    except UserError as error:
        if len(good) == 1:
            return [*faults, f"{good[0][0].where}: {good[0][0].source}: {error}"]
        return faults + [fault for item, value in good for fault in _encode(encoder, writer, [item], [value])]
    except Exception as error:
        error.add_note(f"while {', '.join(str(item.source) for item, _ in good)} was encoded")
        raise
    for (item, _), feature in zip(good, features, strict=True):
        why = _refused(item, feature)
        if why is None:
            writer.add(item.digest, feature)
        else:
            faults.append(f"{item.where}: {item.source}: {why}")
    return faults


def _refused(wanted: Wanted, feature: Feature) -> str | None:
    if not feature.tensor.numel() or not bool(torch.isfinite(feature.tensor).all()):
        return "the encoder gives nothing, or NaN; correct the file or the encoder"
    if isinstance(wanted.source, Location):
        try:
            changed = wanted.source.stamp() != wanted.stamp
        except OSError:
            changed = True
        if changed:
            return "the file was changed while it was encoded; give the command again"
    return None


def _encode_here(
    encoder: FeatureEncoder,
    writer: ShardWriter,
    todo: Iterator[list[Wanted]],
    device: torch.device | None,
    workers: int,
    faults: list[str],
    bar: tqdm,
) -> None:
    """In this process; on a GPU several inputs at once, while threads read the next."""
    if device is not None:
        encoder.to(device)
    size = encoder.batch_size if device is not None else 1
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        try:
            upcoming = _prefetched(encoder, (part for chunk in todo for part in chunks(chunk, size)), pool)
            for wanted, loaded in upcoming:
                faults += _encode(encoder, writer, wanted, loaded)
                bar.update(len(wanted))
        finally:
            writer.flush()
            if device is not None:
                encoder.to(torch.device("cpu"))


def _prefetched(
    encoder: FeatureEncoder, parts: Iterator[list[Wanted]], pool: ThreadPoolExecutor
) -> Iterator[tuple[list[Wanted], list[Any]]]:
    waiting: list[tuple[list[Wanted], list[Any]]] = []
    for part in parts:
        waiting.append((part, [pool.submit(_loaded, encoder, wanted) for wanted in part]))
        if len(waiting) > _AHEAD:
            wanted, futures = waiting.pop(0)
            yield wanted, [future.result() for future in futures]
    for wanted, futures in waiting:
        yield wanted, [future.result() for future in futures]


# -- processes --------------------------------------------------------------------------------------------------------


def _encode_in_workers(
    encoder: FeatureEncoder,
    store: FeatureStore,
    todo: Iterator[list[Wanted]],
    workers: int,
    faults: list[str],
    bar: tqdm,
) -> None:
    # "spawn": a forked child would inherit the threads and locks of whatever this process has loaded.
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, encoder, store), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        _feed(pipes, todo, faults, bar)
    finally:
        for pipe in pipes:
            pipe.close()  # a worker that still listens writes what it has, and ends
        for process in processes:
            process.join()


def _feed(pipes: Sequence[Connection], todo: Iterator[list[Wanted]], faults: list[str], bar: tqdm) -> None:
    """Give each worker its next chunk as it finishes one, until all have told that their last shard is written."""
    open_pipes, told = set(pipes), set()

    def send(pipe: Connection) -> None:
        if pipe in told:
            return
        chunk = next(todo, None)
        if chunk is None:
            told.add(pipe)
        try:
            pipe.send(chunk)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _killed() from error

    for _ in range(_AHEAD):
        for pipe in pipes:
            send(pipe)
    while open_pipes:
        for pipe in cast(list[Connection], wait(list(open_pipes))):
            try:
                answer = pipe.recv()
            except (EOFError, ConnectionResetError) as error:
                raise _killed() from error
            if answer is None:
                open_pipes.discard(pipe)
                continue
            if isinstance(answer, Exception):
                raise answer
            done, found = answer
            faults += found
            bar.update(done)
            send(pipe)


def _killed() -> UserError:
    return UserError(
        "a worker process ended, perhaps killed for want of memory; what was written is kept: give the same command "
        "again, with fewer --workers"
    )


def _work(pipe: Connection, encoder: FeatureEncoder, store: FeatureStore) -> None:
    """A worker: encodes what comes, writes shards, and ends with its parent (whose end of the pipe then closes)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    writer = store.writer()
    try:
        try:
            while (chunk := pipe.recv()) is not None:
                found: list[str] = []
                for wanted in chunk:
                    found += _encode(encoder, writer, [wanted], [_loaded(encoder, wanted)])
                pipe.send((len(chunk), found))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the parent was interrupted
        writer.flush()
        answer: Exception | None = None
    except UserError as error:
        answer = error
    except Exception:
        answer = RuntimeError(f"a worker of the feature cache failed:\n{traceback.format_exc()}")
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(answer)
