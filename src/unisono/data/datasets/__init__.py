"""One data set class per task; their base reads manifests, draws crops and joins content and target."""

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.data.datasets.captioned import TextToAudioDataset, TextToMusicDataset
from unisono.data.datasets.concat import ConcatDataset
from unisono.data.datasets.restoration import AudioSuperResolutionDataset, SpeechEnhancementDataset
from unisono.data.datasets.singing import SingingAcousticModelingDataset, SingingVoiceSynthesisDataset
from unisono.data.datasets.speech import TextToSpeechDataset
from unisono.data.datasets.video import VideoToAudioDataset

DATASETS: dict[str, type[AudioGenerationDataset]] = {
    cls.task: cls
    for cls in (
        TextToAudioDataset,
        TextToMusicDataset,
        TextToSpeechDataset,
        SingingVoiceSynthesisDataset,
        SingingAcousticModelingDataset,
        SpeechEnhancementDataset,
        AudioSuperResolutionDataset,
        VideoToAudioDataset,
    )
}
"""The class that reads each task's manifests."""

__all__ = [
    "DATASETS",
    "AudioGenerationDataset",
    "AudioSuperResolutionDataset",
    "ConcatDataset",
    "SingingAcousticModelingDataset",
    "SingingVoiceSynthesisDataset",
    "SpeechEnhancementDataset",
    "TextToAudioDataset",
    "TextToMusicDataset",
    "TextToSpeechDataset",
    "VideoToAudioDataset",
]
