"""The explorer in headless Chromium, from file:// and behind its server, as a person uses it."""

import json
import re

import numpy as np
import pytest

from autointerp.features import Features
from core.run import Run
from figures.explorer.shards import Shards
from tests.browser.conftest import HOSTILE

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
        and "coverage 0" in page.locator("#legend").inner_text()  # the kind of score that is shown
    )
    page.select_option("#colour", "density")
    assert "c=density" in page.url and "of tokens" in page.locator("#legend").inner_text()


@BOTH
def test_text_is_readable_in_both_themes_and_at_390_pixels(page, site):
    for state in (
        "",
        "f=3",
        "f=12&own=3-12",
        "v=list&s=-score&min=0.3&own=3-12",
        "v=clamp&x=1",
        "v=text",
        "v=compare&f=12&vs=3",
        "v=compare&f=12&vs=1.12",
        "v=runs",
        "min=0.3&z=0.1,0.1_0.9,0.1_0.9,0.9",
    ):
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
    clamped = page.locator(".pair .clamped").first.inner_text()
    assert "<img src=x onerror=window.hacked=1>" in clamped.replace("\n", "")
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


# ---------------------------------------------------------------- tokens, lists, filters


def test_where_the_label_fails_stands_below_the_top_snippets(page, site, hostile_run):
    shard = Shards(Features(Run.open(str(hostile_run))))
    cards = shard.features.cards.walk({"failing": 2}, 0, 40)
    failing = next(c.feature for c in cards if c.snippets and c.labels)
    open_site(page, site, f"f={failing}")
    page.wait_for_selector(".fails .snippets li")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Top and failures"
    top = page.locator("#snippets > .snippets li").first.bounding_box()
    assert page.locator(".fails .snippets li").first.bounding_box()["y"] > top["y"]


def test_a_token_says_its_value_and_what_else_fires(page, site):
    open_site(page, site, "f=12")
    page.locator("#snippets summary .t.peak").first.hover()
    page.wait_for_selector(".token-tip:not([hidden])")
    assert "100 % of the maximum" in page.locator(".token-tip").inner_text()
    page.locator("#snippets summary").first.click()
    page.locator(".opened .token.peak").first.click()
    page.wait_for_selector(".here-list li")
    shares = [
        float(t.split()[0]) for t in page.locator(".here-list li > .number").all_inner_texts()
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0
    page.locator(".here-list .feature-link").first.click()
    page.wait_for_function("() => document.querySelector('.number-badge')?.textContent !== '12'")


def test_a_lasso_is_a_filter_of_the_map_and_the_list(page, site):
    open_site(page, site)
    box = page.locator("#map").bounding_box()
    page.click("#lasso")
    corners = [(0.1, 0.1), (0.6, 0.1), (0.6, 0.8), (0.1, 0.8)]
    page.mouse.move(
        box["x"] + corners[0][0] * box["width"], box["y"] + corners[0][1] * box["height"]
    )
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)
    page.mouse.up()
    page.wait_for_function("() => location.hash.includes('z=')")
    inside = page.evaluate("map.matches.size")
    assert 0 < inside < page.evaluate("run.start.features")
    page.click("#map-filters a")
    page.wait_for_selector("table.features")
    assert page.locator(".count").inner_text().startswith(f"{inside} of")
    listed = page.evaluate("listRows()")
    assert all(page.evaluate("(f) => isInside(map.x[f], map.y[f], readLasso())", f) for f in listed)
    page.locator(".filter-chip:visible").first.click()
    page.wait_for_function("() => map.matches === null")


def test_filters_of_the_list_fade_the_map(page, site):
    open_site(page, site, "v=list")
    page.select_option("label:has-text('At least') select", "0.3")
    page.keyboard.press("Escape")
    expected = page.evaluate(
        "[...run.start.firings.keys()].filter((f) => scoreOf(f, scoreColumn()) >= 0.3).length"
    )
    assert page.evaluate("map.matches.size") == expected
    page.evaluate("state.set({v: ''})")
    assert "score at least 0.3" in page.locator("#map-filters").inner_text()


