"""The example application, clicked through in headless Chromium.

TEMPTOKEN_WRITE_DOCS=1 also writes the screenshots of docs/.
"""

import os
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import expect

from conftest import EXAMPLES, ROOT, Server, wait_until

WEB = EXAMPLES / "web"
TOKEN = re.compile(r"tt_[0-9a-f]{96}")


@pytest.fixture(scope="module")
def web(cluster):
    cluster.create("web", (WEB / "schema.sql").read_text())
    uvicorn = Path(sys.executable).parent / "uvicorn"
    server = Server([uvicorn, "--port", "$PORT", "app:app"], WEB, {"DATABASE_URL": cluster.url("web", "web")})
    yield server
    server.close()


@pytest.fixture
def page(browser, web):
    """A page of a visitor who was never here. What it asks for, and each Referer, is in `asked`."""
    context = browser.new_context(base_url=web.url, viewport={"width": 640, "height": 440})
    page = context.new_page()
    page.asked, page.problems = [], []
    page.on("request", lambda request: page.asked.append((request.url, request.headers.get("referer"))))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if "Content Security" in message.text else None)
    yield page
    assert not page.problems
    # No address that went over the wire has a token, and no Referer goes with any.
    assert all(not TOKEN.search(url.partition("#")[0]) and not referer for url, referer in page.asked)
    context.close()


@pytest.fixture
def sql(cluster):
    with cluster.connect("web") as connection:
        yield lambda *statement: connection.execute(*statement).fetchone()


def title(page):
    return page.locator("main > section:visible h1")


@pytest.fixture
def flow(sql):
    """A new flow, and a link to it of so many seconds."""
    def flow(seconds=600):
        (flow,) = sql("INSERT INTO flows SELECT gen_random_uuid(), 'Harbour Agent', 'Read your calendar' RETURNING id")
        return flow, link(flow, seconds)

    def link(flow, seconds=600):
        mint = "SELECT auth.temptoken_mint('oauth2_consent', %s, make_interval(secs => %s))"
        return f"/consent/{flow}#{sql(mint, (flow, seconds))[0]}"

    flow.link = link
    return flow


def answer(sql, flow):
    return sql("SELECT answer FROM flows WHERE id = %s", (flow,))[0]


def ask(page, method, path, token):
    """What the API answers to a request of the page's own origin."""
    return page.evaluate("""async ([method, path, token]) => {
        const body = method === "PUT" ? JSON.stringify({answer: "approved"}) : undefined;
        const headers = {"X-Temp-Token": token, "Content-Type": "application/json"};
        return (await fetch(path, {method, headers, body})).status;
    }""", [method, path, token])


def picture(page, name):
    if os.environ.get("TEMPTOKEN_WRITE_DOCS"):
        page.screenshot(path=ROOT / "docs" / f"example-{name}.png")


# --- The consent page -------------------------------------------------------------------------------------------------


def test_from_the_start_page_to_an_approved_flow(page, sql):
    page.goto("/")
    page.get_by_role("button", name="Let an agent ask").click()
    page.get_by_role("link", name="Open its link").click()
    expect(title(page)).to_have_text("Harbour Agent asks for access")
    assert "#" not in page.url, "the address bar has no token any more"
    flow = page.url.rpartition("/")[2]
    picture(page, "consent")
    page.get_by_role("button", name="Approve").click()
    expect(title(page)).to_have_text("Access approved")
    picture(page, "approved")
    assert answer(sql, flow) == "approved"
    assert sql("SELECT count(*) FROM temptoken.temp_tokens WHERE resource_id = %s", (flow,)) == (0,)


def test_the_link_works_once(page, flow, sql):
    id, link = flow()
    page.goto(link)
    page.get_by_role("button", name="Deny").click()
    expect(title(page)).to_have_text("Access denied")
    page.goto("about:blank")
    page.goto(link)
    expect(title(page)).to_have_text("This link is no longer good")
    picture(page, "no-longer-good")
    assert answer(sql, id) == "denied"


def test_a_second_click_while_the_first_is_on_its_way_changes_nothing(page, flow, sql):
    id, link = flow()
    page.goto(link)
    page.get_by_role("button", name="Approve").dblclick()
    expect(title(page)).to_have_text("Access approved")
    assert answer(sql, id) == "approved"


def test_two_tabs_have_one_answer(page, flow, sql):
    id, link = flow()
    other = page.context.new_page()
    for tab in (page, other):
        tab.goto(link)
        expect(title(tab)).to_have_text("Harbour Agent asks for access")
    page.get_by_role("button", name="Approve").click()
    expect(title(page)).to_have_text("Access approved")
    other.get_by_role("button", name="Deny").click()
    expect(title(other)).to_have_text("This link is no longer good")
    assert answer(sql, id) == "approved"


def test_the_back_button_brings_no_token_back(page, flow):
    _, link = flow()
    page.goto("/")
    page.goto(link)
    expect(title(page)).to_have_text("Harbour Agent asks for access")
    page.goto("/")
    page.go_back()
    expect(title(page)).to_have_text("Please open your link again")
    assert "#" not in page.url
    assert not page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length")


def test_a_link_that_is_pasted_over_the_page_works(page, flow):
    id, link = flow()
    page.goto(f"/consent/{id}")
    expect(title(page)).to_have_text("Please open your link again")
    page.evaluate("link => { location.hash = link.split('#')[1]; }", link)
    expect(title(page)).to_have_text("Harbour Agent asks for access")


def test_the_token_of_one_flow_opens_no_other(page, flow, sql):
    id, link = flow()
    other, _ = flow()
    token = link.partition("#")[2]
    page.goto(f"/consent/{other}#{token}")
    expect(title(page)).to_have_text("This link is no longer good")
    assert ask(page, "PUT", f"/api/flows/{other}", token) == 401
    assert ask(page, "GET", f"/api/flows/{other}", token) == 401
    assert ask(page, "GET", "/api/sign-in", token) == 401
    assert (answer(sql, id), answer(sql, other)) == (None, None)


def test_a_flow_that_is_gone_without_its_trigger_is_a_refusal(page, flow, cluster):
    id, link = flow()
    with cluster.connect("web") as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM flows WHERE id = %s", (id,))
    page.goto("/")
    for method in ["GET", "PUT"]:
        assert ask(page, method, f"/api/flows/{id}", link.partition("#")[2]) == 401


def test_a_flow_that_is_deleted_while_it_is_answered_is_gone(page, flow, cluster, web):
    """Both lock the flow first. In two orders they would wait for each other, and the deletion might be what fails."""
    id, link = flow()
    request = urllib.request.Request(f"{web.url}/api/flows/{id}", b'{"answer": "approved"}', method="PUT",
                                     headers={"X-Temp-Token": link.partition("#")[2], "Content-Type": "application/json"})
    with cluster.connect("web") as watching, ThreadPoolExecutor() as threads:
        with cluster.connect("web") as connection, connection.transaction():
            connection.execute("SELECT FROM flows WHERE id = %s FOR UPDATE", (id,))
            answered = threads.submit(urllib.request.urlopen, request, timeout=10)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'web' AND wait_event_type = 'Lock'"
            wait_until("the answer waits", lambda: watching.execute(waiting).fetchone() == (1,))
            connection.execute("DELETE FROM flows WHERE id = %s", (id,))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            answered.result()


def test_scanners_that_open_the_link_first_spend_nothing(page, flow, web, sql):
    id, link = flow()
    address, _, token = link.partition("#")
    for _ in range(3):
        urllib.request.urlopen(web.url + address).read()
        api = urllib.request.Request(f"{web.url}/api/flows/{id}", headers={"X-Temp-Token": token})
        urllib.request.urlopen(api).read()
    page.goto(link)
    page.get_by_role("button", name="Approve").click()
    expect(title(page)).to_have_text("Access approved")


def test_a_link_that_expires_while_the_page_is_open_says_so(page, flow, sql):
    id, link = flow(seconds=3)
    page.goto(link)
    expect(title(page)).to_have_text("Harbour Agent asks for access")
    wait_until("it has expired", lambda: sql("SELECT NOT EXISTS (SELECT FROM temptoken.active_tokens WHERE resource_id = %s)", (id,))[0])
    page.get_by_role("button", name="Approve").click()
    expect(title(page)).to_have_text("This link has expired")
    picture(page, "expired")
    assert answer(sql, id) is None


def test_it_works_by_keyboard_and_on_a_phone(page, flow, sql):
    page.set_viewport_size({"width": 360, "height": 640})
    id, link = flow()
    page.goto(link)
    expect(title(page)).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing to scroll sideways"
    heights = [button.bounding_box()["height"] for button in page.get_by_role("button").all()]
    assert min(heights) >= 44, "a finger can hit them"
    picture(page, "phone")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Approve")).to_be_focused()
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text("Access approved")
    assert answer(sql, id) == "approved"


# --- The link to sign in ----------------------------------------------------------------------------------------------


def outbox(page):
    return page.request.get("/demo/outbox").json()


def ask_for_mail(page, address):
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(address)
    page.get_by_role("button", name="Send the link").click()
    expect(title(page)).to_have_text("Look into your mail")


def mailed(page, address="ann@example.com"):
    """Asks for a mail to this address; the link in it."""
    before = outbox(page)
    ask_for_mail(page, address)
    wait_until("the mail is out", lambda: outbox(page) != before)
    newest = outbox(page)[0]
    assert newest["to"] == address
    return newest["link"]


def test_signing_in_by_a_link(page):
    link = mailed(page)
    page.goto(link)
    expect(title(page)).to_have_text("Welcome back")
    expect(page.locator("#email")).to_have_text("ann@example.com")
    picture(page, "sign-in")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#name")).to_have_text("Ann")
    cookie = page.context.cookies()[0]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    page.goto(link)
    expect(title(page)).to_have_text("This link is no longer good")
    page.goto("/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_a_scanner_does_not_press_the_button(page, browser, web):
    link = mailed(page)
    # One that runs scripts, and waits for what they do.
    scanner = browser.new_context(base_url=web.url).new_page()
    scanner.goto(link)
    expect(title(scanner)).to_have_text("Welcome back")
    scanner.context.close()
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#name")).to_have_text("Ann")


def test_only_the_newest_link_works(page):
    first, second = mailed(page), mailed(page)
    page.goto(first)
    expect(title(page)).to_have_text("This link is no longer good")
    page.goto("about:blank")
    page.goto(second)
    expect(title(page)).to_have_text("Welcome back")


@pytest.mark.parametrize("who, change", [("cat", "DELETE FROM users WHERE email = %s"),
                                         ("dan", "UPDATE users SET email = 'dan@example.net' WHERE email = %s")])
def test_a_link_ends_with_its_user_or_address(page, cluster, who, change):
    address, insert = f"{who}@example.com", "INSERT INTO users VALUES (%s, 'One of several')"
    with cluster.connect("web") as connection:
        connection.execute(insert, (address,))
        link = mailed(page, address)
        connection.execute(change, (address,))
        connection.execute(insert, (address,))  # Another person has the address now.
    page.goto(link)
    expect(title(page)).to_have_text("This link is no longer good")
    assert ask(page, "POST", "/api/sign-in", link.partition("#")[2]) == 401


def test_nobody_learns_who_is_a_user(page):
    ask_for_mail(page, "nobody@example.com")
    mailed(page)
    assert "nobody@example.com" not in [mail["to"] for mail in outbox(page)]


def test_mails_that_wait_do_not_hold_up_the_pages(page, cluster):
    """Else their time would tell of the address."""
    with cluster.connect("web") as connection, connection.transaction():
        connection.execute("SELECT FROM users WHERE email = 'ben@example.com' FOR UPDATE")
        for _ in range(12):
            page.request.post("/sign-in", form={"email": "ben@example.com"})
        assert page.request.get("/api/session", timeout=3000).json() == {"name": None}
    wait_until("the mails are out", lambda: len([mail for mail in outbox(page) if mail["to"] == "ben@example.com"]) == 5)


def test_who_is_signed_in_can_get_another_address(page, sql):
    sql("INSERT INTO users VALUES ('fay@example.com', 'Fay') RETURNING 1")
    page.goto(mailed(page, "fay@example.com"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#name")).to_have_text("Fay")
    sql("UPDATE users SET email = 'fay@example.net' WHERE email = 'fay@example.com' RETURNING 1")
    page.goto("/")
    expect(page.locator("#name")).to_have_text("Fay")


def test_a_form_of_another_site_signs_nobody_out(browser, web):
    """The cookie is Lax, so that such a request comes without it."""
    answer = browser.new_context(base_url=web.url).request.post("/sign-out", max_redirects=0)
    assert answer.status == 303 and "set-cookie" not in answer.headers


# --- What all have in common ------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_of_a_page_that_leaks_nothing(page, flow):
    id, link = flow()
    for path in ["/", "/sign-in", "/sign-in/link", link.partition("#")[0], f"/api/flows/{id}", "/static/token.js"]:
        headers = page.request.get(path).headers
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_no_cache_keeps_an_accepted_answer(page, flow):
    """A shared cache would give it to whoever comes without a token, who is not asked for one there."""
    id, link = flow()
    flows = page.request.get(f"/api/flows/{id}", headers={"X-Temp-Token": link.partition("#")[2]})
    who = page.request.get("/api/sign-in", headers={"X-Temp-Token": mailed(page).partition("#")[2]})
    for accepted in [flows, who]:
        assert (accepted.status, accepted.headers["cache-control"]) == (200, "no-store")


def test_a_lost_database_does_not_end_a_link(page, flow, cluster):
    _, link = flow()
    with cluster.connect() as connection:
        connection.execute("ALTER ROLE web NOLOGIN")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'web'")
    try:
        page.goto(link)
        expect(title(page)).to_have_text("Something is wrong on our side", timeout=20_000)
    finally:
        with cluster.connect() as connection:
            connection.execute("ALTER ROLE web LOGIN")

    def is_back():
        page.goto("about:blank")
        page.goto(link)
        title(page).wait_for()
        return title(page).text_content() == "Harbour Agent asks for access"

    wait_until("it works again", is_back)


def test_no_log_has_a_token(web, cluster):
    """Runs last: after all that was clicked."""
    assert "/api/flows/" in web.printed()
    assert not TOKEN.search(web.printed())
    assert not TOKEN.search(cluster.log.read_text())
