"""What tests ask of a page in Chromium; `browser` is the command that starts it (see the fixture)."""

import subprocess
from pathlib import Path

import matplotlib.image


def run(command: list[str], page: Path) -> str:
    """What the browser prints of the page."""
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout


def brightness(browser: list[str], page: Path, folder: Path) -> dict[str, float]:
    """Mean brightness, 0 to 1, of the page for somebody who likes it dark, and light."""
    found = {}
    for theme, setting in (("dark", 0), ("light", 1)):
        picture = folder / f"{theme}.png"
        run([*browser, f"--blink-settings=preferredColorScheme={setting}", f"--screenshot={picture}"], page)
        found[theme] = float(matplotlib.image.imread(picture)[..., :3].mean())
    return found
