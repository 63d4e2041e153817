"""The pages as people use them, in a real browser over a service on a real broker and a real bucket.

The sandbox (tests/it/service.rs) starts everything and names it in the environment. What is seen is kept as screenshots.
"""

import json
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from browser import Watched, launch
from playwright.sync_api import expect, sync_playwright

BASE = os.environ["CAPTIONFLEET_TEST_SERVICE"]
TOKEN = os.environ["CAPTIONFLEET_TEST_TOKEN"]
BUCKET = os.environ["CAPTIONFLEET_TEST_SOURCE"]
PICTURES = pathlib.Path(os.environ["CAPTIONFLEET_TEST_PICTURES"])
SHOTS = pathlib.Path(os.environ["CAPTIONFLEET_TEST_SCREENSHOTS"])
# One of the pictures.
NAME = os.environ["CAPTIONFLEET_TEST_NAME"]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


def api(method: str, path: str, body: object = None, token: str | None = TOKEN):
    """One call of the API: status and document."""
    headers = {"content-type": "application/json"} if body is not None else {}
    if token:
        headers["authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        assert error.headers["content-type"] == "application/problem+json", error.headers
        return error.code, json.loads(error.read())


def submitted(**order: object) -> dict:
    """Submits a run and waits until it has ended."""
    status, standing = api("POST", "/api/v1/submissions", order)
    assert status == 202, standing
    deadline = time.monotonic() + 300
    while True:
        if standing.get("runs"):
            _, run = api("GET", f"/api/v1/runs/{standing['runs'][0]}")
            if run.get("state") == "finished":
                return run
        assert time.monotonic() < deadline, standing
        time.sleep(0.1)
        _, standing = api("GET", f"/api/v1/submissions/{standing['id']}")


def bucket_folder() -> pathlib.Path:
    """Where the pictures of the bucket are: the S3 server of the tests keeps them in a folder."""
    return pathlib.Path(os.environ["CAPTIONFLEET_TEST_BUCKET"]) / BUCKET.split("/", 3)[3]


@pytest.fixture(scope="session")
def caption() -> str:
    """What the archive says about that picture."""
    status, record = api("GET", "/api/v1/items?" + urllib.parse.urlencode({"item": f"{BUCKET}/first/{NAME}"}))
    assert status == 200 and record["caption"], record
    return record["caption"]


@pytest.fixture
def visitor(browser):
    """A page of someone who has not signed in."""
    watched = Watched(browser, BASE, SHOTS)
    yield watched
    watched.close()


@pytest.fixture
def watched(browser):
    """A page of someone who has."""
    watched = Watched(browser, BASE, SHOTS, viewport={"width": 1280, "height": 900})
    watched.context.request.post("/api/v1/session", data={"token": TOKEN})
    yield watched
    watched.close()


def test_without_the_token_nothing_is_shown(visitor):
    for path in ["/api/v1/overview", "/api/v1/search", "/api/v1/runs", "/metrics", "/api/v1/pictures?item=s3://a/b"]:
        assert api("GET", path, token=None)[0] == 401, path
        assert api("GET", path, token="0123456789abcdef")[0] == 401, path
    assert api("POST", "/api/v1/submissions", {"sources": [BUCKET]}, token=None)[0] == 401
    page = visitor.page
    page.goto("/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("The token of this service").fill("not the token at all")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    visitor.accessible("sign-in")
    visitor.shot("sign-in")
    page.get_by_label("The token of this service").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("cf-gallery li").first).to_be_visible()
    assert TOKEN not in json.dumps(visitor.context.cookies())


def test_search_by_text_with_the_keyboard_alone(watched, caption):
    page = watched.page
    page.goto("/")
    expect(page.locator("cf-gallery li").first).to_be_visible()
    page.keyboard.press("Control+k")
    page.keyboard.type(caption)
    page.keyboard.press("Enter")
    first = page.locator("cf-gallery li").first
    expect(first).to_contain_text("matched text")
    expect(first).to_contain_text(caption)
    assert page.url.startswith(f"{BASE}/?")
    expect(first.locator("img")).to_have_js_property("complete", True)
    assert first.locator("img").evaluate("image => image.naturalWidth") > 0
    watched.accessible("search")
    watched.fits("search")
    watched.shot("search")
    # What is asked is in the address: it survives a reload, and leads back.
    page.reload()
    expect(page.get_by_label("What to look for")).to_have_value(caption)
    expect(page.locator("cf-gallery li").first).to_contain_text(caption)
    first.locator("a").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/item\?"))
    page.go_back()
    expect(page.locator("cf-gallery li").first).to_contain_text(caption)


def test_filters_pages_and_hybrid(watched):
    page = watched.page
    page.goto("/")
    page.get_by_text("Filters and order").click()
    page.get_by_label("Rank by").select_option("hybrid")
    page.get_by_label("Caption has").fill("star")
    page.get_by_label("What to look for").fill("a star")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("cf-gallery li").first).to_contain_text("words")
    for caption in page.locator("cf-gallery .words p").all_text_contents():
        assert "star" in caption
    page.goto("/?limit=5")
    expect(page.locator("cf-gallery li")).to_have_count(5)
    before = page.locator("cf-gallery .file").all_text_contents()
    page.get_by_role("button", name="Next page").click()
    expect(page).to_have_url(re.compile("offset=5"))
    expect(page.locator("cf-gallery .file").first).not_to_have_text(before[0])
    assert not set(before) & set(page.locator("cf-gallery .file").all_text_contents())
    page.goto("/?min_size=wide")
    expect(page.get_by_role("status")).to_contain_text("min_size")