def test_the_column_says_which_score_it_shows_and_falls_back(page, site):
    """With a second, tiny label set the column stays that of the large one, and a feature that only
    the other set scored shows that score, marked."""
    open_site(page, site)
    page.evaluate(
        """() => {
          const first = scoreColumn();
          const value = first.value.map((v, f) => (f === 5 ? 990 : null));
          first.value[5] = null;
          run.start.scores = [{set: 'hand', kind: first.kind, value}, ...run.start.scores];
          run.start.sets = [{name: 'hand', kinds: [''], kind: value.map((v) => (v === null ? -1 : 0))}, ...run.start.sets];
          run.text.labels.hand = value.map((v) => (v === null ? '' : 'mine'));
          state.set({v: 'list', s: 'feature'});
        }"""
    )
    kind = page.evaluate("scoreColumn().kind")
    head = page.locator("table.features th").nth(2).inner_text()
    assert head == f"Score ({kind}, rules)"
    assert (
        page.locator("#view-list label:has-text('Score') select").first.input_value()
        == f"rules/{kind}"
    )
    row = page.locator(
        "table.features tr", has=page.locator("td:first-child", has_text=re.compile("^5$"))
    )
    assert row.locator("td").nth(2).inner_text() == "0.99*"
    assert "scored with hand" in page.locator("#view-list").inner_text()
    page.evaluate("state.set({v: '', k: ''})")
    page.evaluate("drawHome(panes.feature)")
    assert "median of 1 " not in page.locator(".home").inner_text()


def test_the_home_page_shows_no_median_of_few_and_no_cluster_without_a_name(page, site):
    open_site(page, site)
    text = page.locator(".home").inner_text()
    assert "unnamed" not in text and "without a name" not in text
    page.evaluate(
        """() => {
          for (const [unit, u] of Object.entries(run.start.units)) if (unit.startsWith('score/')) Object.assign(u.summary, {n: 29, median: 7.77});
          drawHome(panes.feature);
        }"""
    )
    assert "7.77" not in page.locator(".home").inner_text()


def test_the_map_says_how_far_it_can_be_trusted_and_shows_what_is_proved(page, site):
    """Families colour and name it where clusters do not come back; a caption says so."""
    open_site(page, site)
    page.evaluate(
        """() => {
          run.start.units.cluster = { key: '', settings: {}, summary: { verdict: 'Some are near (0.1), but few come back', verdict_kind: 'unstable', kept: 0.1, families: 9, families_null: 0, families_come_back: 0.9 } };
          run.start.families = { family: [...run.start.firings.keys()].map((f) => (f < 60 ? Math.floor(f / 6) : -1)), titles: [...Array(10).keys()].map((n) => `family ${n}`), solid: Array(10).fill(true), kinds: Array(10).fill('') };
          map.families = anchorsOf({ ...run.start.families, group: run.start.families.family });
          drawMapFoot(); drawLegend(); map.draw();
        }"""
    )
    caption = page.locator("#caption").inner_text()
    assert (
        "9 families of near directions, none in a matched random cloud; 90 % come back" in caption
    )
    assert "Of the clusters only 10 % come back." in caption and "say little" in caption
    assert page.evaluate("[colouring(), titleAnchors().map((a) => a.title).sort()[0]]") == [
        "family",
        "family 0",
    ]
    assert page.evaluate("[mapColours()(0) !== null, mapColours()(100)]") == [True, None]
    page.evaluate("state.set({v: 'list', s: 'feature'})")
    assert page.locator("table.features th").last.inner_text() == "Family"
    assert page.locator("table.features td.group").first.inner_text() == "family 0"
    page.evaluate("run.start.units.cluster.summary.verdict_kind = 'structure'; drawMapFoot()")
    assert page.evaluate("colouring()") == "group"
    assert "Distances between far clusters mean nothing." in page.locator("#caption").inner_text()


def test_what_leads_is_rare_named_and_well_described(page, site):
    open_site(page, site)
    page.evaluate(
        """() => {
          const column = scoreColumn();
          run.start.status.fill('alive');
          run.start.layers = [];
          run.text.labels.rules.fill('unclear: "x"');
          for (const [f, text, score, firings] of [[1, 'anything', 990, 0.5], [2, 'months: "May"', 800, 0.001], [3, 'months: "June"', 700, 0.001], [4, 'numbers: "1"', 900, 0.2], [5, 'anything after "of"', 950, 0.001]]) {
            run.text.labels.rules[f] = text;
            column.value[f] = score;
            run.start.firings[f] = firings * run.start.tokens;
          }
          drawHome(panes.feature);
          state.set({v: 'list'});
        }"""
    )
    starts = page.locator(".home section", has_text="Start with these").locator("li .feature-link")
    assert starts.all_inner_texts()[:2] == ["2", "4"]  # one of each name
    assert page.evaluate("listRows().slice(0, 3)") == [2, 3, 4]
    assert page.evaluate("[1, 5].map((f) => listRows().indexOf(f)).sort().join()") == "3,4"


