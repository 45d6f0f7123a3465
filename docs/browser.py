"""What a headless Chromium shows of an address, for the scripts that make the pictures."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--hide-scrollbars"]


def photograph(url: str, width: int, height: int) -> Image.Image:
    """The page in a window of so many pixels; ends the script where there is no Chromium."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit("no Chromium here")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        where = [f"--window-size={width},{height}", f"--user-data-dir={folder}", f"--screenshot={shot}"]
        subprocess.run([browser, *FLAGS, *where, url], check=True, stderr=subprocess.DEVNULL)
        return Image.open(shot).convert("RGB")
