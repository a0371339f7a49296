#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Registers, stack and spills of every kernel that was compiled, from what ptxas says with -v.

  cuda_registers.py compile NVCC ARGUMENTS...   runs the compiler and keeps ptxas's lines in OBJECT.registers
  cuda_registers.py report FOLDER               a table of all *.registers below FOLDER; fails if a kernel spills

Shared memory is given at launch, so the compiler does not know it.
"""
import re
import subprocess
import sys
from pathlib import Path

PTXAS = re.compile(r"^ptxas info|^\s+\d+ bytes stack frame")
KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def compile_and_keep(command):
    target = Path(command[command.index("-o") + 1])
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    lines = result.stderr.splitlines(keepends=True)
    target.with_suffix(target.suffix + ".registers").write_text("".join(x for x in lines if PTXAS.match(x)))
    sys.stderr.write("".join(x for x in lines if not PTXAS.match(x)))
    return result.returncode


def read(folder):
    """(mangled name, architecture) -> (registers, stack, spill stores, spill loads); the same kernel in two objects is one."""
    kernels = {}
    for file in sorted(Path(folder).rglob("*.registers")):
        kernel = None
        for line in file.read_text().splitlines():
            if found := KERNEL.search(line):
                kernel = found.groups()
            elif found := FRAME.search(line):
                frame = tuple(map(int, found.groups()))
            elif (found := USED.search(line)) and kernel:
                kernels[kernel] = (int(found.group(1)), *frame)
                kernel = None
    return kernels


def readable(names):
    """Demangled, without the namespaces and the function that every kernel shares."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    text = re.sub(r"moduleformer::|kernels::|detail::", "", text).replace("(Stored)", "")
    return [re.sub(r"^void run_kernel<(.*?) ?>\(.*\)$", r"\1", line) for line in text.splitlines()]


def report(folder):
    kernels = read(folder)
    if not kernels:
        sys.exit(f"no report of a kernel under {folder}")
    names = sorted({name for name, _ in kernels})
    print(f"{'registers':>9} {'stack':>6} {'spill stores':>12} {'loads':>6}  architecture  kernel")
    rows = []
    for name, text in zip(names, readable(names)):
        rows += [(text, arch, *numbers) for (other, arch), numbers in kernels.items() if other == name]
    for text, arch, registers, stack, stores, loads in sorted(rows):
        print(f"{registers:9} {stack:6} {stores:12} {loads:6}  {arch:12}  {text}")
    spilling = [row for row in rows if row[4] or row[5]]
    most = max(rows, key=lambda row: row[2])
    print(f"{len(names)} kernels, {len(rows)} with architectures; most registers {most[2]} ({most[0]}, {most[1]}); "
          f"{len(spilling)} spill")
    for row in sorted(spilling):
        print(f"spills {row[4]} bytes out, {row[5]} in, {row[2]} registers, {row[1]}: {row[0]}")
    return 1 if spilling else 0


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "compile":
        sys.exit(compile_and_keep(sys.argv[2:]))
    if len(sys.argv) == 3 and sys.argv[1] == "report":
        sys.exit(report(sys.argv[2]))
    sys.exit(__doc__)
