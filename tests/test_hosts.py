"""Two hosts: network namespaces on this machine, each with a launcher of its own, and a wire between them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "recipes" / "launch" / "two_nodes.yaml"
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


@pytest.fixture
def hosts():
    """The names of two namespaces; their ends of the wire have the same names."""
    names = [f"dv{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", name, "up")
        yield names
    except OSError as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    finally:
        for name in names:
            power_off(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def power_off(host: str) -> None:
    found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def launch(world, hosts: list[str], *options: str) -> list[subprocess.Popen]:
    """The tiny recipe, from a launcher on each host."""
    started = []
    for rank, host in enumerate(hosts):
        precision = ("--mixed_precision", "no")
        where = ("--num_processes", "2", "--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0], *precision)
        launcher = ("-m", "accelerate.commands.launch", "-q", "--config_file", str(CONFIG), *where)
        command = ["ip", "netns", "exec", host, *world.command(*options, launcher=launcher)]
        environment = world.environment(GLOO_SOCKET_IFNAME=host, OMP_NUM_THREADS="1")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=world.folder, env=environment, **pipes))
    return started


@pytest.mark.slow
def test_two_hosts_finish_and_one_goes_on_when_the_other_is_lost(world, hosts):
    short = ("--optim.epochs", "1", "--optim.warmup-epochs", "0")
    common = ("--workers", "0", "--threads", "1", "--out", "run", "--checkpoint-every-steps", "5")
    run = world.folder / "run"
    said = [process.communicate(timeout=120) for process in launch(world, hosts, *common, *short)]
    assert "64 images = 2 processes × 32" in said[0][0], said[0][1]
    assert json.loads((run / "report.json").read_text())["models"][1]["images"] == 200
    assert "report:" not in said[1][0]  # the second host's process is not the main one

    long = (*common, "--out", "long", "--optim.epochs", "40")
    stays, lost = launch(world, hosts, *long)
    checkpoints = world.folder / "long" / "checkpoints"
    while not (checkpoints / "step_000000010").exists():
        assert stays.poll() is None, stays.stderr.read() if stays.stderr else ""
        time.sleep(0.05)
    power_off(hosts[1])
    _, complaint = stays.communicate(timeout=60)
    lost.communicate(timeout=60)
    assert stays.returncode == 1
    line = "error: the connection to another process is lost, which was killed or crashed; the same command goes on"
    before, said, after = complaint.partition(line)
    assert said, complaint
    assert after.startswith(" from the last checkpoint, or from the start\n")
    assert "Traceback" not in before  # what comes after it is the launcher's own, which says that we failed
    assert "[rank0]" not in complaint  # as torch marks a traceback of ours
    assert not (world.folder / "long" / "report.json").exists()

    # One host goes on alone, from what is on the storage that both had.
    step = max(int(path.name.removeprefix("step_")) for path in checkpoints.glob("step_*[0-9]"))
    alone = world.run(*long, "--eval-every-epochs", "40", "--log-every-steps", "100")
    assert alone.returncode == 0, alone.stderr
    assert f"resumed after step {step} of 400" in alone.stdout
    assert (world.folder / "long" / "report.json").is_file()
