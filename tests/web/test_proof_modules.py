"""The page's modules as text: typed, small, the steps that Python has, and asking nobody but the service."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
from pathlib import Path

from confide.verify.audit import catalogue
from confide.verify.roots import pinned
from confide.verify.snp_chain import pinned_issuer_files
from confide.wire.aci import SECP256K1_SUITE
from tests.client.world import MODEL, World
from tests.clients.environments import node_environment
from tests.web.cases import Json, Recorder, answers, quotes, reports
from tests.web.running import HERE, PROOF, in_node

MODULES = sorted(PROOF.glob("*.js"))
MOST_BYTES = 420_000
NAMED = (*("http://standards.iso.org/iso/19770/-2/2015/schema.xsd", "http://www.w3.org/", "https://kdsintf.amd.com"),)
"""Namespaces, and AMD's service as people are told of it: what modules name and never ask."""


def test_there_are_modules() -> None:
    assert {"index.js", "attest.js", "exchange.js", "catalogue.js"} <= {path.name for path in MODULES}


def test_every_type_holds() -> None:
    """JSDoc types, checked by TypeScript as strictly as it can."""
    environment = node_environment(HERE)
    compiler = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [str(environment.program), str(compiler), "-p", str(HERE / "tsconfig.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_their_layout_is_one() -> None:
    """Prettier's; what is generated is laid out by its generator."""
    environment = node_environment(HERE)
    generated = ("catalogue.js", "pinned.js")
    files = [str(path) for path in (*MODULES, *HERE.glob("*.mjs")) if path.name not in generated]
    program = str(HERE / "node_modules" / "prettier" / "bin" / "prettier.cjs")
    command = [str(environment.program), program, "--config", str(HERE / ".prettierrc.json"), "--check", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_are_small() -> None:
    whole = b"".join(path.read_bytes() for path in MODULES)
    assert len(whole) < MOST_BYTES
    assert len(gzip.compress(whole)) < MOST_BYTES / 3


def test_nothing_is_asked_of_anybody_else_and_no_text_is_run() -> None:
    for path in MODULES:
        text = path.read_text()
        for name in NAMED:
            text = text.replace(name, "")
        assert not re.search(
            r"https?://|\beval\(|\bFunction\(|innerHTML|localStorage|XMLHttpRequest|\bwindow\b", text
        ), path
        code = re.sub(r"^ \*.*$", "", text, flags=re.MULTILINE)  # without what stands in comments
        imported = re.findall(r'(?:from|import\() ?"([^"]+)"', code)
        assert all(name.startswith("./") and (PROOF / name).exists() for name in imported), path


def test_steps_and_pinned_certificates_are_those_of_python(tmp_path: Path) -> None:
    """Ids, titles and what each proves; roots and AMD's issuers, byte for byte. ``make docs`` writes them."""
    program = f"""
        import {{ STEPS }} from "{PROOF.as_uri()}/catalogue.js";
        import {{ ROOTS, AMD_ISSUERS }} from "{PROOF.as_uri()}/pinned.js";
        console.log(JSON.stringify([STEPS, ROOTS, AMD_ISSUERS]));
    """
    file = tmp_path / "steps.mjs"
    file.write_text(program)
    done = subprocess.run(["node", str(file)], capture_output=True, text=True, check=True)
    steps, roots, issuers = json.loads(done.stdout)
    python = {group.name: group for group in catalogue()}
    assert {"report", "tdx", "snp", "dstack", "gpu", "gpus", "rim", "receipt", "session", "claims"} <= steps.keys()
    for name, group in steps.items():
        assert [(one["id"], one["title"], one["proves"]) for one in group["steps"]] == [
            (one.id, one.title, one.proves) for one in python[name].steps
        ]
    assert [(one["name"], one["vendor"], one["use"], base64.b64decode(one["der"])) for one in roots] == [
        (one.name, one.vendor, one.use, one.der) for one in pinned()
    ]
    assert {name: base64.b64decode(der) for name, der in issuers.items()} == pinned_issuer_files()


def test_importing_them_does_nothing(tmp_path: Path) -> None:
    """No request, no timer, no output."""
    program = f"""
        const refuse = () => {{ throw new Error("nothing may be done yet"); }};
        Object.assign(globalThis, {{ fetch: refuse, setTimeout: refuse, setInterval: refuse }});
        await import("{PROOF.as_uri()}/index.js");
    """
    file = tmp_path / "importing.mjs"
    file.write_text(program)
    done = subprocess.run(["node", str(file)], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


# What not every browser has ------------------------------------------------------------------------------------------


def test_without_ed25519_receipts_are_not_checked(tmp_path: Path) -> None:
    (case,) = [
        one for one in _receipts() if not any(step["outcome"] == "fail" for step in one["expected"]["findings"])
    ][:1]
    (found,) = in_node(tmp_path, "Ed25519")("outcomes", [case])
    steps = {one["step"]: one for one in found["findings"]}
    assert (steps["receipt.2"]["outcome"], steps["receipt.2"]["required"]) == ("not checked", True)
    assert steps["receipt.2"]["detail"].startswith("this browser can't")
    assert (steps["receipt.4"]["outcome"], found["good"]) == ("pass", False)


def _receipts() -> list[Json]:
    recorder = Recorder()
    answers(recorder)
    return [one for one in recorder.cases if one["kind"] == "receipt"]


def _talk(folder: Path, world: World, missing: str) -> Json:
    pem = world.pki.roots_pem().decode()
    found: Json = in_node(folder, missing)("talk", {"url": world.url, "key": world.key, "model": MODEL, "pem": pem})
    return found


def test_without_x25519_the_other_suite_is_taken(tmp_path: Path, served: World) -> None:
    found = _talk(tmp_path, served, "X25519")
    assert (found["suite"], found["answer"]["consistent"], found["verdict"]["exit_code"]) == (SECP256K1_SUITE, True, 3)


def test_without_x25519_and_the_other_suite_nothing_is_sealed_and_the_channel_says_so(
    tmp_path: Path, only_x25519: World
) -> None:
    found = _talk(tmp_path, only_x25519, "X25519")
    steps = {one["step"]: one["outcome"] for one in found["verdict"]["findings"]}
    assert (found["sealed"], steps["report.10"], found["verdict"]["exit_code"]) == (False, "not checked", 5)


def test_without_web_crypto_nothing_passes(tmp_path: Path) -> None:
    recorder = Recorder()
    reports(recorder)
    quotes(recorder)
    for found in in_node(tmp_path, "all")("outcomes", recorder.cases):
        for one in found["findings"]:
            assert one["outcome"] != "pass" or one["step"] == "tdx.1", one  # a quote's layout can be read all the same


def test_a_check_that_breaks_off_has_failed(tmp_path: Path) -> None:
    """Whatever is thrown in a step is its failure, and what was not reached is not checked."""
    program = f"""
        import {{ Ledger, judge }} from "{PROOF.as_uri()}/verdict.js";
        const ledger = new Ledger();
        const made = await ledger.group("receipt", async (checks) => {{
            await checks.check(2, () => null.nothing);
            await checks.check(3, async () => {{ throw "a text"; }});
            await checks.check(4, () => "said");
            await checks.need(5, () => {{ throw new RangeError("no"); }});
            await checks.check(6, () => "never reached");
        }});
        const verdict = judge(ledger, {{ subject: "", at: 0, policy: null, digest: "", claims: {{}} }});
        console.log(JSON.stringify([ledger.findings, made.failed, verdict]));
    """
    file = tmp_path / "breaking.mjs"
    file.write_text(program)
    done = subprocess.run(["node", str(file)], capture_output=True, text=True, check=True)
    findings, failed, verdict = json.loads(done.stdout)
    outcomes = {one["step"]: one["outcome"] for one in findings}
    assert outcomes == dict.fromkeys(("receipt.2", "receipt.3", "receipt.5"), "fail") | {
        "receipt.4": "pass"
    } | dict.fromkeys(("receipt.1", "receipt.6", "receipt.7", "receipt.8", "receipt.9"), "not checked")
    assert failed
    assert (verdict["exit_code"], verdict["ok"], verdict["verdict"]) == (1, False, "failed")
