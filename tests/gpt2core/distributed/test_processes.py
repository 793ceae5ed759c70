"""How many processes there are, what they share, and what must be the same in all of them.

Also tests `gpt2core.distributed.launch`.
"""

import pytest
import torch

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.distributed.launch import Launch
from gpt2core.distributed.processes import choose_processes, describe_shares, device_of, idle_processes, processes_here
from gpt2core.distributed.sameness import differences, require_same, what_decides


def settings(**given: object) -> TrainSettings:
    return TrainSettings.model_validate({"device": "cpu", **given})


def test_auto_is_one_process_on_a_processor_and_a_number_is_that_number() -> None:
    assert choose_processes(settings(accumulate=8)) == choose_processes(settings(processes="auto")) == 1
    assert choose_processes(settings(processes=6)) == 6
    assert device_of(settings(), 3) == "cpu"


def test_on_cuda_auto_is_a_process_for_each_gpu_that_an_update_occupies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.distributed.processes.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert choose_processes(settings(device="cuda", accumulate=4)) == 4
    assert (
        choose_processes(settings(device="cuda", accumulate=16)) == choose_processes(settings(device="cuda", batch_size=0)) == 8
    )
    assert choose_processes(settings(device="cuda:3", accumulate=16)) == 1
    assert device_of(settings(device="cuda"), 3) == "cuda:3"
    with pytest.raises(UserError, match=r"^train\.processes is 9, and train\.device 'cuda' has 8"):
        choose_processes(settings(device="cuda", processes=9))


def test_processes_that_would_wait_are_told_with_what_would_occupy_them() -> None:
    assert idle_processes(4, settings(accumulate=8)) == ""
    assert describe_shares(4, settings(accumulate=8)) == "4, each makes 2 of an update's 8 batches"
    assert describe_shares(2, settings(accumulate=3, shard="optimizer")) == (
        "2, each makes 2 at most of an update's 3 batches, the optimizer's state is shared out"
    )
    assert describe_shares(2, settings(shard="model")).endswith(", the model is shared out")
    assert idle_processes(4, settings(accumulate=6, batch_size=8)) == (
        "An update has 6 batches for 4 processes, so 2 of them wait in its last round: "
        "train.batch_size 6 with train.accumulate 8 would occupy all (and is another run)."
    )
    assert "so 1 of them waits in it: train.batch_size 4 with train.accumulate 2" in idle_processes(2, settings())


def test_what_decides_about_bits_names_the_code_and_shows_a_difference() -> None:
    own = what_decides(torch.device("cpu"), "1234", any_threads=True)
    assert "number of threads (OMP_NUM_THREADS)" not in own
    assert "number of threads (OMP_NUM_THREADS)" in what_decides(torch.device("cpu"), "1234", any_threads=False)
    assert differences(own, what_decides(torch.device("cpu"), "1234", any_threads=True)) == []
    assert differences(own, what_decides(torch.device("cpu"), "5678", any_threads=True)) == ["text is 5678 there and 1234 here"]
    name = "gpt2flow's code"
    assert differences(own, {**own, name: "another"}) == [f"{name} is another there and {own[name]} here"]
    with pytest.raises(UserError, match=r"^Process 1 of 2 is not like the first one: text is 5678 there and 1234 here\. Give"):
        require_same(own, {1: what_decides(torch.device("cpu"), "5678", any_threads=True)})


def test_torchrun_says_how_many_there_are_in_all_and_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.of_environment() is None
    told = {"RANK": 5, "WORLD_SIZE": 16, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4, "MASTER_PORT": 29400}
    for name, value in {**told, "MASTER_ADDR": "node-a", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, str(value))
    assert Launch.of_environment() == Launch(5, 16, 1, 4, "node-a", 29400)
    assert choose_processes(settings(accumulate=2)) == choose_processes(settings(processes=16)) == 16
    assert processes_here(settings()) == 4
    with pytest.raises(UserError, match=r"^train\.processes is 2, and torchrun has started 16: leave it at auto"):
        choose_processes(settings(processes=2))
    monkeypatch.setattr("gpt2core.distributed.processes.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"^torchrun has started 4 processes on this machine, where .* has 2: .*--nproc-per-node 2"
    ):
        choose_processes(settings(device="cuda"))
