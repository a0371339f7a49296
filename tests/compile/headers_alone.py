#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each header of a folder compiles by itself: headers_alone.py INCLUDE_DIR FOLDER COMPILER FLAG..."""
import subprocess
import sys
from pathlib import Path

include, folder, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
top = include / "moduleformer"
headers = sorted(top.glob("*.hpp") if folder == "." else (top / folder).rglob("*.hpp"))
failed = []
for header in headers:
    name = header.relative_to(include).as_posix()
    run = subprocess.run(command + ["-x", "c++", "-"], input=f"#include <{name}>\n", text=True, capture_output=True)
    if run.returncode != 0 or run.stderr:
        failed.append(name)
        print(f"{name} does not compile alone:\n{run.stderr}")
print(f"{len(headers) - len(failed)} of {len(headers)} headers compile alone")
sys.exit(1 if failed or not headers else 0)
