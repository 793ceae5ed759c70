"""The same lines of C for every width of vectors, by whatever compiles and runs them: an Arm emulator, a sanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

from gpt2core.kernels import c_library
from gpt2core.machine.kernel_level import FLAGS, Level, available

PARTS = {"matmul_float32": (), "causal_attention_float32": (), "training_kernels": ("-DFLOAT32",), "inference": ()}


def build(folder: Path, compiler: str, *flags: str) -> Path:
    made = []
    for name, own in PARTS.items():
        made.append(folder / f"{name}.o")
        subprocess.run([compiler, *flags, *own, "-c", str(c_library.SOURCES / f"{name}.c"), "-o", str(made[-1])], check=True)
    program = folder / "check"
    check = Path(__file__).with_name("check_kernels.c")
    subprocess.run([compiler, *flags, str(check), *map(str, made), "-lm", "-o", str(program)], check=True)
    return program


def test_arm_computes_right_under_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no cross compiler and emulator for Arm: apt install gcc-aarch64-linux-gnu qemu-user")
    program = build(tmp_path, compiler, "-O3", "-fno-math-errno", "-static")
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stdout + done.stderr


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("vectors", [name for name in ("portable", "avx2", "avx512") if name in available()])
def test_no_kernel_reads_or_writes_outside_of_what_it_was_given(vectors: Level, tmp_path: Path) -> None:
    compiler = c_library.find_compiler()
    assert compiler is not None
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
    sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-Wno-psabi")
    tried = [compiler, *sanitizers, str(tmp_path / "empty.c"), "-o", str(tmp_path / "empty")]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("this compiler has no AddressSanitizer")
    program = build(tmp_path, compiler, *sanitizers, *FLAGS[vectors])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stdout + done.stderr
