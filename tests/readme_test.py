#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The README shows examples/quickstart.cpp word for word, which has fewer than 80 lines."""
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parent.parent
quickstart = (root / "examples/quickstart.cpp").read_text()
if quickstart not in (root / "README.md").read_text():
    sys.exit("README.md: its quickstart is not examples/quickstart.cpp; paste the file")
if quickstart.count("\n") >= 80:
    sys.exit("examples/quickstart.cpp: expected fewer than 80 lines")
print("README.md shows examples/quickstart.cpp")