def test_the_lead_is_a_score_beside_its_null_its_control_and_the_gain(page, site):
    open_site(page, site)
    page.evaluate(
        """() => {
          run.start.units['score/rules/coverage'] = {key: '', settings: {}, summary: {median: 0.7, low: 0.6, high: 0.8, null_median: 0.1, n: 100}};
          run.start.controls = [{name: 'c', what: 'untrained subject', medians: {'score/rules/coverage': 0.55}}];
          drawHome(panes.feature);
        }"""
    )
    text = page.locator(".headline").inner_text()
    for part in (
        "70 %",
        "10 % for another feature's label",
        "55 % for the untrained subject",
        "gain +15 %",
    ):
        assert part in text
    page.evaluate(
        "() => { run.start.controls[0].gains = { rules: -0.094 }; drawHome(panes.feature); }"
    )
    assert "gain −9.4 % at like density" in page.locator(".headline").inner_text()


def test_features_have_their_own_labels_when_the_map_is_near(page, site):
    open_site(page, site)
    count = """(zoom) => {
      let n = 0;
      const real = CanvasRenderingContext2D.prototype.fillText;
      CanvasRenderingContext2D.prototype.fillText = function (...a) { if (this.font.startsWith('11px') || this.font.startsWith('400')) n++; return real.apply(this, a); };
      const clear = [...map.x.keys()].find((f) => labelOf(f) && !isUnclear(labelOf(f)));
      map.zoom = zoom;
      map.centre = zoom > 1 ? [map.x[clear], map.y[clear]] : map.centre;
      map.draw();
      CanvasRenderingContext2D.prototype.fillText = real;
      return n;
    }"""
    assert page.evaluate(count, 1) == 0
    assert page.evaluate(count, 4) > 0


def test_a_list_of_ones_own_is_in_the_link_and_in_the_browser(page, site):
    open_site(page, site, "f=12")
    page.wait_for_selector(".star")
    page.keyboard.press("s")
    assert "own=12" in page.url
    page.evaluate("state.set({f: 3})")
    page.wait_for_function("() => document.querySelector('.number-badge')?.textContent === '3'")
    page.click(".star")
    assert "own=12-3" in page.url
    page.goto("about:blank")
    open_site(page, site)  # without a list in the link: the browser kept it
    assert page.evaluate("own.list()") == [12, 3]
    page.goto("about:blank")
    open_site(page, site, "v=list&mine=1&own=17")  # a link carries its own
    assert page.locator("table.features tbody tr").count() == 1
    page.evaluate("localStorage.clear()")


def test_a_link_and_a_reference_can_be_copied(page, site):
    open_site(page, site, "f=12")
    page.wait_for_selector(".verdict")
    taken = page.evaluate(
        "() => { window.taken = []; navigator.clipboard.writeText = async (t) => { window.taken.push(t); }; }"
    )
    assert taken is None
    page.click("text=Copy link")
    page.click("text=Cite")
    link, reference = page.evaluate("window.taken")
    assert link == page.url
    key = page.evaluate("run.start.units.train.key")
    for part in ("Feature 12 of", "resid_post.1", key, page.url):
        assert part in reference
    page.evaluate(
        "() => { navigator.clipboard.writeText = async () => { throw new Error('no'); }; document.execCommand = () => false; }"
    )
    page.wait_for_timeout(1600)
    page.click("text=Cite")
    assert page.locator(".copy-field").input_value().startswith("Feature 12 of")


# ---------------------------------------------------------------- two features, two runs


