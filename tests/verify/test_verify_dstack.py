"""dstack guests: recorded ones verify, each step fails alone, and nothing that is proven can be changed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.attest.dev import DevMachine
from confide.attest.dev_pki import create_pki
from confide.verify import guest as guest_module
from confide.verify.dstack import DSTACK, verify_dstack
from confide.verify.material import Item, Material
from confide.verify.policy import DstackPolicy, TdMeasurement, TdxPolicy
from confide.verify.verdict import Ledger, Outcome
from confide.wire import mrconfig
from confide.wire.eventlog import RUNTIME_EVENT, build_events
from confide.wire.tdx import TdReport, parse_quote
from tests.verify import dstack_maker as made
from tests.verify.dstack_maker import (
    APP_ID,
    CA_KEY,
    COMPOSE_HASH,
    DSTACK_POLICY,
    EVENTS,
    IMAGE,
    INSTANCE_ID,
    NO_POLICY,
    PROVIDER,
    Guest,
    detail,
    document,
    failed,
    made_vm_config,
    measured,
    missing,
    policy,
    recorded,
    replaced,
    report,
    runtime,
    unmade,
)

STEPS = [step.id for step in DSTACK.steps]
GOOD = Guest()
ZEROS = "00" * 32


def launched(config: bytes, **members: Any) -> Guest:
    """The made guest, started with another MRCONFIGID."""
    td = report(mr_config_id=config.ljust(48, b"\0"))
    return Guest(**({"td": td, "info": made.info(td)} | members))


def launch_document(**members: Any) -> str:
    own = {
        "version": 3,
        "compose_hash": COMPOSE_HASH.hex(),
        "key_provider": "kms",
        "key_provider_id": CA_KEY.hex(),
        "app_id": APP_ID.hex(),
        "instance_id": INSTANCE_ID.hex(),
    }
    return json.dumps({name: value for name, value in (own | members).items() if value is not None})


def launched_by(text: str, **members: Any) -> Guest:
    """The made guest, started with a document of version 3."""
    return launched(mrconfig.version_3(text.encode()), vm_config=made_vm_config(mr_config=text), **members)


def info_with(name: str, value: object) -> Guest:
    return GOOD.changed(info=dict(GOOD.info or {}) | {name: value})


def tcb_with(name: str, value: object) -> Guest:
    tcb = json.loads((GOOD.info or {})["tcb_info"])
    return info_with("tcb_info", json.dumps(tcb | {name: value}))


def config(**members: Any) -> Guest:
    return GOOD.changed(vm_config=made_vm_config(**members))


def accepting(**members: Any) -> Guest:
    return GOOD.changed(policy=policy(msgspec.structs.replace(DSTACK_POLICY, **members)))


def edit(place: int, **members: Any) -> Callable[[list[Any]], None]:
    def change(events: list[Any]) -> None:
        events[place].update(members)

    return change


def _forged(events: list[Any], name: str, payload: str) -> None:
    """Weakness W4 of other verifiers: another type keeps the digest and lets the payload say anything."""
    forged = next(event for event in events if event["event"] == name)
    forged["digest"] = next(event for event in EVENTS if event.event == name).measured().hex()
    forged.update(event_type=1, event_payload=payload)


def _nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


# Good ones -----------------------------------------------------------------------------------------------------------


def test_every_step_passes_on_the_made_guest() -> None:
    facts, ledger = GOOD.verify()
    assert [finding.step for finding in ledger.findings] == STEPS
    assert {finding.outcome for finding in ledger.findings} == {Outcome.PASS}
    assert facts is not None
    assert facts.os_measured
    assert facts.app_compose == made.APP_COMPOSE
    shown = ledger.facts["dstack"]
    assert json.loads(json.dumps(shown)) == shown
    assert shown["compose_hash"] == COMPOSE_HASH.hex()
    assert shown["key_provider"] == {"name": "kms", "id": CA_KEY.hex()}
    assert shown["application_events"] == ["my-event"]
    assert "my-event" not in shown["events"]


def test_values_that_need_not_be_text_may_be_objects() -> None:
    vm_config, tcb = made_vm_config(), json.loads((GOOD.info or {})["tcb_info"])
    _, ledger = GOOD.changed(vm_config=vm_config, info=dict(GOOD.info or {}) | {"tcb_info": tcb}).verify()
    assert {finding.outcome for finding in ledger.findings} == {Outcome.PASS}


def test_a_recorded_guest_of_0_6_verifies_with_its_os_image() -> None:
    facts, ledger = recorded("getquote_0_6").verify()
    assert not failed(ledger)
    assert not missing(ledger)
    assert unmade(ledger) == ["dstack.4", "dstack.7", *STEPS[7:]]
    assert facts is not None
    assert facts.os_measured
    assert facts.os_image_hash == "e6f5cfec20c02e7b97baa213d0f718020b55e040172d90ccbcb946d56c8b09db"
    assert ledger.facts["dstack"]["os_image_event"] == (
        "07a2388c7a6a1b6a646d443f1517990a4ec294471d63146cda9d56972765051d"
    )


def test_a_recorded_guest_of_0_5_verifies_without_its_os_image() -> None:
    """It has no KMS, so it measured no image; MRCONFIGID is zero; its application measured one more event."""
    facts, ledger = recorded("getquote_0_5").verify()
    assert not failed(ledger)
    assert not missing(ledger)
    assert unmade(ledger) == ["dstack.4", "dstack.5", "dstack.6", "dstack.7", *STEPS[7:]]
    assert facts is not None
    assert not facts.os_measured
    assert facts.os_image_hash is None
    assert facts.key_provider is not None
    assert facts.key_provider["name"] == "local-sgx"
    assert ledger.facts["dstack"]["application_events"] == ["LIUM_MINER_HOTKEY"]


def test_the_recorded_guest_of_the_simulator_verifies() -> None:
    facts, ledger = recorded("simulator").verify()
    assert not failed(ledger)
    assert not missing(ledger)
    assert facts is not None
    assert facts.app_id == "5bb4ff9a3837357f19dc176407a5709c62eb6c56"
    assert facts.os_image_hash == "e61be43dd1cc6a6f5edefd7c51b608983780839b0000ce60dd99737dcffe09b9"


def test_a_development_machine_verifies() -> None:
    machine = DevMachine(create_pki(datetime.fromtimestamp(made.NOW, UTC)))
    machine.emit("my-event", b"\1")
    ledger = Ledger()
    facts = verify_dstack(
        ledger,
        GOOD.changed(policy=NO_POLICY).context(),
        parse_quote(machine.quote(bytes(64))).report,
        event_log=machine.event_log(),
        app_compose=machine.app_compose,
        vm_config=machine.vm_config(),
        info=machine.info(),
        subject="gateway",
    )
    assert not failed(ledger)
    assert unmade(ledger) == ["dstack.6", *STEPS[7:]]
    assert facts is not None
    assert facts.app_compose == machine.app_compose
    assert set(ledger.facts) == {"dstack gateway"}


@pytest.mark.parametrize(
    "launch",
    [
        launched(mrconfig.version_2(COMPOSE_HASH, APP_ID, "kms", CA_KEY)),
        launched_by(launch_document()),
        launched_by(launch_document(app_id=None, instance_id=None, key_provider_id=None, version=None)),
        launched_by(json.dumps(json.loads(launch_document()), indent=2)),
    ],
)
def test_all_forms_of_the_launch_configuration_pass(launch: Guest) -> None:
    _, ledger = launch.verify()
    assert {finding.outcome for finding in ledger.findings} == {Outcome.PASS}


def test_the_launch_document_may_bind_gpu_policy_and_scripts() -> None:
    scripts = [hashlib.sha256(text).digest() for text in (b"one", b"two", b"one")]
    bound = {"gpu_policy_hash": "ab" * 32, "init_script_hashes": [one.hex() for one in scripts]}
    extra = (runtime("gpu-policy-hash", b"\xab" * 32), *(runtime("init-script-hash", one) for one in scripts))
    events = replaced("boot-mr-done", *extra, runtime("boot-mr-done"))
    for members, good in ((bound, True), (bound | {"init_script_hashes": []}, False), ({"gpu_policy_hash": ""}, False)):
        text = launch_document(**members)
        td = report(events, mr_config_id=mrconfig.version_3(text.encode()))
        _, ledger = measured(*events, td=td, vm_config=made_vm_config(mr_config=text)).verify()
        assert failed(ledger) == ([] if good else ["dstack.5"])


def test_a_launch_document_that_is_not_at_hand_is_said() -> None:
    _, ledger = launched(mrconfig.version_3(b"{}")).verify()
    assert unmade(ledger) == ["dstack.5"]
    assert "not at hand" in detail(ledger, "dstack.5")


def test_an_instance_without_an_id() -> None:
    _, ledger = measured(*replaced("instance-id", runtime("instance-id"))).verify()
    assert not failed(ledger)


# One step broken at a time -------------------------------------------------------------------------------------------

BREAKS: dict[str, tuple[str, Guest]] = {
    "no JSON": ("dstack.1", GOOD.changed(event_log="[")),
    "no list": ("dstack.1", GOOD.changed(event_log="{}")),
    "no UTF-8": ("dstack.1", GOOD.changed(event_log=b'[{"event":"\xff"}]')),
    "half a character": ("dstack.1", GOOD.changed(event_log='["\ud800"]')),
    "deep log": ("dstack.1", GOOD.changed(event_log="[" * 100_000)),
    "log too long": ("dstack.1", GOOD.changed(event_log=" " * (2 << 20) + "[]")),
    "too many events": ("dstack.1", measured(*EVENTS, *[runtime("x")] * 4096)),
    "long payload": ("dstack.1", measured(*EVENTS, runtime("x", bytes(guest_module.MOST_PAYLOAD + 1)))),
    "no such register": ("dstack.1", GOOD.with_log(edit(0, imr=4))),
    "short digest": ("dstack.1", GOOD.with_log(edit(0, digest="00"))),
    "payload without hex": ("dstack.1", GOOD.with_log(edit(9, event_payload="xy"))),
    "unknown version": ("dstack.1", GOOD.with_log(edit(9, version=3))),
    "boot event without digest": ("dstack.1", GOOD.with_log(edit(0, digest=""))),
    "RTMR0": ("dstack.2", GOOD.with_log(edit(0, digest="00" * 48))),
    "RTMR1": ("dstack.2", GOOD.with_log(edit(1, digest="00" * 48))),
    "RTMR2": ("dstack.2", GOOD.with_log(edit(4, digest="00" * 48))),
    "RTMR3": ("dstack.2", GOOD.with_log(edit(10, event_payload=ZEROS))),
    "stated digest": ("dstack.2", GOOD.with_log(edit(10, digest="00" * 48))),
    "event left out": ("dstack.2", GOOD.with_log(lambda events: events[:-1])),
    "no events": ("dstack.2", GOOD.changed(event_log="[]")),
    "events in another order": ("dstack.2", GOOD.with_log(lambda events: [*events[:9], events[10], events[9]])),
    "W4: forged payload": ("dstack.3", GOOD.with_log(lambda events: _forged(events, "compose-hash", ZEROS))),
    "foreign event in RTMR3": ("dstack.3", measured(*EVENTS, replace(EVENTS[0], imr=3))),
    "runtime event in RTMR0": ("dstack.3", measured(replace(runtime("x"), imr=0), *EVENTS, vm_config=None)),
    "no system-ready": ("dstack.3", measured(*replaced("system-ready"))),
    "system-ready twice": ("dstack.3", measured(*EVENTS, runtime("system-ready"))),
    "compose-hash twice": ("dstack.3", measured(*replaced("storage-fs", runtime("compose-hash", COMPOSE_HASH)))),
    "compose-hash too late": (
        "dstack.3",
        measured(*replaced("compose-hash"), runtime("compose-hash", COMPOSE_HASH)),
    ),
    "no app-id": ("dstack.3", measured(*replaced("app-id"))),
    "no instance-id": ("dstack.3", measured(*replaced("instance-id"))),
    "no key-provider": ("dstack.3", measured(*replaced("key-provider"))),
    "long app-id": ("dstack.3", measured(*replaced("app-id", runtime("app-id", bytes(21))))),
    "short compose-hash": ("dstack.3", measured(*replaced("compose-hash", runtime("compose-hash", bytes(31))))),
    "short os-image-hash": ("dstack.3", measured(*replaced("os-image-hash", runtime("os-image-hash", b"")))),
    "colon in a name": ("dstack.3", measured(*replaced("storage-fs", runtime("storage:fs")))),
    "key provider without JSON": ("dstack.3", measured(*replaced("key-provider", runtime("key-provider", b"tpm")))),
    "key provider without UTF-8": (
        "dstack.3",
        measured(*replaced("key-provider", runtime("key-provider", b'{"name":"kms","id":"","x":"\xff"}'))),
    ),
    "key provider without hex": (
        "dstack.3",
        measured(*replaced("key-provider", runtime("key-provider", b'{"name":"kms","id":"zz"}'))),
    ),
    "another description": ("dstack.4", GOOD.changed(app_compose=made.APP_COMPOSE + " ", info=None)),
    "description too long": ("dstack.4", GOOD.changed(app_compose=" " * (guest_module.MOST_TEXT + 1), info=None)),
    "description of half characters": ("dstack.4", GOOD.changed(app_compose="\ud800", info=None)),
    "launch for another application": ("dstack.5", launched(mrconfig.version_1(bytes(32)))),
    "launch with trailing bytes": ("dstack.5", launched(mrconfig.version_1(COMPOSE_HASH)[:47] + b"\1")),
    "launch of version 2": ("dstack.5", launched(mrconfig.version_2(COMPOSE_HASH, APP_ID, "none", CA_KEY))),
    "launch of version 4": ("dstack.5", launched(b"\4" + COMPOSE_HASH)),
    "launch of version 0": ("dstack.5", launched(b"\0" + COMPOSE_HASH)),
    "launch by another document": (
        "dstack.5",
        launched(mrconfig.version_3(b"{}"), vm_config=made_vm_config(mr_config=launch_document())),
    ),
    "launch for another compose hash": ("dstack.5", launched_by(launch_document(compose_hash=ZEROS))),
    "launch for another app": ("dstack.5", launched_by(launch_document(app_id="00" * 20))),
    "launch for another instance": ("dstack.5", launched_by(launch_document(instance_id="00" * 20))),
    "launch for another provider": ("dstack.5", launched_by(launch_document(key_provider="none"))),
    "launch for another KMS": ("dstack.5", launched_by(launch_document(key_provider_id="00"))),
    "launch with a GPU policy": ("dstack.5", launched_by(launch_document(gpu_policy_hash="00"))),
    "launch with scripts": ("dstack.5", launched_by(launch_document(init_script_hashes=["00" * 32]))),
    "launch with unknown members": ("dstack.5", launched_by(launch_document(more=1))),
    "launch document too long": ("dstack.5", launched_by(launch_document() + " " * mrconfig.MOST_BYTES)),
    "launch document is no JSON": ("dstack.5", launched_by("[")),
    "another app id repeated": ("dstack.7", info_with("app_id", "00" * 20)),
    "a number repeated": ("dstack.7", info_with("compose_hash", 1)),
    "tcb_info is no JSON": ("dstack.7", info_with("tcb_info", "{")),
    "something deep repeated": ("dstack.7", info_with("app_id", _nested())),
    "a deep image hash": ("dstack.6", config(os_image_hash=_nested())),
    "tcb_info is a list": ("dstack.7", info_with("tcb_info", [1])),
    "another MRTD": ("dstack.6", GOOD.changed(td=report(mr_td=bytes(48)), info=None)),
    "another kernel": ("dstack.6", measured(*EVENTS, replace(EVENTS[1], digest=bytes(48)))),
    "another command line": ("dstack.6", measured(*EVENTS, replace(EVENTS[4], digest=bytes(48)))),
    "another image hash": ("dstack.6", config(os_image_hash=ZEROS)),
    "document without base64": ("dstack.6", config(tdx_measurement=document() | {"measurement": "?"})),
    "document is a number": ("dstack.6", config(tdx_measurement=7)),
    "vm_config is no JSON": ("dstack.6", GOOD.changed(vm_config="{")),
    "vm_config is a list": ("dstack.6", GOOD.changed(vm_config="[]")),
    "OS image": ("dstack.8", accepting(os_images=(ZEROS,))),
    "compose hash": ("dstack.9", accepting(compose_hashes=(ZEROS,))),
    "app id": ("dstack.10", accepting(app_ids=("00" * 20,))),
    "key provider": ("dstack.11", accepting(key_providers=("00",))),
    "key provider that is none": (
        "dstack.11",
        measured(
            *replaced("key-provider", runtime("key-provider", b'{"name":"none","id":""}')),
            policy=accepting(key_providers=("02" * 33,)).policy,
        ),
    ),
}


@pytest.mark.parametrize(("step", "guest"), BREAKS.values(), ids=[f"{v[0]} {k}" for k, v in BREAKS.items()])
def test_one_thing_broken_fails_its_own_step(step: str, guest: Guest) -> None:
    facts, ledger = guest.verify()
    assert failed(ledger) == [step]
    assert [finding.step for finding in ledger.findings] == STEPS
    if step in STEPS[:3]:
        assert facts is None
        assert missing(ledger) == STEPS[STEPS.index(step) + 1 :]
    else:
        assert not set(missing(ledger)) - {"dstack.8"}


def test_every_step_is_broken_by_something() -> None:
    assert {step for step, _ in BREAKS.values()} == set(STEPS)


def test_all_policy_failures_are_collected() -> None:
    other = DstackPolicy(compose_hashes=(ZEROS,), os_images=(ZEROS,), app_ids=("00" * 20,), key_providers=("00",))
    _, ledger = GOOD.changed(policy=policy(other)).verify()
    assert failed(ledger) == STEPS[7:]


def test_a_version_2_digest_of_a_key_provider_that_is_not_known() -> None:
    events = replaced("key-provider", runtime("key-provider", b'{"name":"other","id":""}'))
    td = report(events, mr_config_id=b"\2".ljust(48, b"\0"))
    _, ledger = measured(*events, td=td, policy=NO_POLICY).verify()
    assert failed(ledger) == ["dstack.5"]


# What is missing -----------------------------------------------------------------------------------------------------


def test_without_a_log_nothing_is_needed_by_a_policy_that_asks_for_nothing() -> None:
    facts, ledger = GOOD.changed(event_log=None, policy=NO_POLICY).verify()
    assert facts is None
    assert unmade(ledger) == STEPS
    assert "dstack" not in ledger.facts


@pytest.mark.parametrize("name", DstackPolicy.__struct_fields__)
@pytest.mark.parametrize("log", [None, "", b""])
def test_without_a_log_everything_is_missing_that_a_policy_names(name: str, log: str | bytes | None) -> None:
    wanted = policy(DstackPolicy(**{name: getattr(DSTACK_POLICY, name)}))
    _, ledger = GOOD.changed(event_log=log, policy=wanted).verify()
    assert missing(ledger) == STEPS


def test_an_os_image_counts_only_with_its_document_or_pinned_registers() -> None:
    alone = GOOD.changed(vm_config=None)
    _, ledger = alone.verify()
    assert missing(ledger) == ["dstack.6"]
    assert not failed(ledger)

    td = GOOD.td
    pin = TdMeasurement(mr_td=td.mr_td.hex(), rtmr0=td.rtmr0.hex(), rtmr1=td.rtmr1.hex(), rtmr2=td.rtmr2.hex())
    _, ledger = alone.changed(policy=policy(tdx=TdxPolicy(measurements=(pin,)))).verify()
    assert not missing(ledger)
    assert unmade(ledger) == ["dstack.6"]
    assert "pins" in detail(ledger, "dstack.6")

    for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2"):
        for other in (None, "00" * 48):
            weaker = TdxPolicy(measurements=(msgspec.structs.replace(pin, **{name: other}),))
            _, ledger = alone.changed(policy=policy(tdx=weaker)).verify()
            assert missing(ledger) == ["dstack.6"]


@pytest.mark.parametrize("name", ["compose_hashes", "app_ids", "key_providers"])
def test_nothing_of_a_log_counts_without_naming_the_os(name: str) -> None:
    """A host may boot an OS of its own, which measures whatever hashes it likes."""
    wanted = DstackPolicy(**{name: getattr(DSTACK_POLICY, name)})
    _, ledger = GOOD.changed(policy=policy(wanted)).verify()
    assert missing(ledger) == ["dstack.8"]
    assert "unknown OS" in detail(ledger, "dstack.8")
    pinned = TdxPolicy(measurements=(TdMeasurement(mr_td=GOOD.td.mr_td.hex()),))
    _, ledger = GOOD.changed(policy=policy(wanted, tdx=pinned)).verify()
    assert not missing(ledger)


def test_an_os_image_that_was_never_measured_is_missing() -> None:
    events = replaced("os-image-hash")
    _, ledger = measured(*events, vm_config=None).verify()
    assert missing(ledger) == ["dstack.6", "dstack.8"]
    facts, ledger = measured(*events).verify()
    assert not missing(ledger)
    assert facts is not None
    assert facts.os_image_hash == IMAGE.image_hash.hex()


def test_the_measured_image_wins_over_the_one_that_was_told() -> None:
    """The event repeats what the KMS said, the registers say what booted."""
    events = replaced("os-image-hash", runtime("os-image-hash", bytes(32)))
    facts, ledger = measured(*events).verify()
    assert not failed(ledger)
    assert facts is not None
    assert facts.os_image_hash == IMAGE.image_hash.hex()
    assert f"key provider names {ZEROS}" in detail(ledger, "dstack.6")
    _, ledger = measured(*events, policy=accepting(os_images=(ZEROS,)).policy).verify()
    assert failed(ledger) == ["dstack.8"]


def test_the_document_of_the_image_may_come_from_elsewhere() -> None:
    other = document(checksums=b"")
    good = Item("dstack-image", "", json.dumps(document()).encode())
    changed = made.MEASUREMENT | {"image": made.MEASUREMENT["image"] | {"initrd_sha384": bytes(48)}}
    unused = Item("dstack-image", "", json.dumps(document(changed)).encode())
    _, ledger = GOOD.changed(vm_config=None, material=Material((unused, good))).verify()
    assert {finding.outcome for finding in ledger.findings} == {Outcome.PASS}
    _, ledger = GOOD.changed(vm_config=None, material=Material((unused,))).verify()
    assert missing(ledger) == ["dstack.6"]
    broken = Item("dstack-image", "", json.dumps(other).encode())
    _, ledger = GOOD.changed(vm_config=None, material=Material((broken,))).verify()
    assert failed(ledger) == ["dstack.6"]


def test_a_root_of_signatures_is_not_compared_with_the_measured_key() -> None:
    signing = accepting(key_providers=("02" * 33,))
    _, ledger = signing.verify()
    assert unmade(ledger) == ["dstack.11"]
    _, ledger = accepting(key_providers=("02" * 33, "00")).verify()
    assert failed(ledger) == ["dstack.11"]


@pytest.mark.parametrize("empty", [None, {}, {"app_name": "x"}, {"app_id": "", "tcb_info": {}}])
def test_nothing_repeated_is_said(empty: Any) -> None:
    _, ledger = GOOD.changed(info=empty).verify()
    assert unmade(ledger) == ["dstack.7"]


def test_an_image_that_nobody_measured_may_be_repeated() -> None:
    """A guest without a KMS measures no image; what its agent calls one contradicts nothing."""
    info = {"os_image_hash": ZEROS, "app_id": APP_ID.hex()}
    _, ledger = measured(*replaced("os-image-hash"), vm_config=None, info=info, policy=NO_POLICY).verify()
    assert not failed(ledger)
    assert "dstack.7" not in unmade(ledger)


def test_an_aggregate_without_a_launch_configuration() -> None:
    td = report(mr_config_id=bytes(48))
    expected = hashlib.sha256(b"".join((td.mr_td, *td.rtmrs))).hexdigest()
    _, ledger = GOOD.changed(td=td, info={"mr_aggregated": expected.upper()}).verify()
    assert not failed(ledger)
    assert unmade(ledger) == ["dstack.5"]


# Mutations -----------------------------------------------------------------------------------------------------------


def _flipped(text: str, place: int, bit: int = 1) -> str:
    data = bytearray.fromhex(text)
    data[place % len(data)] ^= bit
    return data.hex()


def _event_mutations(guest: Guest) -> Iterator[Guest]:
    """Every field of every event that a register covers, and events left out, doubled, moved and added."""
    for place, event in enumerate(json.loads(guest.event_log or "")):
        is_runtime = event["event_type"] == RUNTIME_EVENT
        yield guest.with_log(edit(place, imr=(event["imr"] + 1) % 4))
        yield guest.with_log(edit(place, event_type=7 if is_runtime else RUNTIME_EVENT))
        yield guest.with_log(lambda events, place=place: events[:place] + events[place + 1 :])
        yield guest.with_log(lambda events, place=place: [*events[: place + 1], *events[place:]])
        yield guest.with_log(lambda events, place=place: [*events, events[place]])
        for byte in range(0, 48, 7):
            yield guest.with_log(edit(place, digest=_flipped(event["digest"] or "00" * 48, byte)))
        if is_runtime:
            yield guest.with_log(edit(place, version=2 if event.get("version", 1) == 1 else 1))
            yield guest.with_log(edit(place, event=event["event"] + "x"))
            yield guest.with_log(edit(place, event=event["event"][:-1]))
            yield guest.with_log(edit(place, event=event["event"].upper().swapcase() + "\0"))
            yield guest.with_log(edit(place, event_payload=event["event_payload"] + "00"))
            for byte in range(len(event["event_payload"]) // 2):
                yield guest.with_log(edit(place, event_payload=_flipped(event["event_payload"], byte)))


def _register_mutations(guest: Guest) -> Iterator[Guest]:
    for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        for byte in range(48):
            changed = _flipped(getattr(guest.td, name).hex(), byte)
            yield guest.changed(td=replace(guest.td, **{name: bytes.fromhex(changed)}))


def _count(guests: Iterator[Guest], steps: set[str]) -> tuple[int, int]:
    tried = accepted = 0
    for guest in guests:
        _, ledger = guest.verify()
        tried += 1
        accepted += not set(failed(ledger)) & steps
    return tried, accepted


@pytest.mark.parametrize("name", ["getquote_0_5", "getquote_0_6", "simulator"])
def test_no_mutation_of_a_recorded_log_or_register_is_accepted(name: str) -> None:
    guest = recorded(name)
    assert not failed(guest.verify()[1])
    log_tried, log_accepted = _count(_event_mutations(guest), set(STEPS[:3]))
    tried, accepted = _count(_register_mutations(guest), {"dstack.2"})
    print(f"dstack, {name}: {log_tried + tried} mutations tried, {log_accepted + accepted} accepted")
    assert log_accepted + accepted == 0
    assert log_tried > 300


def _info_mutations() -> Iterator[Guest]:
    information = dict(GOOD.info or {})
    tcb = json.loads(information["tcb_info"])
    for change, members in ((info_with, information), (tcb_with, tcb)):
        for name, value in members.items():
            if name in ("tcb_info", "device_id"):
                continue
            for other in (value + "0", value[:-1], "0" + value, 7, [value], {"x": value}, False, "\ud800"):
                yield change(name, other)


def _config_mutations() -> Iterator[Guest]:
    given = document()
    for name, text in given.items():
        for place in range(0, len(text) - 4, 3):
            other = "A" if text[place] != "A" else "B"
            changed = given | {name: text[:place] + other + text[place + 1 :]}
            yield config(tdx_measurement=changed)
        for value in ("", 7, None, [text], text + "AAAA", text[:-4]):
            yield config(tdx_measurement=given | {name: value})
    for byte in range(32):
        yield config(os_image_hash=_flipped(IMAGE.image_hash.hex(), byte))
    for byte in range(48):
        yield GOOD.changed(td=report(mr_td=bytes.fromhex(_flipped(IMAGE.mr_td[0].hex(), byte))), info=None)


def _launch_mutations() -> Iterator[Guest]:
    for good in (
        mrconfig.version_1(COMPOSE_HASH),
        mrconfig.version_2(COMPOSE_HASH, APP_ID, "kms", CA_KEY),
        mrconfig.version_3(launch_document().encode()),
    ):
        for byte in range(48):
            changed = bytes.fromhex(_flipped(good.hex(), byte, 0x10))
            yield launched(changed, vm_config=made_vm_config(mr_config=launch_document()))


def _compose_mutations() -> Iterator[Guest]:
    text = made.APP_COMPOSE
    for place in range(len(text)):
        yield GOOD.changed(app_compose=text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :], info=None)
        yield GOOD.changed(app_compose=text[:place] + text[place + 1 :], info=None)


@pytest.mark.parametrize(
    ("what", "mutations", "step"),
    [
        ("repeated values", _info_mutations, "dstack.7"),
        ("the image's document", _config_mutations, "dstack.6"),
        ("MRCONFIGID", _launch_mutations, "dstack.5"),
        ("the description", _compose_mutations, "dstack.4"),
    ],
)
def test_no_mutation_is_accepted(what: str, mutations: Callable[[], Iterator[Guest]], step: str) -> None:
    tried, accepted = _count(mutations(), {step})
    print(f"dstack, {what}: {tried} mutations tried, {accepted} accepted")
    assert accepted == 0
    assert tried > 80


@pytest.mark.parametrize("name", ["getquote_0_5", "getquote_0_6"])
def test_no_changed_character_of_a_log_changes_what_is_proven(name: str) -> None:
    """Some characters mean nothing (a boot event's payload); then what is proven stays the same to the last bit."""
    guest = recorded(name)
    assert isinstance(guest.event_log, str)
    good, source = guest.verify()[0], random.Random(name)
    tried = accepted = 0
    for place in source.sample(range(len(guest.event_log)), 1200):
        other = source.choice('0123456789abcdef",:{}[]\\x')
        text = guest.event_log[:place] + other + guest.event_log[place + 1 :]
        facts, ledger = guest.changed(event_log=text).verify()
        tried += 1
        accepted += not failed(ledger) and facts != good
    print(f"dstack, characters of the log of {name}: {tried} tried, {accepted} that changed what is proven")
    assert accepted == 0


# Hostile input -------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = st.sampled_from(["app_id", "tcb_info", "mr_config", "tdx_measurement", "os_image_hash", "key_provider_info"])
OBJECTS = st.dictionaries(MEMBERS, VALUES, max_size=4)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    vm_config=st.none() | st.text(max_size=60) | OBJECTS,
    info=st.none() | OBJECTS,
    app_compose=st.none() | st.text(max_size=60),
)
def test_anything_beside_the_log_gives_findings_and_no_exception(vm_config: Any, info: Any, app_compose: Any) -> None:
    _, ledger = GOOD.changed(vm_config=vm_config, info=info, app_compose=app_compose).verify()
    assert [finding.step for finding in ledger.findings] == STEPS


