#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each header of a folder compiles by itself: headers_alone.py INCLUDE_DIR FOLDER COMPILER FLAG...

CUDA's kernels are read by any compiler; a .cuh that reaches the CUDA toolkit's headers needs nvcc and is left out.
"""
import re
import subprocess
import sys
from pathlib import Path

include, folder, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
top = include / "moduleformer"


def needs_nvcc(header, seen):
    """Whether the header or one that it includes includes the toolkit."""
    if header in seen or not header.is_file():
        return False
    seen.add(header)
    included = re.findall(r"^\s*#\s*include\s*<([^>]+)>", header.read_text(encoding="utf-8"), re.M)
    toolkit = re.compile(r"cuda|cub/|thrust/|cooperative_groups")
    return any(toolkit.match(name) or needs_nvcc(include / name, seen) for name in included)


paths = top.glob("*") if folder == "." else (top / folder).rglob("*")
headers = sorted(path for path in paths if path.suffix in (".hpp", ".cuh"))
left_out = [header for header in headers if header.suffix == ".cuh" and needs_nvcc(header, set())]
headers = [header for header in headers if header not in left_out]
failed = []
for header in headers:
    name = header.relative_to(include).as_posix()
    run = subprocess.run(command + ["-x", "c++", "-"], input=f"#include <{name}>\n", text=True, capture_output=True)
    if run.returncode != 0 or run.stderr:
        failed.append(name)
        print(f"{name} does not compile alone:\n{run.stderr}")
print(f"{len(headers) - len(failed)} of {len(headers)} headers compile alone")
if left_out:
    print("left to nvcc: " + ", ".join(header.relative_to(include).as_posix() for header in left_out))
sys.exit(1 if failed or not headers else 0)