def test_two_features_stand_side_by_side(page, site):
    open_site(page, site, "f=12")
    page.wait_for_selector(".verdict")
    page.click(".feature-tools >> text=Compare")
    page.wait_for_selector(".compare-row")
    other = page.locator("[aria-label='Second feature']").input_value()
    assert page.locator(".compare-row").first.locator(".feature-link").all_inner_texts() == [
        "12",
        other,
    ]
    assert "Cosine of their directions" in page.locator(".relation").inner_text()
    page.fill("[aria-label='Second feature']", "17")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('.compare-row .feature-link')[1]?.textContent === '17'"
    )
    assert "vs=17" in page.url


def test_two_runs_are_matched_and_compared(page, site):
    """The second run is the first before hostile text was planted, so every feature matches itself."""
    open_site(page, site, "v=runs")
    page.wait_for_selector(".matches table")
    assert "100 % of" in page.locator(".matches").inner_text()
    assert "Every feature is found again." in page.locator(".matches").inner_text()
    page.wait_for_function(  # labels come after the first paint
        "() => document.querySelector('.matches tbody td:nth-child(2)').textContent !== 'no label'"
    )
    row = page.locator(".matches tbody tr").first.locator("td")
    assert row.nth(0).inner_text() == row.nth(3).inner_text() and row.nth(2).inner_text() == "1.00"
    row.nth(3).locator("a").click()
    page.wait_for_selector(".compare-row")
    page.wait_for_function(
        "() => document.querySelector('.relation').textContent.includes('its nearest direction there, cosine 1.00')"
    )
    page.evaluate("location.hash = linkToRun(1, 3)")
    page.wait_for_selector("body[data-ready] .verdict")
    assert page.evaluate("run.number") == 1 and shown_feature(page) == "3"
    assert "<script>" not in page.locator(".verdict h2").inner_text()


# ---------------------------------------------------------------- the slider


def test_the_slider_shows_the_text_of_each_dose_offline(page, site):
    open_site(page, site, "v=clamp&x=1")
    slider = page.locator(".slider input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "() => document.querySelector('.slider .clamped').textContent.includes('at 1')"
    )
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => document.querySelector('.slider .clamped').textContent.includes('at 2')"
    )
    assert "2.00× its maximum" in page.locator(".dose-said").inner_text()
    assert page.locator(".slider .random").count() == 1
    assert page.locator(".useful").first.inner_text().startswith("No useful dose")
    assert "At 1.00× its maximum" in page.locator(".changed").inner_text()


def test_next_tokens_without_and_with_a_clamp_are_shown_offline(page, site):
    open_site(page, site, "v=clamp&x=1")
    words = page.locator(".next-tokens .token-button")
    assert words.all_inner_texts()[:2] == [HOSTILE[0], HOSTILE[4]]
    rows = page.locator(".next-table tbody tr")
    assert rows.first.locator("td").all_inner_texts()[2:] == ["37 %", "61 %", "+0.50"]
    assert rows.count() == 2 and "written" in rows.first.inner_text()
    words.nth(1).click()  # it is none of the likeliest, and is shown all the same
    own = page.locator(".next-table tr[aria-current=true]")
    assert rows.count() == 3 and own.locator("code").inner_text() == HOSTILE[4]
    tinted = [
        ("for" in c, "against" in c)
        for c in words.evaluate_all("all => all.map((e) => e.className)")
    ]
    assert tinted == [(True, False), (True, False), (False, True)]


def test_an_experiment_stands_beside_its_feature_where_there_is_room(page, site):
    open_site(page, site, "v=clamp")
    page.locator(".kept a").first.click()
    page.wait_for_selector(".verdict")
    assert shown_feature(page) == "3" and page.locator(".experiment .pair").count()
    page.set_viewport_size({"width": 390, "height": 844})
    open_site(page, site, "v=list")
    open_site(page, site, "v=clamp")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator(".kept a").first.click()
    page.wait_for_selector(".experiment .pair")
    assert "f=3" not in page.url and not page.locator("#feature").is_visible()


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
    assert f"set {feature}=" in page.locator("#view-clamp .result").inner_text()
    page.click("text=Keep it in the run")
    page.wait_for_selector("text=Kept as experiment 2.")
    words = page.locator(".result .next-tokens .token-button").all_inner_texts()
    clamped = page.locator(".result .pair .clamped .whole").first.inner_text()
    assert len(words) == 8 and words[0] in clamped
    kept = json.loads((hostile_run / "clamps" / "0002.json").read_text(encoding="utf-8"))
    assert kept["features"] == [int(feature)] and kept["next_tokens"][0]["written"]
    (hostile_run / "clamps" / "0002.json").unlink()
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


