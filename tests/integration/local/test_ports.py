"""Taken ports are found, and their holders named, before anything is started."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dcm_processor.local.ports import Port, faults
from dcm_processor.local.processes import MARK
from tests.servers import free_port

LISTEN = (
    "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
    "print(s.getsockname()[1], flush=True); sys.stdin.read()"
)


def test_free_ports_have_no_faults() -> None:
    assert faults([Port("DICOM_PORT", free_port(), "0.0.0.0"), Port("REDIS_PORT", free_port(), "127.0.0.1")]) == []


def test_a_taken_port_names_port_key_and_process() -> None:
    with subprocess.Popen([sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        (fault,) = faults([Port("ORTHANC_PORT", port, "0.0.0.0")])
        holder.communicate()
    assert f"ORTHANC_PORT={port}: taken by process {holder.pid}, python" in fault
    assert "set another ORTHANC_PORT in .env.local" in fault


def test_another_dcm_processor_is_named_by_its_basedir(tmp_path: Path) -> None:
    environment = {MARK: str(tmp_path / "other")}
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as holder:
        assert holder.stdout is not None
        (fault,) = faults([Port("REDIS_PORT", int(holder.stdout.readline()), "127.0.0.1")])
        holder.communicate()
    assert f"of the dcm-processor in {tmp_path / 'other'}" in fault


def test_one_number_for_two_keys_is_a_fault_of_both() -> None:
    port = free_port()
    (fault,) = faults([Port("DICOM_PORT", port, "0.0.0.0"), Port("ORTHANC_PORT", port, "0.0.0.0")])
    assert "ORTHANC_PORT and DICOM_PORT are both" in fault


def test_an_address_of_another_machine_cannot_be_used() -> None:
    (fault,) = faults([Port("DASHBOARD_PORT", free_port(), "192.0.2.1")])
    assert "192.0.2.1 cannot be used" in fault


@pytest.mark.parametrize("address", ["nonsense", "192.0.2.1", "[::1]", "a" * 80, "127.0.0.1:8080"])
def test_an_address_that_a_setting_made_unusable_names_that_setting(address: str) -> None:
    (fault,) = faults([Port("DASHBOARD_PORT", free_port(), address, "BIND_ADDRESS")])
    assert fault.startswith(f"BIND_ADDRESS={address}: is no address of this machine (")
    assert fault.endswith("; set another BIND_ADDRESS in .env.local")


def test_a_port_that_was_just_left_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server's side closes first and waits in TIME_WAIT
    assert faults([Port("REDIS_PORT", port, "127.0.0.1")]) == []
