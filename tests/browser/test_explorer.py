"""The explorer in headless Chromium, from file:// and behind its server, as a person uses it."""

import json

import numpy as np
import pytest

from core.run import Run

BOTH = pytest.mark.parametrize(
    "page", [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)], indirect=True
)
AA = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.closest("svg, :disabled, [aria-hidden=true]")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(style.color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) poor.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`);
  }
  return poor;
}"""


def open_site(page, site, state=""):
    page.goto(f"file://{site}/index.html#{state}")
    page.wait_for_selector("body[data-ready]")


def shown_feature(page):
    return page.locator(".number-badge").inner_text()


# ---------------------------------------------------------------- from file://


def test_open_search_and_click_through(page, site):
    open_site(page, site)
    assert page.locator("#feature h2").inner_text() == "run"
    page.fill("#search", "17")
    page.wait_for_selector("#results [role=option]")
    assert (
        page.locator("#results [role=option]").first.locator(".number").first.inner_text() == "17"
    )
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict")
    assert shown_feature(page) == "17" and "f=17" in page.url
    neighbour = page.locator(".relations .feature-link").first
    number = neighbour.inner_text()
    neighbour.click()
    page.wait_for_function(
        "n => document.querySelector('.number-badge')?.textContent === n", arg=number
    )
    page.go_back()
    page.wait_for_function("() => document.querySelector('.number-badge')?.textContent === '17'")
    assert all(url.startswith(("file://", "data:", "blob:")) for url in page.asked)
    assert all(str(site) in url for url in page.asked if url.startswith("file://"))


def test_the_url_is_the_state(page, site):
    open_site(page, site, "v=list&s=-density&min=0.3&f=3&t=quantiles")
    before = [
        page.locator("table.features").inner_text(),
        shown_feature(page),
        page.locator("[role=tab][aria-selected=true]").inner_text(),
    ]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector(".verdict")
    assert [
        page.locator("table.features").inner_text(),
        shown_feature(page),
        page.locator("[role=tab][aria-selected=true]").inner_text(),
    ] == before
    assert before[1:] == ["3", "Quantiles"]
    densities = [
        float(t.split()[0])
        for t in page.locator("table.features td:nth-child(4)").all_inner_texts()
    ]
    assert densities == sorted(densities, reverse=True)


def test_partners_are_those_of_the_index(page, site, hostile_run):
    """What stands under "Fires together with" are the stage's partners by phi, and a click on one
    opens it.
    """
    folder = hostile_run / "cluster"
    feature = int(np.argmax((np.load(folder / "partners.npy") >= 0).sum(1)))
    partners, phi = (
        np.load(folder / f"{name}.npy")[feature].tolist() for name in ("partners", "partners_phi")
    )
    known = [(str(p), f"{v:.2f}") for p, v in zip(partners, phi, strict=True) if p >= 0][:6]
    open_site(page, site, f"f={feature}")
    section = page.locator(
        "#feature section", has=page.get_by_role("heading", name="Fires together with")
    )
    rows = [
        tuple(row.locator("td").all_inner_texts()[:2]) for row in section.locator("tbody tr").all()
    ]
    assert rows == known and len(rows) > 1
    section.locator(".feature-link").nth(1).click()
    page.wait_for_function(
        "n => document.querySelector('.number-badge')?.textContent === n", arg=known[1][0]
    )


def test_the_verdict_needs_no_scrolling(page, site):
    open_site(page, site, "f=12")
    page.wait_for_selector(".histogram")
    for part in (
        ".verdict h2",
        ".score",
        ".histogram",
        ".logits",
        "[role=tablist]",
        ".snippet summary",
    ):
        box = page.locator(f"#feature {part}").first.bounding_box()
        assert box["y"] + box["height"] <= 844, part


def test_keyboard_alone_reaches_everything(page, site):
    open_site(page, site)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("17")
    page.wait_for_selector("#results [role=option]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict")
    assert page.evaluate("document.activeElement.id") == "feature"
    for _ in range(60):  # to the tabs of the snippets
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "tab":
            break
    page.keyboard.press("ArrowRight")
    assert (
        page.locator("[role=tab][aria-selected=true]").inner_text() == "Quantiles"
        and "t=quantiles" in page.url
    )
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # opens the first snippet
    assert page.locator("details.snippet[open]").count() == 1
    page.keyboard.press("]")
    page.wait_for_function("() => document.querySelector('.number-badge')?.textContent !== '17'")
    page.keyboard.press("Escape")
    page.wait_for_selector(".home")
    page.keyboard.press("l")
    assert page.locator("#view-list").is_visible()
    page.keyboard.press("m")
    assert page.evaluate("document.activeElement.id") == "map"
    page.evaluate("state.set({q: ''})")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tip:not([hidden])")
    number = page.locator("#tip strong").inner_text().strip()
    assert page.locator("#announcer").inner_text().startswith(f"Feature {number}.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict")
    assert shown_feature(page) == number


def test_the_map_is_drawn_pans_zooms_and_picks(page, site):
    open_site(page, site)
    ink = "() => { const c = document.getElementById('map'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"
    assert page.evaluate(ink) > 300
    box = page.locator("#map").bounding_box()
    where = page.evaluate(
        "() => { const f = [...map.x.keys()].find((i) => map.x[i] > 0.3 && map.x[i] < 0.7); return [f, ...map.toScreen(map.x[f], map.y[f])]; }"
    )
    page.mouse.move(box["x"] + where[1], box["y"] + where[2])
    page.wait_for_selector("#tip:not([hidden])")
    page.mouse.wheel(0, -400)
    page.mouse.down()
    page.mouse.move(box["x"] + where[1] + 60, box["y"] + where[2] + 20, steps=4)
    page.mouse.up()
    page.wait_for_function("() => location.hash.includes('m=')")
    assert (
        page.evaluate("map.zoom") > 1.5 and page.locator(".home").is_visible()
    )  # a drag opens nothing
    x, y = page.evaluate("f => map.toScreen(map.x[f], map.y[f])", where[0])
    picked = page.evaluate("([x, y]) => pick(x, y)", [x, y])
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_selector(".verdict")
    assert shown_feature(page) == str(picked)


def test_colours_of_the_map_are_a_choice_in_the_url(page, site):
    open_site(page, site, "c=score")
    assert (
        page.locator("#colour").input_value() == "score"
        and "score 0" in page.locator("#legend").inner_text()
    )
    page.select_option("#colour", "density")
    assert "c=density" in page.url and "of tokens" in page.locator("#legend").inner_text()


@BOTH
def test_text_is_readable_in_both_themes_and_at_390_pixels(page, site):
    for state in ("", "f=3", "f=12&t=fails", "v=list&s=-score", "v=clamp&x=1", "v=text"):
        open_site(page, site, state)
        page.reload()  # a new hash alone does not load the page anew
        page.wait_for_selector("body[data-ready]")
        page.wait_for_timeout(150)
        assert page.evaluate(AA) == [], state
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{state} is wider than the screen"
        )


def test_the_theme_can_be_changed_and_is_kept(page, site):
    open_site(page, site)
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_hostile_text_shows_as_text(page, site):
    """Planted in vocabulary, label, note, title and clamp; the fixture fails when one of them ran."""
    open_site(page, site, "f=3")
    page.wait_for_selector(".verdict")
    assert "<script>window.hacked=1</script>" in page.locator(".verdict h2").inner_text()
    assert "</style><b>" in page.locator(".verdict .note").inner_text()
    text = page.locator("#feature").inner_text()
    assert "<img src=x onerror=window.hacked=1>" in text
    page.goto(f"file://{site}/index.html#v=clamp&x=1")
    page.wait_for_selector(".pair")
    assert "<img src=x onerror=window.hacked=1>" in page.locator(
        ".pair .clamped"
    ).inner_text().replace("\n", "")
    page.evaluate("state.set({v: '', x: '', f: ''})")
    page.fill("#search", "hacked")
    page.wait_for_selector("#results [role=option]")
    for view in ("v=list", "f=12"):
        page.goto(f"file://{site}/index.html#{view}")
        page.wait_for_timeout(200)
    shown = page.evaluate(
        "[visible('\\u202e'), visible('\\0'), visible('a\\nb'), visible('\\ud800')]"
    )
    assert shown == ["\\u202e", "\\u0000", "a↵b", "\\ud800"]


def test_names_and_roles_for_a_screen_reader(page, site):
    open_site(page, site, "f=12")
    page.wait_for_selector(".verdict")
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, a[href], input, select, textarea, canvas, svg[role=img]")]
      .filter((e) => e.checkVisibility() && !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


# ---------------------------------------------------------------- behind its server


def test_a_text_a_clamp_and_a_note(page, served, hostile_run):
    page.goto(f"{served}/#v=text")
    page.wait_for_selector("body[data-ready]")
    page.fill("textarea[name=text]", "the cat sat on the mat")
    page.click("form.text-form button.primary")
    page.wait_for_selector(".reading")
    everything = page.locator(".reading").count()
    page.locator(".token-button").nth(1).click()
    assert 0 < page.locator(".reading").count() < everything
    feature = page.locator(".reading .feature-link").first.inner_text()
    page.goto(f"{served}/#v=clamp&w={feature}")
    page.wait_for_selector(".clamp-form")
    page.fill("input[name=tokens]", "8")
    page.click(".clamp-form button.primary")
    page.wait_for_selector(".result .pair")
    assert page.locator(".result .pair").count() == 2
    page.goto(f"{served}/#f={feature}")
    page.wait_for_selector(".note-form")
    page.fill(".note-form input[name=text]", "weekdays <b>")
    page.click(".note-form button.primary")
    page.wait_for_selector("p.note")
    notes = [
        json.loads(line)
        for line in (Run.open(str(hostile_run)).path / "notes.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert {"feature": int(feature), "text": "weekdays <b>"}.items() <= notes[-1].items()
    page.fill("#search", "weekdays")
    page.wait_for_selector("#results [role=option]")
    assert page.locator("#results [role=option] .number").first.inner_text() == feature
    assert all(url.startswith(served) or url.startswith(("data:", "blob:")) for url in page.asked)


def test_a_mistake_is_told_in_words(page, served):
    page.goto(f"{served}/#v=text")
    page.wait_for_selector("body[data-ready]")
    page.fill("textarea[name=text]", "\ufeff")
    page.evaluate("document.querySelector('textarea[name=text]').value = ' '")
    page.click("form.text-form button.primary")
    page.wait_for_selector(".error")
    assert "missing" in page.locator(".error").inner_text()
    page.wrong.clear()  # the browser itself reports the refused request
