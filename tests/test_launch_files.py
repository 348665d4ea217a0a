"""Every file of recipes/launch is taken by accelerate's own loader and launcher, and asks for what its name says."""

import os
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

LAUNCH = Path(__file__).parents[1] / "recipes" / "launch"
FILES = {  # processes, machines, kind, precision
    "one_gpu": (1, 1, "NO", "bf16"),
    "one_node": (8, 1, "MULTI_GPU", "bf16"),
    "two_nodes": (16, 2, "MULTI_GPU", "bf16"),
    "fsdp2": (8, 1, "FSDP", "bf16"),
    "deepspeed_zero1": (8, 1, "DEEPSPEED", "no"),
    "cpu": (2, 1, "MULTI_GPU", "no"),
}


def test_every_file_is_known_here_and_in_the_table():
    assert {path.stem for path in LAUNCH.glob("*.yaml")} == FILES.keys()
    table = (LAUNCH / "README.md").read_text()
    for path in [*LAUNCH.glob("*.yaml"), *LAUNCH.glob("*.sh")]:
        assert f"]({path.name})" in table


@pytest.mark.parametrize("name", FILES)
def test_accelerate_takes_the_file_and_hands_it_to_the_processes(name):
    path = str(LAUNCH / f"{name}.yaml")
    processes, machines, kind, precision = FILES[name]
    config: Any = load_config_from_file(path)  # ValueError for a key that it does not know
    found = config.num_processes, config.num_machines, config.distributed_type, config.mixed_precision
    assert found == (processes, machines, kind, precision)

    asked = launch_command_parser().parse_args(["--config_file", path, "x.py"])
    args, defaults, _ = cast(Any, _validate_launch_command(asked))
    if kind == "NO":
        environment = prepare_simple_launcher_cmd_env(args)[1]
    elif kind == "DEEPSPEED":
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        environment = prepare_deepspeed_cmd_env(args)[1]
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "1"
    else:
        args.main_process_port = 0  # any that is free here
        environment = prepare_multi_gpu_env(args)
        assert int(args.nproc_per_node) * machines == processes
    assert environment["ACCELERATE_MIXED_PRECISION"] == precision
    assert environment.get("FSDP_VERSION") == ("2" if kind == "FSDP" else None)


def test_slurm_script_starts_one_launcher_a_node_and_requeues_when_told(tmp_path):
    # Stand-ins for Slurm's commands: srun runs the task of this node, which says what it would start and waits.
    for name, says in {
        "scontrol": f"""case "$1 $2" in
            "show job") printf 'JobId=20123\\n   Command={LAUNCH}/slurm.sh x.py\\n';;
            "show hostnames") printf 'node7\\nnode8\\n';;
            *) echo "scontrol $*";;
            esac""",
        "srun": """trap 'kill -TERM $(jobs -p); wait; exit 143' TERM; echo "srun $1 $2"; shift 2; "$@" & wait $!""",
        "accelerate": 'echo "accelerate $*"; kill -USR1 "$BATCH"; sleep 30 >&- 2>&- & wait $!',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{says}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "20123", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_CPUS_PER_TASK": "32"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "4"}
    copy = tmp_path / "slurm_script"  # as Slurm makes one, in a folder of its own
    copy.write_bytes((LAUNCH / "slurm.sh").read_bytes())
    command = f'export BATCH=$$; exec bash {copy} recipes/quickstart.py --out "runs/a b"'
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=25
    )
    assert done.returncode == 0, done.stderr
    started = (
        f"accelerate launch -q --config_file {LAUNCH}/two_nodes.yaml --num_machines 2 --num_processes 8 "
        "--machine_rank 0 --main_process_ip node7 --main_process_port 20123 recipes/quickstart.py --out runs/a b"
    )
    asked, told = "srun --kill-on-bad-exit=1 --cpus-per-task=32", "job 20123 is put back into the queue"
    assert done.stdout.splitlines() == [asked, started, told, "scontrol requeue 20123"]
