"""The development machine: its log replays, what it says agrees with what it measured, and it says what it is."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from confide.attest.base import GpuUnavailable
from confide.attest.dev import DevGpu, DevMachine, DevSource
from confide.attest.dev_pki import Pki
from confide.wire import eventlog, tdx
from confide.wire.nvgpu import parse_measurements

from .conftest import NOW, REPORT_DATA


def test_the_log_replays_to_the_registers(machine: DevMachine) -> None:
    for step in range(3):
        report = tdx.parse_quote(machine.quote(REPORT_DATA)).report
        assert eventlog.replay(eventlog.parse_events(machine.event_log())) == report.rtmrs == machine.state().registers
        machine.emit("step", bytes([step]))


def test_every_event_counts(machine: DevMachine) -> None:
    events = eventlog.parse_events(machine.event_log())
    for position in range(len(events)):
        assert eventlog.replay(events[:position] + events[position + 1 :]) != machine.state().registers


def test_what_it_says_agrees_with_what_it_measured(machine: DevMachine) -> None:
    events = {event.event: event.payload for event in machine.state().events if event.is_runtime}
    info = machine.info()
    tcb_info = json.loads(info["tcb_info"])
    report = tdx.parse_quote(machine.quote(REPORT_DATA)).report
    compose_hash = hashlib.sha256(tcb_info["app_compose"].encode()).digest()
    assert events["compose-hash"] == compose_hash
    assert report.mr_config_id == b"\x01" + compose_hash + bytes(15)
    assert (events["app-id"].hex(), events["instance-id"].hex()) == (info["app_id"], info["instance_id"])
    assert json.loads(machine.vm_config())["os_image_hash"] == events["os-image-hash"].hex()
    assert events["key-provider"].decode() == info["key_provider_info"]
    assert tcb_info["mrtd"] == report.mr_td.hex()
    assert [tcb_info[f"rtmr{i}"] for i in range(4)] == [register.hex() for register in report.rtmrs]
    aggregated = report.mr_td + b"".join(report.rtmrs) + report.mr_config_id + bytes(96)
    assert tcb_info["mr_aggregated"] == hashlib.sha256(aggregated).hexdigest()
    assert eventlog.parse_events(json.dumps(tcb_info["event_log"])) == machine.state().events


def test_two_applications_are_different(pki: Pki) -> None:
    first, second = DevMachine(pki, "{}"), DevMachine(pki, "{ }")
    assert first.state().registers[3] != second.state().registers[3]
    assert first.app_id != second.app_id
    assert first.instance_id == second.instance_id


def test_evidence(machine: DevMachine) -> None:
    source = DevSource(machine, lambda: NOW)
    evidence = asyncio.run(source.quote(REPORT_DATA))
    assert tdx.parse_quote(evidence.quote).report.report_data == REPORT_DATA == evidence.report_data
    assert isinstance(evidence.collateral, tdx.TdxCollateral)
    assert evidence.app_compose == machine.app_compose
    assert evidence.key_custody is None
    with pytest.raises(ValueError, match="64 bytes"):
        asyncio.run(source.quote(b""))


def test_it_says_what_it_is(machine: DevMachine) -> None:
    description = DevSource(machine).describe()
    assert not description.hardware
    assert "NOT HARDWARE" in description.text


def test_gpu_evidence_answers_the_nonce(pki: Pki) -> None:
    gpu = DevGpu(pki)
    answer = asyncio.run(gpu.evidence(b"\x05" * 32))
    assert not isinstance(answer, GpuUnavailable)
    assert [parse_measurements(each.evidence).nonce for each in answer] == [b"\x05" * 32]
    with pytest.raises(ValueError, match="32 bytes"):
        asyncio.run(gpu.evidence(b""))


def test_keys_depend_on_path_algorithm_and_installation(pki: Pki, machine: DevMachine) -> None:
    keys = {machine.derive("a", "secp256k1"), machine.derive("b", "secp256k1"), machine.derive("a", "ed25519")}
    assert len(keys) == 3
    assert DevMachine(pki).derive("a", "ed25519") == machine.derive("a", "ed25519")
