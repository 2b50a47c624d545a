"""Degradations of audio, for training on the fly and for corpora.

Pure functions on mono float32 arrays ``(S,)``, and small objects that a configuration composes of them; everything
random comes from the generator that is passed in. The result is as long as the input and aligned with it.
"""

from unisono.data.degrade.bandwidth import BandwidthDegradation
from unisono.data.degrade.codecs import CODECS, codec_bit_rates, through_codec
from unisono.data.degrade.filters import LOW_PASS_FILTERS, low_pass
from unisono.data.degrade.mixing import ACTIVE_RANGE_DB, active_power, mix_at_snr
from unisono.data.degrade.noise import NOISE_KINDS, NOISE_RMS, make_noise
from unisono.data.degrade.recordings import Recordings
from unisono.data.degrade.rooms import MAX_RT60_S, MIN_RT60_S, Room, RoomBank, reverberate
from unisono.data.degrade.settings import Degraded
from unisono.data.degrade.spectrum import effective_bandwidth_hz
from unisono.data.degrade.speech import CLIPPING, DegradationChain, SpeechDegradation, clip

__all__ = [
    "ACTIVE_RANGE_DB",
    "CLIPPING",
    "CODECS",
    "LOW_PASS_FILTERS",
    "MAX_RT60_S",
    "MIN_RT60_S",
    "NOISE_KINDS",
    "NOISE_RMS",
    "BandwidthDegradation",
    "DegradationChain",
    "Degraded",
    "Recordings",
    "Room",
    "RoomBank",
    "SpeechDegradation",
    "active_power",
    "clip",
    "codec_bit_rates",
    "effective_bandwidth_hz",
    "low_pass",
    "make_noise",
    "mix_at_snr",
    "reverberate",
    "through_codec",
]