def test_what_is_like_a_hit_can_be_opened(watched):
    page = watched.page
    asked = urllib.parse.urlencode({"text": "a star", "group": "true", "limit": 100})
    _, found = api("GET", f"/api/v1/search?{asked}")
    place, hit = next((place, hit) for place, hit in enumerate(found["hits"]) if hit["duplicates"])
    like = hit["duplicates"][0]
    page.goto(f"/?{asked}")
    card = page.locator("cf-gallery ol > li").nth(place)
    card.get_by_text(f"and {len(hit['duplicates'])} like it").click()
    watched.accessible("grouped")
    watched.fits("grouped")
    card.get_by_role("link", name=like["name"]).first.click()
    expect(page.locator("h1")).to_contain_text(like["name"])


def test_the_model_judges_the_best_again(watched, caption):
    page = watched.page
    page.goto("/")
    page.get_by_text("Filters and order").click()
    page.get_by_label("let the model judge the best 20").check()
    page.get_by_label("What to look for").fill(caption)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile("rerank=20"))
    expect(page.get_by_role("status")).to_contain_text(re.compile("the model has judged the best \\d+"))
    first = page.locator("cf-gallery li").first
    expect(first).to_contain_text(re.compile(r"the model \d\.\d\d, text"))
    expect(first).to_contain_text(caption)
    expect(page.get_by_label("let the model judge the best 20")).to_be_checked()
    watched.accessible("judged")
    watched.fits("judged")
    watched.shot("judged")
    _, found = api("GET", "/api/v1/search?" + urllib.parse.urlencode({"text": caption, "rerank": 8, "limit": 20}))
    odds = [hit["matched"].get("match") for hit in found["hits"]]
    judged, rest = odds[: found["reranked"]["judged"]], odds[found["reranked"]["judged"] :]
    assert judged == sorted(judged, reverse=True) and len(judged) >= 4 and not any(rest), found
    assert len(judged) + sum(found["reranked"]["failed"].values()) == 8, found
    status, problem = api("GET", "/api/v1/search?rerank=5")
    assert status == 409 and "text" in problem["detail"], problem


