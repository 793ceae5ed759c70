"""The Kubernetes job and the Slurm script start torchrun with what it takes, on every machine of the run."""

import subprocess
from pathlib import Path

import kubernetes_validate
import yaml
from torch.distributed.run import get_args_parser

PROJECT = Path(__file__).parents[2]
STUBS = {
    "scontrol": "echo node-a; seq -f node-%g 20000",  # more than a pipe holds, to one who reads them all
    "srun": 'while [ "$1" != bash ]; do shift; done; SLURMD_NODENAME=node-b exec "$@"',
    "torchrun": 'printf "%s\\n" "$@"',
}


def test_the_manifests_of_several_machines_are_what_kubernetes_takes() -> None:
    text = (PROJECT / "deploy" / "kubernetes" / "several-machines.yaml").read_text()
    service, claim, job = yaml.safe_load_all(text)
    for manifest in (service, claim, job):
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (container,) = pod["containers"]
    given = get_args_parser().parse_args(container["command"][1:])
    assert int(given.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(given.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert given.rdzv_endpoint.startswith(f"{job['metadata']['name']}-0.{pod['subdomain']}:")
    assert given.shutdown_timeout < pod["terminationGracePeriodSeconds"]
    assert (given.module, given.training_script) == (True, "flows.train_worker")


def test_the_slurm_script_hands_the_config_to_torchrun_on_every_machine(tmp_path: Path) -> None:
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), **slurm}
    script = PROJECT / "deploy" / "slurm" / "train.sh"
    command = [str(script), "my config.yaml", "--train.steps", "300"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    given = get_args_parser().parse_args(done.stdout.splitlines())
    assert (given.nnodes, given.nproc_per_node, given.rdzv_backend, given.rdzv_id) == ("2", "8", "c10d", "7")
    assert (given.rdzv_endpoint, given.local_addr) == ("node-a:29400", "node-b")
    assert (given.training_script, given.training_script_args) == (
        "flows.train_worker",
        ["my config.yaml", "--train.steps", "300"],
    )
    warned = int(next(line for line in script.read_text().splitlines() if "--signal" in line).split("@")[1])
    assert given.shutdown_timeout < warned