@settings(max_examples=150, derandomize=True, deadline=None)
@given(log=st.text(max_size=80) | st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(str(value))))
def test_any_log_gives_findings_and_no_exception(log: Any) -> None:
    facts, ledger = GOOD.changed(event_log=log).verify()
    assert facts is None
    assert [finding.step for finding in ledger.findings] == STEPS


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    members=st.dictionaries(
        st.sampled_from(["imr", "event_type", "digest", "event", "event_payload", "version"]),
        st.none() | st.integers() | st.text(max_size=12) | st.sampled_from([RUNTIME_EVENT, 3, "", "00", -1]),
        min_size=1,
    ),
    place=st.integers(0, len(EVENTS) - 1),
)
def test_any_event_gives_findings_and_no_exception(members: dict[str, Any], place: int) -> None:
    _, ledger = GOOD.with_log(edit(place, **members)).verify()
    assert [finding.step for finding in ledger.findings] == STEPS


@settings(max_examples=100, derandomize=True, deadline=None)
@given(payload=st.binary(max_size=60), name=st.text(max_size=12))
def test_anything_measured_gives_findings_and_no_exception(payload: bytes, name: str) -> None:
    events = (*replaced("key-provider", runtime("key-provider", payload)), runtime(name, payload, 2))
    _, ledger = measured(*events).verify()
    assert [finding.step for finding in ledger.findings] == STEPS


def test_a_report_is_not_changed_by_its_verification() -> None:
    td: TdReport = report()
    assert GOOD.changed(td=td, event_log=build_events(EVENTS)).verify()[0] is not None
    assert td == report()
    assert PROVIDER.startswith(b"{")