def test_another_caption_shows_at_once(caption):
    folder = bucket_folder() / "again"
    folder.mkdir()
    others = [path for path in sorted(PICTURES.iterdir()) if path.name != NAME]
    source = f"{BUCKET}/again"

    def shown(text: str) -> list[str]:
        asked = urllib.parse.urlencode({"source": f"{source}/", "caption": text})
        return [hit["caption"] for hit in api("GET", f"/api/v1/search?{asked}")[1]["hits"]]

    def until_shown(text: str, is_right) -> list[str]:
        # The service takes the archive to be as it was for a second.
        deadline = time.monotonic() + 60
        while not is_right(captions := shown(text)):
            assert time.monotonic() < deadline, captions
            time.sleep(0.1)
        return captions

    (folder / "changing.png").write_bytes((PICTURES / NAME).read_bytes())
    submitted(sources=[source])
    until_shown(caption, lambda captions: captions == [caption])
    (folder / "changing.png").write_bytes(others[0].read_bytes())
    submitted(sources=[source])
    (now,) = until_shown("", lambda captions: len(captions) == 1 and captions != [caption])
    assert shown(caption) == []
    asked = urllib.parse.urlencode({"source": f"{source}/", "text": now})
    (hit,) = api("GET", f"/api/v1/search?{asked}")[1]["hits"]
    assert hit["caption"] == now, hit


