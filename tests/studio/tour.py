"""Drives the studio in Debian's Chromium as somebody at the screen would, for tests and docs.

python -m tests.studio.tour docs/images [RUNS]
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

CHROMIUM = next((each for each in ("chromium", "chromium-browser") if shutil.which(each)), None)
EVIL = "<img src=x onerror=document.title='run'>"
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
PATIENCE = 400_000
LARGEST = 80_000
"""Bytes of a picture of the docs, where its quality can be lowered to that."""


def missing():
    """Says what the tour lacks; None if nothing."""
    for module in ("gradio", "playwright"):
        if find_spec(module) is None:
            return f"{module} is not installed"
    return None if CHROMIUM else "there is no chromium"


@contextmanager
def studio(root, *flags):
    """Serves a folder of runs; gives the address and the seconds until it answered."""
    port = free_port()
    words = ["studio", "--runs", str(root), "--port", str(port), *flags]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "efface", *words], env=own) as process:
        try:
            address = f"http://127.0.0.1:{port}/"
            while not answers(address):
                assert process.poll() is None, "the studio ended"
                assert time.perf_counter() - began < 240, "the studio does not answer"
                time.sleep(0.2)
            yield address, time.perf_counter() - began
        finally:
            process.terminate()
            process.wait(30)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


class Screen:
    """A page in a browser, with what it complained of and what it asked of other machines."""

    def __init__(self, page, address):
        self.page, self.complaints, self.foreign = page, [], []
        own = (address, "data:", "blob:", "about:")
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(own) else self.foreign.append(r.url))

    def open(self, address, *, dark=False):
        self.page.goto(address + ("?__theme=dark" if dark else "?__theme=light"))
        self.page.wait_for_selector("[role=tablist]")

    def tab(self, name):
        found = self.page.locator("button[role=tab]", has_text=name)
        if not any(each.is_visible() for each in found.all()):
            self.page.locator(".overflow-menu > button").first.click()
            self.page.locator(".overflow-dropdown button", has_text=name).first.click()
        else:
            next(each for each in found.all() if each.is_visible()).click()
        self.page.wait_for_timeout(400)

    def choose(self, place, *words):
        for word in words:
            self.page.fill(f"{place} input", word)
            self.page.keyboard.press("Enter")
        self.page.keyboard.press("Escape")
        self.page.click("h1")

    def press(self, place):
        """Clicks what stands below a frame: Chromium learns late that a frame was scrolled away."""
        found = self.page.locator(place).first
        found.scroll_into_view_if_needed()
        self.page.wait_for_timeout(500)
        found.click()

    def unfold(self, name):
        self.press(f"button:has-text('{name}')")
        self.page.wait_for_timeout(800)

    def wait(self, place, text=None):
        """Waits for something to be seen; if it never is, says what the page says instead."""
        self._wait(
            "([place, text]) => [...document.querySelectorAll(place)]"
            ".some(e => e.offsetParent && (!text || e.innerText.includes(text)))",
            [place, text],
        )

    def wait_chosen(self, place):
        """Waits for a choice that the page makes itself once it has read the runs."""
        self._wait("place => document.querySelector(`${place} input`)?.value", place)

    def _wait(self, function, argument):
        from playwright.sync_api import TimeoutError as Late

        try:
            self.page.wait_for_function(function, arg=argument, polling=300)
        except Late:
            said = [each for each in self.page.locator(".told:visible").all_inner_texts() if each]
            raise AssertionError(f"{argument} did not come; the page says {said}") from None

    def wide(self):
        """Says by how many pixels the page is wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@contextmanager
def screen(address, size="wide"):
    from playwright.sync_api import sync_playwright

    width, height = SIZES[size]
    with sync_playwright() as library:
        browser = library.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        yield Screen(page, address)
        browser.close()


def erase(shown, *, concept="pistol", method="uce", size="smoke"):
    """Erases; gives the seconds until the first picture."""
    shown.tab("Erase")
    shown.choose("#concepts", concept)
    shown.choose("#method", method)
    began = time.perf_counter()
    shown.page.click("#erase")
    shown.wait("#erase-slider img")
    first = time.perf_counter() - began
    if size:
        shown.wait("#erase-status", ": done")
        shown.wait("#erase-numbers table")
    return first


