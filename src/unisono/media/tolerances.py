"""How far apart two lengths may be that ought to agree, in seconds. Who compares lengths takes the number from here.

| name | what is compared |
| --- | --- |
| ``LENGTH_S`` | a recording with what stands for it: ``duration_s``, units, contour, degraded input, cached latent |
| ``HEADER_S`` | a recording with what its header says |
| ``MP3_HEADER_S`` | the same for mp3, whose header may only estimate: whole files lack up to 0.52 s of it |
| ``VIDEO_S`` | pictures with their sound: the last one may be shown longer or shorter than the sound lasts |
| ``VIDEO_TAIL_S`` | pictures with what a video promises: sound may outlast them, durations are rounded |
| ``CUT_S`` | a clip with the length it should have been cut to; what lasts longer is the whole recording |
"""

from __future__ import annotations

LENGTH_S = 0.05
HEADER_S = 0.05
MP3_HEADER_S = 0.6
VIDEO_S = 0.5
VIDEO_TAIL_S = 0.25
CUT_S = 2.0