def test_rows_of_a_part_that_is_gone_are_not_shown():
    folder = bucket_folder() / "alone"
    folder.mkdir()
    other = [path for path in sorted(PICTURES.iterdir()) if path.name != NAME][1]
    (folder / "alone.png").write_bytes(other.read_bytes())
    run = submitted(sources=[f"{BUCKET}/alone"])["run"]
    (part,) = (bucket_folder().parent / "archive" / "parts" / run).iterdir()
    which = urllib.parse.urlencode({"item": f"{BUCKET}/alone/alone.png"})

    def picture() -> int:
        request = urllib.request.Request(f"{BASE}/api/v1/pictures?{which}", headers={"authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def until(status: int) -> None:
        # The service takes the archive to be as it was for a second.
        deadline = time.monotonic() + 60
        while (seen := api("GET", f"/api/v1/items?{which}"))[0] != status:
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)

    until(200)
    # The gallery remembers where the rows of its hits are, and the rows.
    api("GET", "/api/v1/search?" + urllib.parse.urlencode({"source": f"{BUCKET}/alone"}))
    assert picture() == 200
    kept = part.read_bytes()
    part.unlink()
    until(404)
    assert picture() == 404
    part.write_bytes(kept)
    until(200)
    assert picture() == 200


def test_a_picture_is_forgotten_for_good(watched):
    folder = bucket_folder() / "forgotten"
    folder.mkdir()
    other = [path for path in sorted(PICTURES.iterdir()) if path.name != NAME][2]
    for name in ["gone.png", "left.png"]:
        (folder / name).write_bytes(other.read_bytes())
    source = f"{BUCKET}/forgotten"
    submitted(sources=[source])
    which = urllib.parse.urlencode({"item": f"{source}/gone.png"})
    listing = "/api/v1/search?" + urllib.parse.urlencode({"source": source})

    def shown() -> set[str]:
        return {hit["item"] for hit in api("GET", listing)[1]["hits"]}

    deadline = time.monotonic() + 60
    while len(shown()) != 2:
        assert time.monotonic() < deadline, shown()
        time.sleep(0.1)

    page = watched.page
    page.goto(f"/item?{which}")
    page.get_by_role("button", name="Forget…").click()
    watched.accessible("forget")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("#caption")).not_to_be_empty()
    page.get_by_role("button", name="Forget…").click()
    page.get_by_role("button", name="Forget", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Forgotten")
    assert shown() == {f"{source}/left.png"}
    for address in [f"/api/v1/items?{which}", f"/api/v1/pictures?{which}"]:
        assert api("GET", address)[0] == 404, address
    assert api("DELETE", f"/api/v1/items?{which}")[0] == 404


def test_failed_items_are_shown_with_their_reasons(watched):
    """A picture that the model cannot answer about is a failed row, and there is something to see."""
    form = {"form": "integer", "minimum": 100_000, "maximum": 999_999}
    questions = [{"question": "how many objects are there?", "name": "count", "answer": form}]
    asked = sorted(path.name for path in PICTURES.iterdir() if path.name != NAME)[-1]
    run = submitted(sources=[f"{BUCKET}/first/{asked}", f"{BUCKET}/hostile"], questions=questions, max_tokens=1)
    assert run["failed"].get("constraint_unmet") == 1 and len(run["failed"]) >= 2, run
    page = watched.page
    page.goto("/runs?" + urllib.parse.urlencode({"run": run["run"]}))
    page.get_by_text("Failed items").click()
    failures = page.locator(".failures li")
    expect(failures).to_have_count(sum(run["failed"].values()))
    seen = failures.filter(has_text=asked)
    expect(seen).to_contain_text("constraint_unmet")
    expect(seen).to_contain_text("allow more of them")
    watched.until("document.querySelector('.failures img')?.naturalWidth > 0")
    expect(failures.filter(has_text="notes.txt")).to_contain_text("no picture")
    watched.accessible("failures")
    watched.fits("failures")
    watched.shot("failures")


def test_search_by_a_dropped_picture(watched):
    page = watched.page
    page.goto("/")
    expect(page.locator("cf-gallery li").first).to_be_visible()
    data = list((PICTURES / NAME).read_bytes())
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            return transfer;
        }""",
        [data, NAME],
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    first = page.locator("cf-gallery li").first
    expect(first).to_contain_text("matched picture 1.00")
    expect(first).to_contain_text(NAME)
    expect(page).to_have_url(re.compile("upload=[0-9a-f]{64}"))
    expect(page.get_by_alt_text("The picture that is searched by")).to_be_visible()
    watched.accessible("by-picture")
    watched.shot("by-picture")
    # A text beside the picture: both count.
    page.get_by_label("What to look for").fill("a red star")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile("text=a\\+red\\+star"))
    expect(page).to_have_url(re.compile("upload=[0-9a-f]{64}"))
    expect(first).to_contain_text(re.compile(r"picture -?\d\.\d\d, text -?\d\.\d\d"))
    expect(page.locator("cf-gallery li").filter(has_text=NAME).first).to_contain_text("picture 1.00")
    watched.shot("by-picture-and-text")
    page.get_by_label("Picture", exact=True).set_input_files({"name": "x.txt", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("status")).to_contain_text("no picture that can be read")


def test_a_search_goes_on_without_its_picture(watched):
    status, found = api("GET", "/api/v1/search?" + urllib.parse.urlencode({"source": f"{BUCKET}/film", "limit": 1}))
    assert status == 200, found
    frame = found["hits"][0]
    page = watched.page
    page.goto("/?" + urllib.parse.urlencode({"like": frame["item"], "like_frame_ms": frame["frame_ms"]}))
    expect(page.locator("cf-gallery li").first).to_contain_text("matched picture 1.00")
    page.get_by_role("button", name="Search without the picture").click()
    expect(page).not_to_have_url(re.compile("like"))
    expect(page.get_by_role("status")).to_contain_text("The newest")


def test_an_item_its_neighbours_and_a_question(watched, caption):
    page = watched.page
    page.goto("/")
    page.get_by_label("What to look for").fill(caption)
    page.keyboard.press("Enter")
    expect(page.locator("cf-gallery li").first).to_contain_text(caption)
    page.locator("cf-gallery li a").first.click()
    expect(page.locator("#caption")).to_have_text(caption)
    expect(page.get_by_alt_text(caption)).to_be_visible()
    expect(page.locator("cf-gallery li").first).to_contain_text("matched picture")
    page.get_by_label("A question about this picture").fill("what colour is the background?")
    page.get_by_role("button", name="Ask").click()
    background = caption.rsplit(" on a ", 1)[1].removesuffix(" background")
    expect(page.locator("#answer")).to_have_text(background)
    watched.accessible("item")
    watched.fits("item")
    watched.shot("item")


def test_a_frame_plays_its_film(watched):
    asked = urllib.parse.urlencode({"source": f"{BUCKET}/film", "limit": 10})
    status, found = api("GET", f"/api/v1/search?{asked}")
    frame = max((hit for hit in found["hits"]), key=lambda hit: hit["frame_ms"])
    assert status == 200 and frame["frame_ms"] >= 6000, found
    page = watched.page
    page.goto("/item?" + urllib.parse.urlencode({"item": frame["item"], "frame_ms": frame["frame_ms"]}))
    film = page.locator("video")
    watched.until("document.querySelector('video')?.currentTime > 0")
    assert abs(film.evaluate("film => film.currentTime") * 1000 - frame["frame_ms"]) < 500
    # The player itself has read the track, which says at this time what the row says.
    watched.until("document.querySelector('video').textTracks[0]?.cues?.length > 0")
    cues = film.evaluate("film => Array.from(film.textTracks[0].cues, cue => [cue.text, cue.startTime, cue.endTime])")
    now = [text for text, start, end in cues if start * 1000 <= frame["frame_ms"] < end * 1000]
    assert now == [frame["caption"]], (cues, frame)
    assert len(cues) > 1, cues
    expect(page.locator("h1")).to_contain_text(" at 0:")
    watched.accessible("film")
    watched.shot("film")
    request = urllib.request.Request(
        f"{BASE}/api/v1/films?" + urllib.parse.urlencode({"item": frame["item"], "frame_ms": frame["frame_ms"]}),
        headers={"authorization": f"Bearer {TOKEN}", "range": "bytes=4-7"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert (answer.status, answer.read()) == (206, b"ftyp"), answer.headers


def test_a_run_with_questions_leaves_the_captions(watched):
    """Its rows are the newest of the picture, of the frame, and of the film."""
    _, found = api("GET", "/api/v1/search?" + urllib.parse.urlencode({"source": f"{BUCKET}/film", "limit": 10}))
    frame = max((hit for hit in found["hits"]), key=lambda hit: hit["frame_ms"])
    which = urllib.parse.urlencode({"item": frame["item"], "frame_ms": frame["frame_ms"]})

    def track() -> bytes:
        request = urllib.request.Request(f"{BASE}/api/v1/tracks?{which}", headers={"authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    captions = track()
    assert frame["caption"].encode() in captions, captions
    sources = [f"{BUCKET}/film", f"{BUCKET}/first/{NAME}"]
    picture = urllib.parse.urlencode({"item": f"{BUCKET}/first/{NAME}"})
    caption = api("GET", f"/api/v1/items?{picture}")[1]["caption"]
    submitted(sources=sources, question="is there a circle?", choices=["yes", "no"])
    # Then one that no frame can answer.
    form = {"form": "integer", "minimum": 100_000, "maximum": 999_999}
    questions = [{"question": "how many objects are there?", "name": "count", "answer": form}]
    failed = submitted(sources=sources, questions=questions, max_tokens=1)
    assert failed["failed"].get("constraint_unmet", 0) >= 2, failed

    for asked, said in [(which, frame["caption"]), (picture, caption)]:
        # The service takes the archive to be as it was for a second.
        deadline = time.monotonic() + 60
        while (record := api("GET", f"/api/v1/items?{asked}")[1])["failed_since"] is None:
            assert time.monotonic() < deadline, record
            time.sleep(0.1)
        assert (record["caption"], record["status"]) == (said, "ok"), record
        assert [one["question"] for one in record["answered"][0]["answers"]] == ["is there a circle?"], record
        assert record["failed_since"]["error_code"] == "constraint_unmet", record
    assert track() == captions
    request = urllib.request.Request(f"{BASE}/api/v1/films?{which}", headers={"authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200 and answer.read(8)[4:] == b"ftyp", answer.headers
    search = urllib.parse.urlencode({"text": caption, "mode": "hybrid", "source": f"{BUCKET}/first/{NAME}"})
    hits = api("GET", f"/api/v1/search?{search}")[1]["hits"]
    assert [hit["caption"] for hit in hits] == [caption], hits
    page = watched.page
    page.goto(f"/item?{picture}")
    expect(page.locator("#caption")).to_have_text(caption)
    expect(page.locator("#answered")).to_contain_text("is there a circle?")
    expect(page.locator("#status")).to_contain_text("constraint_unmet")


def test_a_run_is_followed_cancelled_resumed_and_retried(watched):
    page = watched.page
    page.goto("/runs")
    page.get_by_text("Submit a run").click()
    page.get_by_label("Sources, one a line").fill(f"{BUCKET}/hostile\n{BUCKET}/many")
    page.get_by_label("Pictures per job").fill("2")
    page.get_by_role("button", name="Submit").click()
    card = page.locator("cf-run").first
    expect(card.locator(".state")).to_have_text("running")
    expect(card).to_contain_text(re.compile("[1-9][0-9]* ok"))
    name = card.get_attribute("data-run")
    # Jobs go out a few at a time, so that a run can be held back.
    card.get_by_role("button", name="Pause").click()
    expect(card.locator(".state")).to_have_text("paused")
    watched.accessible("runs")
    watched.fits("runs")
    watched.shot("run-paused")
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".state")).to_have_text("running")
    card.get_by_role("button", name="Cancel").click()
    expect(card.locator(".state")).to_have_text("cancelled")
    watched.shot("run-cancelled")
    _, run = api("GET", f"/api/v1/runs/{name}")
    assert run["jobs_done"] < run["jobs"], run
    # A page of this run alone notices what is done elsewhere, too.
    alone = watched.context.new_page()
    alone.goto("/runs?" + urllib.parse.urlencode({"run": name}))
    expect(alone.locator("cf-run .state")).to_have_text("cancelled")
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".state")).to_have_text("finished", timeout=600_000)
    # It is only looked at while it can be seen.
    alone.bring_to_front()
    expect(alone.locator("cf-run .state")).to_have_text("finished")
    alone.close()
    page.bring_to_front()
    _, run = api("GET", f"/api/v1/runs/{name}")
    assert run["jobs_done"] == run["jobs"] and run["ok"] + sum(run["failed"].values()) == run["items"], run
    assert run["failed"] == {"unsupported_format": 1, "truncated": 1}, run
    card.get_by_text("Failed items").click()
    expect(card.locator(".failures li")).to_have_count(2)
    expect(card.locator(".failures")).to_contain_text("unsupported_format")
    watched.accessible("runs")
    watched.shot("run-failures")
    card.get_by_role("button", name="Retry failed").click()
    expect(page.locator("cf-run").first).not_to_have_attribute("data-run", name)
    again = page.locator("cf-run").first
    expect(again.locator(".state")).to_have_text("finished")
    expect(again).to_contain_text("2 items")


def test_hostile_captions_and_names_stay_text(watched):
    """A caption is whatever an archive says: this one was written by someone who wished us ill."""
    page = watched.page
    page.goto("/?caption=%3Cimg")
    first = page.locator("cf-gallery li").first
    expect(first).to_contain_text("<img src=x onerror=alert(1)>")
    expect(first.locator(".file")).to_contain_text("<script>alert(2)<")
    assert page.locator("cf-gallery img[src='x'], cf-gallery script").count() == 0
    watched.shot("hostile")
    first.locator("a").click()
    expect(page.locator("#caption")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator("h1")).to_contain_text("<script>alert(2)<")
    watched.accessible("hostile-item")


def test_the_overview_tells_how_everything_is(watched):
    page = watched.page
    page.goto("/overview")
    expect(page.locator("#archive")).to_contain_text("s3://")
    expect(page.locator("#queue")).to_contain_text("Workers connected")
    expect(page.locator("#workers tr").first).to_contain_text("%")
    expect(page.locator("#index")).to_contain_text("all of")
    watched.accessible("overview")
    watched.fits("overview")
    watched.shot("overview")


def test_a_page_is_there_before_its_data(watched):
    held = []
    watched.page.route("**/api/**", lambda route: held.append(route))
    watched.page.goto("/")
    expect(watched.page.get_by_label("What to look for")).to_be_editable()
    expect(watched.page.get_by_role("status")).to_have_text(re.compile("Loading|Searching"))
    for route in held:
        route.abort()
    expect(watched.page.get_by_role("status")).to_contain_text("cannot be reached")


def test_a_gallery_of_two_hundred_loads_what_is_near(watched):
    page = watched.page
    page.goto("/?limit=200")
    expect(page.locator("cf-gallery li")).to_have_count(200)
    watched.until("document.querySelector('cf-gallery img').naturalWidth > 0")
    loaded = "[...document.querySelectorAll('cf-gallery img')].filter((image) => image.naturalWidth > 0).length"
    assert page.evaluate(loaded) < 150, "pictures far below the screen wait until someone comes near them"
    for _ in range(20):
        page.mouse.wheel(0, 800)
        page.wait_for_timeout(30)
    watched.until(
        "[...document.querySelectorAll('cf-gallery li')].filter((card) => {"
        " const { top, bottom } = card.getBoundingClientRect(); return bottom > 0 && top < innerHeight;"
        "}).every((card) => card.querySelector('img')?.naturalWidth > 0)"
    )
    watched.shot("two-hundred")


@pytest.mark.parametrize("path", ["/", "/runs", "/overview"])
def test_a_phone_in_the_dark(browser, path):
    watched = Watched(browser, BASE, SHOTS, **PHONE)
    watched.context.request.post("/api/v1/session", data={"token": TOKEN})
    watched.page.goto(path)
    expect(watched.page.locator("cf-gallery li, cf-run, #workers tr").first).to_be_visible()
    name = path.strip("/") or "search"
    watched.accessible(name)
    watched.fits(name)
    watched.shot(f"phone-{name}")
    watched.close()


def test_pictures_never_come_from_elsewhere():
    def refused(item: str) -> None:
        status, problem = api("GET", "/api/v1/pictures?" + urllib.parse.urlencode({"item": item}))
        assert status == 404, (item, status, problem)

    for item in ["file:///etc/passwd", f"{BUCKET}/secret.png", f"{BUCKET}/../x", "http://127.0.0.1/x", "x"]:
        refused(item)
    # A row names it, but it is no picture.
    status, problem = api("GET", "/api/v1/pictures?" + urllib.parse.urlencode({"item": f"{BUCKET}/hostile/notes.txt"}))
    assert status == 415 and problem["code"] == "no_picture", problem
    status, problem = api("POST", "/api/v1/submissions", {"sources": ["/etc"]})
    assert status == 403 and "--sources" in problem["detail"], problem
    status, problem = api("POST", "/api/v1/submissions", {"sources": [BUCKET.rsplit("/", 1)[0]]})
    assert status == 403, problem


def test_which_frames_of_films_are_captioned_can_be_said():
    film = {"sources": [f"{BUCKET}/film"], "question": "is there a square?"}
    seen = []
    for sampling in [None, {"by": "interval", "every_us": 500_000, "min_change": 0.0}, {"by": "keyframes", "min_change": 0.0}]:
        seen.append(submitted(**film, **({"sampling": sampling} if sampling else {}))["frames_seen"])
    a_second, twice, keys = seen
    assert twice == 2 * a_second and 0 < keys < a_second, seen
    for sampling in [{"by": "interval", "every_us": 1, "min_change": 0.0}, {"by": "scenes", "cut": 0.3, "min_change": 2}]:
        status, problem = api("POST", "/api/v1/submissions", {**film, "sampling": sampling})
        assert status == 422 and problem["detail"].startswith("sampling: has"), problem