def test_a_token_is_asked_why_the_next_one_follows(page, served):
    page.goto(f"{served}/#v=text")
    page.wait_for_selector("body[data-ready]")
    page.fill("textarea[name=text]", "the cat sat on the mat")
    page.click("form.text-form button.primary")
    page.wait_for_selector(".reading")
    tokens = page.locator(".reading-tokens .token-button")
    texts = tokens.all_inner_texts()
    tokens.nth(2).click()
    assert texts[3].strip() in page.locator(".why-question").inner_text()
    page.click(".why-form button.primary")
    page.wait_for_selector(".why .strip")
    assert page.locator(".why .part").all_inner_texts() == texts[:3]
    answer = page.evaluate(
        "() => post('api/why', {text: 'the cat sat on the mat', at: 2, top: ABLATED})"
    )
    rows = page.locator(".why .firings").first.locator("tbody tr")
    shown = [row.locator("td").all_inner_texts() for row in rows.all()]
    known = [f for f in answer["firings"] if not f["random"]]
    assert 0 < len(known) <= 8
    for cells, firing in zip(shown, known, strict=True):
        assert cells[0] == str(firing["feature"]) and cells[1] == texts[firing["position"]]
        measured = float(cells[3].replace("−", "-"))
        assert abs(measured - firing["change"]) < 0.0051
    page.locator(".likeliest button").first.click()
    page.wait_for_selector("text=Its logit less that of")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        for _ in range(2):
            page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
            page.wait_for_timeout(250)  # colours of buttons change slowly
            assert page.evaluate(AA) == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            page.evaluate(
                "document.documentElement.dataset.theme = themeName() === 'dark' ? 'light' : 'dark'"
            )
    tokens.last.click()  # behind the last token: the likeliest one
    page.click(".why-form button.primary")
    page.wait_for_selector(".why .strip")
    page.fill(".why-form .against", "no such token")
    page.click(".why-form button.primary")
    page.wait_for_selector(".why .error")
    page.wrong.clear()  # the browser itself reports the refused request


def test_a_mistake_is_told_in_words(page, served):
    page.goto(f"{served}/#v=text")
    page.wait_for_selector("body[data-ready]")
    page.fill("textarea[name=text]", " ")
    page.click("form.text-form button.primary")
    page.wait_for_selector(".error")
    assert "missing" in page.locator(".error").inner_text()
    page.wrong.clear()  # the browser itself reports the refused request


def test_the_clamp_form_follows_the_feature(page, served):
    page.goto(f"{served}/#v=clamp")
    page.wait_for_selector("body[data-ready]")
    number = page.locator(".clamp-row input[aria-label=Feature]")
    assert number.input_value() == "" and "no label" not in page.locator(".row-label").inner_text()
    page.fill("textarea[name=prompt]", "the dog")
    for feature in ("12", "17"):
        page.evaluate(f"state.set({{v: '', f: {feature}, w: ''}})")
        page.wait_for_function(
            f"() => document.querySelector('.number-badge')?.textContent === '{feature}'"
        )
        page.click("text=Clamp it yourself")
        assert number.input_value() == feature
        assert page.locator("textarea[name=prompt]").input_value() == "the dog"  # the rest stays
    page.locator(".dose-slide").fill("4")
    assert page.locator(".dose-number").input_value() == "4"


def test_more_context_and_every_token_behind_a_server(page, served):
    page.goto(f"{served}/#f=12")
    page.wait_for_selector("body[data-ready]")
    page.locator("#snippets summary").first.click()
    before = page.locator(".opened .token").count()
    page.click("text=More context")
    page.wait_for_function(f"() => document.querySelectorAll('.opened .token').length > {before}")
    page.locator(".opened .token").nth(2).click()
    page.wait_for_selector(".here h4")
    assert "Also fires on" in page.locator(".here").inner_text()


def test_examples_of_the_corpus_fill_the_text(page, served):
    page.goto(f"{served}/#v=text")
    page.wait_for_selector("body[data-ready]")
    page.locator(".examples .chip").first.click()
    assert page.locator("textarea[name=text]").input_value().strip()