def strength(shown):
    shown.tab("Strength")
    shown.wait_chosen("#strength-run")
    shown.page.fill("#strength input[type=number]", "0.5")
    shown.page.click("#strength-draw")
    shown.wait("#strength-slider img")
    shown.wait("[role=status]", "Strength 0.5: done")


def look(shown):
    shown.tab("Look")
    shown.page.fill("#look-prompt textarea", "a picture of a cat")
    shown.page.locator("#look-runs input").first.check()
    shown.page.click("#look")
    shown.wait("#look-edited img")
    shown.page.locator("label:has-text('Attention of words') input,textarea").last.fill("cat")
    shown.page.click("#maps")
    shown.wait("#look-maps img")


def collateral(shown):
    shown.tab("Collateral")
    shown.page.click("#collateral-renew")
    shown.wait("#collateral-map [role=gridcell]", "(")
    shown.page.locator("#collateral-map [role=gridcell]", has_text="(").first.click()
    shown.wait("#collateral-pictures img")


def attack(shown):
    shown.tab("Attack")
    shown.wait_chosen("#attack-run")
    shown.page.click("#attack")
    shown.wait("#attack-status", ": done")
    shown.wait("#attack-curve", "brought back")


def runs(shown, first, second):
    shown.tab("Runs")
    shown.wait("#runs [role=gridcell]", first)
    shown.choose("#run", first)
    shown.page.click("#card")
    shown.wait("#shown pre", "pistol")
    shown.page.click("#report")
    shown.wait("#shown iframe")
    shown.unfold("Compare with another run")
    shown.choose("#other", second)
    shown.press("#compare")
    shown.wait("#difference td", "kept")
    shown.unfold("Export for")
    shown.press("button:has-text('prompt embeddings')")
    shown.wait("#export-status", ": done")


def recognisers(shown, method="selective_dampening"):
    shown.tab("Recognisers")
    shown.choose("#classes", "cat")
    shown.choose("#forget-method", method)
    shown.page.click("#forget")
    shown.wait("#forget-numbers table")


def picture(shown, path):
    """Keeps what the screen shows, small."""
    import io

    from PIL import Image

    shown.page.evaluate(
        "document.querySelectorAll('#collateral-map *').forEach(each => { each.scrollLeft = 0; })"
    )
    shown.page.evaluate("window.scrollTo(0, 0)")
    shown.page.mouse.move(5, 5)
    shown.page.wait_for_timeout(2000)  # pictures fade in
    with Image.open(io.BytesIO(shown.page.screenshot())) as found:
        for quality in (80, 70, 60, 50):
            found.convert("RGB").save(path, quality=quality, optimize=True)
            if path.stat().st_size <= LARGEST:
                break


def main(out, root=None):
    """Walks through all tabs and writes the pictures of the docs.

    Runs that a folder holds already are not made again, so that a walk that was ended goes on.
    """
    out = Path(out)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(root or Path(folder) / "runs")
        with studio(root) as (address, _), screen(address) as shown:
            for concept in ("pistol", "knife"):
                if not (root / f"{concept}-rece" / "report.html").exists():
                    shown.open(address)
                    erase(shown, concept=concept, method="rece")
                    picture(shown, out / "studio_erase.jpg")
            shown.open(address)
            strength(shown)
            picture(shown, out / "studio_strength.jpg")
            look(shown)
            picture(shown, out / "studio_look.jpg")
            collateral(shown)
            picture(shown, out / "studio_collateral.jpg")
            attack(shown)
            picture(shown, out / "studio_attack.jpg")
            runs(shown, "pistol-rece", "knife-rece")
            picture(shown, out / "studio_runs.jpg")
            shown.page.set_viewport_size(
                dict(zip(("width", "height"), SIZES["narrow"], strict=True))
            )
            shown.open(address, dark=True)
            strength(shown)
            picture(shown, out / "studio_narrow.jpg")


if __name__ == "__main__":
    main(*sys.argv[1:])
