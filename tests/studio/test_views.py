"""What is shown is escaped, whoever wrote it."""

from efface.studio import views
from efface.studio.jobs import Job, Queue

EVIL = "<img src=x onerror=alert(1)>"


def test_names_lines_errors_and_figures_are_text():
    job = Job(EVIL, lambda _: None, "")
    job.state, job.what, job.error = "running", EVIL, EVIL
    job.lines, job.curves = [EVIL], {EVIL: [1.0, 0.5]}
    shown = [
        views.progress(job, Queue()),
        views.message(EVIL, '" onclick="x'),
        views.table([EVIL], [[EVIL]]),
        views.facts({EVIL: EVIL}),
        views.curve(EVIL, '"/><script>', EVIL),
    ]
    for page in shown:
        assert "<img" not in page
        assert "<script" not in page
        assert 'onclick="x' not in page
    assert all("&lt;img src=x" in page for page in shown)


def test_control_characters_are_shown_as_what_they_are():
    assert "\x1b" not in views.message("a\x1b[31mb")


def test_a_share_that_nobody_measured_is_a_dash():
    assert [views.percent(share) for share in (None, float("nan"), 0.25)] == [
        "\N{EN DASH}",
        "\N{EN DASH}",
        "25 %",
    ]


def test_small_pictures_are_enlarged_pixel_by_pixel():
    from PIL import Image

    small = Image.new("RGB", (2, 1))
    small.putpixel((1, 0), (255, 0, 0))
    large = views.enlarged(small)
    assert large.size == (384, 192)
    assert large.getpixel((191, 0)) == (0, 0, 0)
    assert large.getpixel((192, 191)) == (255, 0, 0)
