#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Misuse stops at a readable sentence: expect_error.py FILE COMPILER FLAG...

FILE compiles as it is. With -DMISUSE it must not, and each text of a line `// expect: text` must stand in
the compiler's messages.
"""
import re
import subprocess
import sys
from pathlib import Path

file, command = sys.argv[1], sys.argv[2:]
expected = re.findall(r"^// expect: (.+)$", Path(file).read_text(), re.M)
if not expected:
    sys.exit(f"{file}: no line `// expect: text`")

sound = subprocess.run(command + [file], text=True, capture_output=True)
if sound.returncode != 0:
    sys.exit(f"{file}: does not compile even without MISUSE:\n{sound.stderr}")
misuse = subprocess.run(command + ["-DMISUSE", file], text=True, capture_output=True)
if misuse.returncode == 0:
    sys.exit(f"{file}: compiles with MISUSE")
for text in expected:
    if text not in misuse.stderr:
        sys.exit(f"{file}: expected in the compiler's messages: {text}\nfound:\n{misuse.stderr}")
print(f"{len(expected)} expected messages found")
