"""Networks that somebody exported: an ONNX or TorchScript file, and a YAML file that says what it takes and gives.

For every network whose architecture is not written here. The front end belongs into the exported file, so that what is
measured does not depend on a second description of it; ``unisono.evaluation.networks.sidecar`` has the keys of the
YAML file. ``torch.export`` archives (.pt2) are not taken: reading one unpickles what it holds.

How to export. In the environment of the published code, with ``torchaudio`` and whatever else it asks for::

    class Wrapped(torch.nn.Module):          # waveform (1, samples) at the network's rate to what the metrics need
        def __init__(self, network): super().__init__(); self.network = network
        def forward(self, waveform): return self.network(waveform, 16000)

    wrapped = Wrapped(network).eval()
    example = torch.randn(1, 48000) * 0.1
    torch.onnx.export(wrapped, (example,), "utmos.onnx", input_names=["waveform"], output_names=["score"],
                      dynamic_axes={"waveform": {1: "samples"}}, dynamo=False)
    # or, where an operation has no ONNX form:
    torch.jit.trace(wrapped, example).save("utmos.pt")

A trace keeps the lengths that the code computed in Python: try the file at other lengths than the example's, and if the
numbers differ from the network's own, give `input` a fixed length. Weights of more than 2 GB come to lie in a second
file (``utmos.onnx.data``), which stays beside the first. ``torch.onnx.export`` needs the package onnx; reading the file
needs onnxruntime alone.

What is not written here, and why:

* **Synchformer** (Iashin et al. 2024; 237 M weights): a spectrogram transformer per 0.64 s segment, MotionFormer with
  its trajectory attention over 16 pictures of 224 x 224, two aggregating layers and a transformer over 14 segments of
  each. It is useless without the pictures, and its 1200 names could be checked against nothing here. Export
  ``forward(audio (1, 76800), video (1, 120, 3, 224, 224))`` at 16 kHz and 25 pictures a second: segments of 16 pictures
  every 8, mel spectrogram 128 x 66 as in its ``configs/sync.yaml``, then `logits` of the 21 offsets from -2 to 2 s.
  That judges the first 4.8 s. The published DeSync takes the mean of the offset's magnitude over the first and the last
  14 segments of 8 s; two sets of logits averaged inside the exported file (128000 samples, 200 pictures) come near it
  but are not it, so say in `about` what was done.
* **ImageBind** (Girdhar et al. 2023; 1.2 billion weights, 4.5 GB): ViT-H for pictures, ViT-B for spectrograms. Export
  both towers, ``forward(audio (1, 32000 x clips), video)``, giving the cosine of their embeddings as `score`. The audio
  tower takes Kaldi's filter bank (128 bands, 25 ms every 10 ms, mean removed), 204 frames, (x + 4.268) / 9.138. Without
  the pictures it is no ImageBind score: give the audio tower alone as ``networks.exported``.
* **UTMOS** is written (``unisono.evaluation.networks.utmos``); an exported one is taken as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure, library_version
from unisono.evaluation.networks.checkpoints import file_sha256, fingerprint
from unisono.evaluation.networks.network import AudioNetwork
from unisono.evaluation.networks.sidecar import DIMENSIONS, Sidecar, VideoInput, read_sidecar
from unisono.evaluation.networks.torch_network import check_device, checked_waveform, equal_parts, listening

SIDECARS = (".yaml", ".yml")
Runner = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class RunError(Exception):
    """The exported network itself failed, for the reason given."""


class Exported(AudioNetwork):
    """An exported network by its YAML file.

    Args:
        source: path of the YAML file.
        device: torch device; ONNX files run on the CPU unless it is cuda and onnxruntime was built for it.
        name: of the table.
        must_give: outputs that the network's metrics need.
        must_watch: the network's metrics need it to take a video.

    Raises:
        UserError: files missing or wrong, or the network does not give what the YAML file says.
    """

    def __init__(
        self,
        source: str,
        device: str = "cpu",
        name: str = "exported",
        must_give: Sequence[str] = (),
        must_watch: bool = False,
    ) -> None:
        self.name = name
        self.sidecar = sidecar = read_sidecar(source)
        if missing := [output for output in must_give if output not in sidecar.outputs]:
            raise UserError(f"{sidecar.path}: outputs must name {' and '.join(missing)}, for networks.{name}")
        if must_watch and sidecar.video is None:
            raise UserError(
                f"{sidecar.path}: video is missing, for networks.{name}; export the network with its pictures, and "
                "describe them there"
            )
        self.sample_rate = sidecar.sample_rate
        self.video: VideoInput | None = sidecar.video
        onnx = sidecar.file.suffix == ".onnx"
        self._run: Runner = _onnx_runner(sidecar.file, device) if onnx else _torchscript_runner(sidecar.file, device)
        self.implementation = f"{'onnxruntime' if onnx else 'TorchScript'}: {sidecar.file.name}"
        self.version = library_version("onnxruntime" if onnx else "torch")
        self.parameters = self._parameters(sidecar)
        self.fingerprint = fingerprint(self)
        self._try()

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        if self.video is not None:
            raise MetricFailure(f"{self.name} hears only together with a video")
        return self._averaged([self._run_on([part]) for part in self._parts(self._checked(waveform))])

    def with_video(self, waveform: np.ndarray, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        """The arrays of a recording and the pictures beside it, both from their beginning.

        Args:
            waveform: float32 ``(S,)`` at ``sample_rate``; what is longer than the network's input is cut off.
            frames: uint8 ``(T, H, W, 3)`` as ``video`` says; more pictures are cut off.

        Raises:
            MetricFailure: too short, or too few pictures.
        """
        assert self.video is not None and self.sidecar.fixed_samples is not None
        video, (_, height, width, _) = self.video, frames.shape
        if (height, width) != (video.size, video.size):
            raise AssertionError(f"pictures of {height} x {width}, {self.name} takes {video.size} x {video.size}")
        if len(frames) < video.num_frames:
            raise MetricFailure(f"the video has {len(frames)} pictures, {self.name} needs {video.num_frames}")
        pictures = (frames[: video.num_frames] / 255.0 - video.mean) / video.std
        part = self._parts(self._checked(waveform)[: self.sidecar.fixed_samples])[0]
        return self._averaged([self._run_on([part, pictures.transpose(0, 3, 1, 2)[None].astype(np.float32)])])

    def _checked(self, waveform: np.ndarray) -> np.ndarray:
        sidecar, shortest = self.sidecar, round(self.sidecar.shortest_s * self.sample_rate)
        if sidecar.fixed_samples is not None and sidecar.short_clips == "refuse":
            shortest = sidecar.fixed_samples
        return checked_waveform(waveform, shortest, self.sample_rate, self.name)

    def _parts(self, waveform: np.ndarray) -> list[np.ndarray]:
        """What the network is given, one input after the other."""
        fixed, longest_s = self.sidecar.fixed_samples, self.sidecar.longest_s
        if fixed is None:
            longest = len(waveform) if longest_s is None else int(longest_s * self.sample_rate)
            return equal_parts(waveform, longest)
        if len(waveform) < fixed:
            repeats = -(-fixed // len(waveform)) if self.sidecar.short_clips == "repeat" else 1
            whole = np.tile(waveform, repeats)[:fixed]
            return [np.pad(whole, (0, fixed - len(whole)))]
        count = -(-len(waveform) // fixed)
        starts = np.linspace(0, len(waveform) - fixed, count).round().astype(int)
        return [waveform[start : start + fixed] for start in starts]

    def _run_on(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        waveform, *others = inputs
        if self.sidecar.level == "standardised":
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        shape = [size if size == 1 else len(waveform) for size in self.sidecar.shape]
        try:
            given = self._run([np.ascontiguousarray(waveform.reshape(shape), dtype=np.float32), *others])
        except RunError as error:
            raise MetricFailure(f"{self.name} failed on the recording: {error}") from error
        return {name: array for name, array in zip(self.sidecar.outputs, given, strict=False) if name is not None}

    def _averaged(self, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        arrays = {}
        for name in parts[0]:
            shaped = [_shaped(name, part[name]) for part in parts]
            joined = np.concatenate(shaped) if name == "frames" else np.mean(shaped, axis=0, dtype=np.float64)
            arrays[name] = np.asarray(joined, dtype=np.float32)
        return arrays

    def _try(self) -> None:
        """One run on noise, so that a wrong YAML file is found before any clip is heard."""
        sidecar, rng = self.sidecar, np.random.default_rng(0)
        tried_s = min(max(3.0, sidecar.shortest_s), sidecar.longest_s or 3600.0)
        samples = sidecar.fixed_samples or round(tried_s * sidecar.sample_rate)
        waveform = (0.1 * rng.standard_normal(samples)).astype(np.float32)
        shape = [size if size == 1 else samples for size in sidecar.shape]
        inputs = [waveform.reshape(shape)]
        if self.video is not None:
            side = self.video.size
            inputs.append(rng.standard_normal((1, self.video.num_frames, 3, side, side)).astype(np.float32))
        try:
            given = self._run(inputs)
        except RunError as error:
            raise UserError(f"{sidecar.path}: {sidecar.file.name} does not run on such an input ({error})") from error
        if len(given) != len(sidecar.outputs):
            named = f"outputs names {len(sidecar.outputs)} arrays"
            raise UserError(f"{sidecar.path}: {named}, but {sidecar.file.name} gives {len(given)}")
        for name, array in zip(sidecar.outputs, given, strict=True):
            if name is None:
                continue
            try:
                _shaped(name, array)
            except MetricFailure as error:
                raise UserError(f"{sidecar.path}: outputs: {error}") from error

    def _parameters(self, sidecar: Sidecar) -> dict[str, Any]:
        beside = (path for path in sidecar.file.parent.iterdir() if path.is_file() and path.suffix not in SIDECARS)
        stored = sorted(path for path in beside if path.name.startswith(sidecar.file.name))  # big weights lie apart
        said = {
            "network": self.name,
            "sample_rate": sidecar.sample_rate,
            "checkpoint_sha256": {path.name: file_sha256(path) for path in stored},
            "input": list(sidecar.shape),
            "outputs": list(sidecar.outputs),
            "level": sidecar.level,
            "short_clips": f"below {sidecar.shortest_s:g} s: failure; below the input's length: {sidecar.short_clips}",
            "long_clips": self._long_clips(sidecar),
            "about": {str(key): str(value) for key, value in sidecar.about.items()},
        }
        if (video := sidecar.video) is not None:
            said["video"] = asdict(video)
        return said

    @staticmethod
    def _long_clips(sidecar: Sidecar) -> str:
        if sidecar.video is not None:
            return "cut off"
        if sidecar.fixed_samples is not None:
            return f"evenly spaced windows of {sidecar.fixed_samples} samples, averaged"
        if sidecar.longest_s is not None:
            return f"equal parts of at most {sidecar.longest_s:g} s, averaged"
        return "heard at once"


def _shaped(name: str, array: np.ndarray) -> np.ndarray:
    """Without leading axes of length 1."""
    wanted = DIMENSIONS[name]
    shaped = array
    while shaped.ndim > wanted and shaped.shape[0] == 1:
        shaped = shaped[0]
    if shaped.ndim != wanted or shaped.dtype.kind != "f":
        raise MetricFailure(f"{name} has shape {array.shape} of {array.dtype}, not {wanted} axes of numbers")
    return shaped


def _onnx_runner(path: Path, device: str) -> Runner:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs onnxruntime, which is not installed; run: pip install onnxruntime") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [p for p in (*wanted, "CPUExecutionProvider") if p in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise UserError(f"{path}: onnxruntime cannot read it ({_reason(error)}); export it anew") from error
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(inputs) != len(names):
            raise RunError(f"it takes {len(names)} arrays ({', '.join(names)}), not {len(inputs)}")
        try:
            return [np.asarray(array) for array in session.run(None, dict(zip(names, inputs, strict=True)))]
        except Exception as error:
            raise RunError(_reason(error)) from error

    return run


def _torchscript_runner(path: Path, device: str) -> Runner:
    import torch

    check_device(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path}: is no TorchScript file ({_reason(error)}); export it anew") from error

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with listening(device):
            try:
                given = module(*(torch.from_numpy(array).to(device) for array in inputs))
            except (RuntimeError, TypeError, ValueError) as error:
                raise RunError(_reason(error)) from error
        tensors = given if isinstance(given, tuple | list) else (given,)
        return [tensor.float().cpu().numpy() for tensor in tensors]

    return run


def _reason(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def imagebind(source: str, device: str = "cpu") -> AudioNetwork:
    return Exported(source, device, name="imagebind", must_give=("score",), must_watch=True)


def synchformer(source: str, device: str = "cpu") -> AudioNetwork:
    return Exported(source, device, name="synchformer", must_give=("logits",), must_watch=True)
