"""Running the commands that a page of the documentation shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def environment(workplace: Path) -> dict[str, str]:
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(workplace / "hf"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def run(command: str, workplace: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=workplace, env=environment(workplace), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr
