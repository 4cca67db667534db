"""The proof as the page shows it: what holds, and that each thing that is tampered with turns the right step red."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from confide.verify.audit import catalogue
from confide.wire import jcs
from tests.page.browsing import PATIENCE, Visit
from tests.page.conftest import Open
from tests.page.meddler import Meddler, Passing, meddling
from tests.proof.talking import EchoServer, echoing
from tests.simulator.echo_server import MANIFEST_DIGEST, MODEL

REPORT = "/v1/aci/attestation"
MANIFEST = "/v1/aci/manifest"
RECEIPTS = "/v1/aci/receipts/"
CHAT = "/v1/chat/completions"
DEVELOPMENT = 3
OTHER = "sha256:" + "ab" * 32
"""A digest of nothing."""
ANYTHING = 'roots = ["intel", "amd", "nvidia"]\nunsafe_any_workload = true\n'


@pytest.fixture
def meddler(echo: EchoServer) -> Iterator[Meddler]:
    """Somebody between page and server, who is honest at first."""
    with meddling(echo.port) as meddler:
        yield meddler


def on(document: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    """A change of a JSON document."""

    def change(body: bytes) -> bytes:
        value = json.loads(body)
        document(value)
        return json.dumps(value).encode()

    return change


# What holds ----------------------------------------------------------------------------------------------------------


def test_a_development_service_is_consistent_and_never_good(opened: Open) -> None:
    with opened() as visit:
        visit.settled("development")
        page = visit.page
        expect(page.locator("#banner")).to_contain_text("Development root.")
        expect(page.locator("#banner")).to_contain_text("no hardware protects what you send")
        expect(page.locator("#chip")).to_have_text("Development root")
        expect(page.locator("#proof .verdict")).to_have_text("Development root")
        assert visit.failed() == set()
        assert visit.badge(visit.answered("hello")) == "development"
        assert page.locator("[data-state=good]").count() == 0
        green = page.evaluate(
            """() => {
              const probe = document.body.appendChild(document.createElement("i"));
              probe.style.color = "var(--good)";
              const good = getComputedStyle(probe).color;
              probe.remove();
              return [...document.querySelectorAll(".sign, .badge, .chip, .hero, .outcome, .lock")]
                .filter((one) => getComputedStyle(one).color === good).map((one) => one.className);
            }"""
        )
        assert green == []


def test_the_steps_have_the_numbers_and_words_of_the_command(opened: Open) -> None:
    known = {step.id: (step.title, step.proves) for group in catalogue() for step in group.steps}
    with opened() as visit:
        visit.settled()
        rows = visit.page.locator("#proof .step").evaluate_all(
            """rows => rows.map(row => [row.dataset.step, row.querySelector(".name").textContent,
                                        row.querySelector(".proves").textContent])"""
        )
        shown = {step: (title, proves) for step, title, proves in rows}
        assert {group.partition(".")[0] for group in shown} >= {"report", "tdx", "dstack", "claims"}
        assert all(known[step] == words for step, words in shown.items())
        assert {step for step in known if step.startswith(("report.", "tdx."))} <= shown.keys()


def test_what_runs_is_shown(opened: Open) -> None:
    with opened() as visit:
        visit.settled()
        shown = visit.page.locator("#proof").inner_text()
        for what in (MODEL, "echo 1", "echo.gguf", "64 bytes", "TDX", "development root for quotes"):
            assert what in shown, what
        assert visit.page.locator(f"#proof code[title='{MANIFEST_DIGEST}'], #proof code").count() > 0
        expect(visit.page.locator("#proof .file code[title]")).to_have_attribute("title", "11" * 32)
        assert "It came from the server that it checks" in shown
        assert f"confide verify {visit.origin}" in shown


def test_the_nonce_is_made_in_the_page_each_time(opened: Open) -> None:
    with opened() as visit:
        visit.settled()
        visit.page.get_by_role("button", name="Check again").click()
        visit.page.wait_for_timeout(100)
        visit.settled("development")
        nonces = [url.partition("nonce=")[2] for url in visit.requests if REPORT in url]
        assert len(set(nonces)) == len(nonces) == 2
        assert all(len(nonce) == 64 for nonce in nonces)


def test_messages_are_sealed_by_default(opened: Open, meddler: Meddler) -> None:
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        expect(visit.page.locator("#lock")).to_have_text("Sealed")
        answer = visit.answered("a secret of mine")
        expect(answer.locator(".prose")).to_have_text("a secret of mine")
        (chat,) = [one for one in meddler.seen if one.path == CHAT]
        assert b"secret" not in chat.request + chat.body
        visit.page.click("#lock")
        dialog = visit.page.locator("dialog[open]")
        expect(dialog).to_contain_text("the text of messages")
        expect(dialog).to_contain_text("the model's name and parameters")


NO_X25519 = """
  const subtle = globalThis.SubtleCrypto?.prototype ?? {};
  const { importKey } = subtle;
  subtle.importKey = function (format, data, algorithm, ...rest) {
    if (algorithm.name === "X25519") throw new DOMException("Unrecognized name.", "NotSupportedError");
    return importKey.call(this, format, data, algorithm, ...rest);
  };
"""


def test_without_x25519_messages_are_sealed_under_the_other_suite(
    opened: Open, meddler: Meddler, echo: EchoServer
) -> None:
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        visit.page.add_init_script(NO_X25519)
        visit.page.goto("about:blank")
        visit.page.goto(f"{meddler.origin}/#key={echo.keys[0]}")
        visit.settled("development")
        expect(visit.page.locator("#lock")).to_have_text("Sealed")
        answer = visit.answered("a secret of mine")
        expect(answer.locator(".prose")).to_have_text("a secret of mine")
        assert visit.badge(answer) == "development"
        (chat,) = [one for one in meddler.seen if one.path == CHAT]
        assert b"secret" not in chat.request + chat.body
        visit.open_proof()
        expect(visit.page.locator("#proof")).to_contain_text("This browser has no X25519")
        visit.page.click("#lock")
        expect(visit.page.locator("dialog[open]")).to_contain_text("the page computes secp256k1 itself")


def test_the_receipt_is_over_the_bytes_that_went(opened: Open, meddler: Meddler) -> None:
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        visit.unseal()
        answer = visit.answered("hello")
        assert visit.badge(answer) == "unproven"
        answer.locator(".badge").click()
        (chat,) = [one for one in meddler.seen if one.path == CHAT]
        request, response = (side.inner_text() for side in answer.locator(".side").all())
        assert f"{len(chat.request):,}".replace(",", "\u2009") + " bytes sent" in request
        assert f"{len(chat.body):,}".replace(",", "\u2009") + " bytes received" in response
        titles = answer.locator(".side code").evaluate_all("codes => codes.map(code => code.title)")
        assert titles == [jcs.sha256(chat.request)] * 2 + [jcs.sha256(chat.body)] * 2
        steps = visit.steps(".receipt")
        assert set(steps) == {f"receipt.{number}" for number in range(1, 10)}
        assert [step for step, look in steps.items() if look != "pass"] == ["receipt.8"]


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "in clear"])
def test_the_bundle_is_what_confide_audit_takes(opened: Open, echo: EchoServer, tmp_path: Path, sealed: bool) -> None:
    with opened(accept_downloads=True) as visit:
        visit.settled()
        if not sealed:
            visit.unseal()
        answer = visit.answered("hello")
        answer.locator(".badge").click()
        with visit.page.expect_download() as one:
            answer.get_by_role("button", name="Bundle for confide audit").click()
        visit.answered("and again")
        with visit.page.expect_download() as all_of_them:
            visit.page.locator("#proof").get_by_role("button", name="Bundle for confide audit").click()
        for name, download, exchanges in (("one", one, 1), ("all", all_of_them, 2)):
            path = tmp_path / f"{name}.json"
            download.value.save_as(path)
            verdict = audited(path, echo)
            assert "development root for quotes" in verdict["verdict"]["roots"]
            made = [step for step in verdict["verdict"]["findings"] if step["step"] == "receipt.5"]
            assert [step["outcome"] for step in made] == ["pass"] * exchanges
            failed = [step["step"] for step in verdict["verdict"]["findings"] if step["outcome"] == "fail"]
            assert failed == []
            assert verdict["exit_code"] == (DEVELOPMENT if sealed else 5)


def audited(bundle: Path, echo: EchoServer) -> Any:
    """What ``confide audit`` says of a file."""
    policy = bundle.with_suffix(".toml")
    policy.write_text(ANYTHING)
    root = echo.data / "dev-pki" / "development-roots.pem"
    command = [sys.executable, "-m", "confide", "audit", str(bundle), "--policy", str(policy), "--json"]
    done = subprocess.run(
        [*command, "--insecure-dev-root", str(root)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["audits"][0]


def test_one_bit_turns_it_red(opened: Open) -> None:
    with opened() as visit:
        visit.settled()
        answer = visit.answered("hello")
        answer.locator(".badge").click()
        answer.get_by_role("button", name="Change one byte, check again").click()
        expect(answer.locator(".trial .step")).to_have_attribute("data-step", "receipt.5")
        expect(answer.locator(".trial .step")).to_have_attribute("data-look", "fail")
        assert visit.badge(answer) == "development"


@pytest.mark.parametrize(("sealed", "state"), [(True, "development"), (False, "unproven")], ids=["sealed", "in clear"])
def test_a_refusal_has_a_receipt_too(opened: Open, sealed: bool, state: str) -> None:
    with opened() as visit:
        visit.settled()
        if not sealed:
            visit.unseal()
        visit.order("echo:refuse")
        answer = visit.answered("hello")
        expect(answer.locator(".problem")).to_contain_text("The engine doesn't want this.")
        assert visit.badge(answer) == state
        answer.locator(".badge").click()
        steps = visit.steps(".receipt")
        assert (steps["receipt.4"], steps["receipt.5"]) == ("pass", "pass")


# What was tampered with ----------------------------------------------------------------------------------------------


def change_key(report: Any) -> None:
    """Another key in the keyset, and a digest that fits it."""
    keyset = report["attestation"]["workload_keyset"]
    keyset["receipt_signing_keys"][0]["public_key"] = "ab" * 32
    report["workload_keyset_digest"] = jcs.digest(keyset)


def change_digest(report: Any) -> None:
    """A digest that doesn't fit."""
    report["workload_keyset_digest"] = OTHER


def flip_quote(at: int) -> Callable[[Any], None]:
    def flip(report: Any) -> None:
        evidence = report["attestation"]["evidence"]
        quote = bytearray.fromhex(evidence["quote"])
        quote[at] ^= 1
        evidence["quote"] = quote.hex()

    return flip


def no_quote(report: Any) -> None:
    report["attestation"]["evidence"]["quote"] = ""


BROKEN_REPORTS: dict[str, tuple[Callable[[Any], None], set[str]]] = {
    "keyset": (change_key, {"report.3"}),
    "digest of the keyset": (change_digest, {"report.1"}),
    "quote, measurement": (flip_quote(48 + 136), {"tdx.4"}),
    "quote, signature": (flip_quote(640), {"tdx.4"}),
    "quote, enclave": (flip_quote(800), {"tdx.3"}),
    "quote, version": (flip_quote(0), {"tdx.1"}),
    "no quote": (no_quote, {"report.1", "report.2", "tdx.1"}),
}


@pytest.mark.parametrize(("change", "steps"), BROKEN_REPORTS.values(), ids=BROKEN_REPORTS)
def test_a_report_that_was_tampered_with(
    opened: Open, meddler: Meddler, change: Callable[[Any], None], steps: set[str]
) -> None:
    meddler.changing(REPORT, on(change))
    with opened(origin=meddler.origin) as visit:
        assert_is_red(visit, steps)


def assert_is_red(visit: Visit, steps: set[str]) -> None:
    """The panel and everything around it say that a check failed, and which; nothing can be sent."""
    visit.settled("bad")
    assert visit.failed() & steps, visit.failed()
    page = visit.page
    expect(page.locator("#banner")).to_have_attribute("data-state", "bad")
    expect(page.locator("#chip")).to_have_text("Failed")
    expect(page.locator("#barrier")).to_contain_text("Sending is blocked")
    first = page.locator("#proof .step[data-look=fail]").first.get_attribute("data-step")
    expect(page.locator(".hero .why code").first).to_have_text(str(first))
    page.fill("#prompt", "hello")
    expect(page.locator("#send")).to_be_disabled()
    page.press("#prompt", "Enter")
    page.wait_for_timeout(200)
    assert not [url for url in visit.requests if CHAT in url]


@pytest.mark.parametrize(
    ("nonce", "steps"), [("?nonce=" + "ab" * 32, {"report.3"}), ("", {"report.4"})], ids=["another nonce", "no nonce"]
)
def test_a_report_for_another_nonce(opened: Open, meddler: Meddler, nonce: str, steps: set[str]) -> None:
    """As an old report, or one that somebody else asked for."""
    meddler.redirect = lambda target: REPORT + nonce if target.startswith(REPORT) else target
    with opened(origin=meddler.origin) as visit:
        assert_is_red(visit, steps)


def test_a_manifest_that_is_not_the_one_of_the_keyset(opened: Open, meddler: Meddler) -> None:
    meddler.changing(MANIFEST, lambda body: body.replace(b"11" * 32, b"22" * 32))
    with opened(origin=meddler.origin) as visit:
        assert_is_red(visit, {"report.8"})


def test_no_attestation_at_all(opened: Open, meddler: Meddler) -> None:
    meddler.meddle = lambda passing: replace(passing, status=503) if passing.path == REPORT else passing
    with opened(origin=meddler.origin) as visit:
        visit.settled("bad")
        expect(visit.page.locator("#barrier")).to_contain_text("the server gave no attestation")


def test_sending_in_spite_of_it(opened: Open, meddler: Meddler) -> None:
    meddler.changing(REPORT, on(change_key))
    with opened(origin=meddler.origin) as visit:
        visit.settled("bad")
        visit.page.get_by_role("button", name="Send anyway").click()
        go = visit.page.get_by_role("button", name="Send without proof")
        expect(go).to_be_disabled()
        visit.page.keyboard.press("Escape")
        visit.page.fill("#prompt", "hello")
        expect(visit.page.locator("#send")).to_be_disabled()
        visit.override()
        expect(visit.page.locator("#banner")).to_contain_text("You are sending without proof.")
        expect(visit.page.locator("#lock")).to_have_text("Not sealed")
        answer = visit.answered("hello")
        expect(answer.locator(".prose")).to_have_text("hello")
        assert visit.badge(answer) in ("none", "bad", "open")
        visit.page.reload()
        visit.settled("bad")
        expect(visit.page.locator("#barrier")).to_be_visible()


def test_who_sends_without_seal_has_not_accepted_a_failure(opened: Open, meddler: Meddler) -> None:
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        visit.unseal()
        visit.answered("hello")
        meddler.changing(REPORT, on(change_key))
        visit.page.get_by_role("button", name="Check again").click()
        visit.page.locator("#chip[data-state=bad]").wait_for(timeout=PATIENCE)
        expect(visit.page.locator("#barrier")).to_be_visible()
        visit.page.fill("#prompt", "hello")
        expect(visit.page.locator("#send")).to_be_disabled()


def change_hash(kind: str) -> Callable[[Any], None]:
    def change(receipt: Any) -> None:
        for event in receipt["event_log"]:
            if event["type"] == kind:
                event["body_hash"] = OTHER

    return change


def sign_otherwise(receipt: Any) -> None:
    receipt["signature"] = receipt["signature"][:-2] + ("00" if receipt["signature"][-2:] != "00" else "01")


BROKEN_RECEIPTS: dict[str, tuple[Callable[[Any], None], set[str]]] = {
    "signature": (sign_otherwise, {"receipt.2"}),
    "request": (change_hash("request.received"), {"receipt.2", "receipt.4"}),
    "response": (change_hash("response.returned"), {"receipt.2", "receipt.5"}),
    "keyset": (
        lambda receipt: receipt.update(workload_keyset_digest="sha256:" + "ab" * 32),
        {"receipt.2", "receipt.3"},
    ),
    "model": (lambda receipt: receipt.update(model="acme/another"), {"receipt.2", "receipt.7"}),
    "time": (lambda receipt: receipt.update(served_at=receipt["served_at"] + 10**8), {"receipt.2", "receipt.9"}),
    "no receipt": (lambda receipt: receipt.clear(), {"receipt.1"}),
}


@pytest.mark.parametrize(("change", "steps"), BROKEN_RECEIPTS.values(), ids=BROKEN_RECEIPTS)
def test_a_receipt_that_was_tampered_with(
    opened: Open, meddler: Meddler, change: Callable[[Any], None], steps: set[str]
) -> None:
    meddler.changing(RECEIPTS, on(change))
    with opened(origin=meddler.origin) as visit:
        visit.settled("development")
        assert_badge_is_red(visit, steps)


def assert_badge_is_red(visit: Visit, steps: set[str], text: str = "hello") -> None:
    answer = visit.answered(text)
    assert visit.badge(answer) == "bad"
    assert visit.failed(".turn.assistant:last-child .receipt") == steps
    expect(answer.locator(".badge")).to_contain_text(f"Receipt failed: {min(steps)}")
    expect(answer.locator(".broken")).to_contain_text(min(steps))
    expect(visit.page.locator("#proof .chain li").last).to_have_attribute("data-look", "fail")


def test_an_answer_that_was_tampered_with_in_clear(opened: Open, meddler: Meddler) -> None:
    meddler.changing(CHAT, lambda body: body.replace(b"stop", b"sTop"))
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        visit.unseal()
        assert_badge_is_red(visit, {"receipt.5"})


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b'"content":"', b'"content":"0', 2),
        lambda body: body[: len(body) // 2],
        lambda body: body.replace(b"data: [DONE]\n\n", b""),
        lambda body: body.replace(b'"delta":{"content":"', b'"delta":{"content":"plain words","x":"', 1),
    ],
    ids=["a bit of a field", "cut off", "no end", "in clear"],
)
def test_an_answer_that_was_tampered_with_under_seal(
    opened: Open, meddler: Meddler, change: Callable[[bytes], bytes]
) -> None:
    """What isn't authentic is not shown as the answer; the badge is red."""
    meddler.changing(CHAT, change)
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        answer = visit.answered("hello")
        assert visit.badge(answer) == "bad"
        expect(answer.locator(".problem")).to_be_visible()
        assert "plain words" not in answer.inner_text()


def test_the_answer_to_another_request(opened: Open, meddler: Meddler) -> None:
    """Somebody answers with what the server said before, receipt and all."""
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        visit.unseal()
        visit.answered("the first")
        (first,) = [one for one in meddler.seen if one.path == CHAT]
        meddler.meddle = lambda passing: first if passing.path == CHAT else passing
        assert_badge_is_red(visit, {"receipt.4"}, "the second")


def test_no_receipt_is_named(opened: Open, meddler: Meddler) -> None:
    def without(passing: Passing) -> Passing:
        return replace(
            passing, headers={name: it for name, it in passing.headers.items() if name.lower() != "x-receipt-id"}
        )

    meddler.meddle = without
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        answer = visit.answered("hello")
        assert visit.badge(answer) == "none"
        expect(answer.locator(".problem")).to_contain_text("no receipt")


def test_an_answer_in_clear_to_a_sealed_request(opened: Open, meddler: Meddler) -> None:
    def in_clear(passing: Passing) -> Passing:
        return replace(passing, headers=passing.headers | {"x-e2ee-applied": "false"})

    meddler.meddle = in_clear
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        answer = visit.answered("hello")
        expect(answer.locator(".problem")).to_contain_text("in clear")
        assert visit.badge(answer) in ("bad", "open")
        assert "hello" not in answer.locator(".prose > :not(.problem)").all_inner_texts()


# Over time -----------------------------------------------------------------------------------------------------------


def test_a_workload_that_was_remembered_and_changes(opened: Open, meddler: Meddler, echo: EchoServer) -> None:
    with opened(origin=meddler.origin) as visit:
        visit.settled()
        visit.page.get_by_role("button", name="Remember this workload").click()
        visit.page.goto(f"{visit.origin}/?again#key={echo.keys[0]}")
        visit.settled("development")
        pinned = json.loads(visit.page.evaluate("localStorage.getItem('confide.policy')"))
        pinned["models"]["manifests"] = [OTHER]
        visit.page.evaluate("text => localStorage.setItem('confide.policy', text)", json.dumps(pinned))
        visit.page.get_by_role("button", name="Check again").click()
        visit.page.locator("#chip[data-state=bad]").wait_for(timeout=PATIENCE)
        assert "report.8" in visit.failed()


def test_without_a_network_but_the_server(opened: Open, echo: EchoServer) -> None:
    """Every request that isn't the server's is cut, and counted: there is none."""
    cut: list[str] = []
    with opened() as visit:
        visit.page.route(
            lambda url: not url.startswith(visit.origin),
            lambda route: (cut.append(route.request.url), route.abort()),
        )
        visit.page.goto(f"{visit.origin}/?again#key={echo.keys[0]}")
        visit.settled("development")
        assert visit.badge(visit.answered("hello ![x](https://e.example/p.png)")) == "development"
        assert cut == []


def test_a_server_whose_keys_have_changed(opened: Open, tmp_path: Path) -> None:
    """Its answer is under keys that nobody verified: they are verified first, and the message is sent once more."""
    with (
        echoing(tmp_path) as server,
        meddling(server.port) as meddler,
        opened(origin=meddler.origin, key=server.keys[0]) as visit,
    ):
        visit.settled("development")
        assert visit.badge(visit.answered("before")) == "development"
        server.end()
        server.start()
        meddler.port = server.port
        answer = visit.answered("after")
        expect(answer.locator(".prose")).to_have_text("after")
        assert visit.badge(answer) == "development"
        asked = [one for one in meddler.seen if one.path == CHAT]
        assert [one.status for one in asked] == [200, 400, 200]
        assert len([one for one in meddler.seen if one.path == REPORT]) == 2


def test_nothing_goes_out_once_a_check_has_failed(opened: Open, meddler: Meddler) -> None:
    """Not by answering again, editing, or giving a tool's result either."""
    with opened(origin=meddler.origin) as visit:
        visit.settled("development")
        answer = visit.answered("hello")
        meddler.changing(REPORT, on(change_key))
        visit.page.get_by_role("button", name="Check again").click()
        visit.page.locator("#chip[data-state=bad]").wait_for(timeout=PATIENCE)
        before = len([one for one in meddler.seen if one.path == CHAT])
        answer.get_by_role("button", name="Answer again").click()
        expect(visit.page.locator("#note")).to_contain_text("Sending is blocked")
        visit.page.locator(".turn.user").hover()
        visit.page.get_by_role("button", name="Edit and send again").click()
        visit.page.get_by_role("button", name="Send again", exact=True).click()
        visit.page.wait_for_timeout(300)
        assert len([one for one in meddler.seen if one.path == CHAT]) == before
        expect(visit.answers).to_have_count(1)


def test_where_the_browser_gives_no_cryptography(opened: Open, echo: EchoServer) -> None:
    """As on a page that came without TLS from another machine: nothing passes, and the reason is told."""
    with opened(origin=f"http://far.example:{echo.port}") as visit:
        assert visit.settled() in ("open", "bad")
        assert "open it over https" in visit.page.locator("#proof").text_content()  # type: ignore[operator]
        expect(visit.page.locator("#barrier")).to_be_visible()
        visit.override()
        answer = visit.answered("hello")
        expect(answer.locator(".prose")).to_have_text("hello")
        assert visit.badge(answer) not in ("good", "development")
        assert all("Cross-Origin-Opener-Policy header has been ignored" in one for one in visit.wrong)
        visit.wrong.clear()  # which browsers say of every page without TLS
