#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the architecture of the header tree: python3 cmake/check_headers.py [INCLUDE_DIR]

Layers include their own layer and lower ones, without cycles; headers stay short; Eigen, OpenMP, JSON
and CUDA stay where they belong; a header declares no foreign macro and prints nothing.
"""
import re
import statistics
import sys
from pathlib import Path

LINES_MAX, MEDIAN_MAX = 400, 200
RANK = {"core": 0, "backend": 1, "nn": 2, "routing": 2, "model": 3, "modular": 4, "training": 4, "io": 4}
UMBRELLA = 5  # headers directly in moduleformer/ gather everything below them
BACKENDS = ("cpu", "cuda")

# Where headers of others may be included: a pattern of the name, and of the files that may.
PLACES = [
    (r"Eigen/|unsupported/Eigen", r"backend/cpu/"),
    (r"omp\.h$|(mkl_)?cblas\.h$|blis\.h$", r"backend/cpu/|build_info\.hpp$"),
    (r"thrust/|cub/|cuda|cooperative_groups|mma\.h$", r"backend/cuda/"),
    (r"nlohmann/", r"io/"),
    (r"(boost|fmt|CLI|benchmark)/", r"(?!)"),
    (r"iostream$|cassert$|assert\.h$", r"(?!)"),
]
FORBIDDEN = [
    (r"\busing\s+namespace\b", "`using namespace` in a header"),
    (r"\bnamespace\s+mf\b", "the library declares no namespace `mf`"),
    (r"\b(printf|puts|perror)\s*\(|\bstd::(cout|cerr|clog)\b", "the library prints nothing"),
    (r"\b(std::)?(exit|_Exit|quick_exit|abort|terminate)\s*\(", "the library never ends the process"),
]


def without_comments_and_strings(text):
    """The code alone; line numbers stay."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.S)
    return token.sub(lambda m: "\n" * m.group().count("\n"), text)


def layer_of(name):
    first = name.split("/")[0]
    if "/" in name:
        return first, RANK.get(first)
    return ("version", -1) if name == "version.hpp" else ("umbrella", UMBRELLA)


def backend_of(name):
    """cpu for backend/cpu.hpp and backend/cpu/..., likewise cuda, also for backend/cuda_emulated.cuh; else None."""
    match = re.match(rf"backend/({'|'.join(BACKENDS)})(_\w+)?[./]", name)
    return match.group(1) if match else None


def check_include(name, included, headers):
    """What is wrong with the include of moduleformer/<included> in <name>."""
    layer, rank = layer_of(name)
    other, other_rank = layer_of(included)
    if included not in headers:
        yield "no such file"
    elif rank is not None and other_rank is not None:
        if other_rank > rank:
            yield f"{layer}/ must not include the higher layer {other}/"
        elif other_rank == rank == 4 and other != layer:
            yield f"{layer}/ and {other}/ must not see each other"
    concrete = backend_of(included)
    if concrete and layer != "umbrella":
        if layer != "backend":
            yield "layers above backend/ name no concrete backend"
        elif backend_of(name) not in (concrete, None):
            yield "cpu/ and cuda/ must not see each other"
    if included.endswith(".cuh") and not name.endswith(".cuh"):
        yield "a .hpp must not include a .cuh"


def check_file(name, text, headers):
    """Yields (line, complaint)."""
    lines = text.splitlines()
    if layer_of(name)[1] is None:
        yield 1, "lies in no known layer"
    if len(lines) >= LINES_MAX:
        yield len(lines), f"has {len(lines)} lines, {LINES_MAX - 1} are allowed"
    if lines[:2] != ["// SPDX-License-Identifier: MIT", "#pragma once"] or not "".join(lines[2:3]).startswith("// "):
        yield 1, "must begin with the licence line, #pragma once and a comment that says what the file is for"
    for number, line in enumerate(lines, 1):
        include = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if include is None:
            continue
        quote, target = include.groups()
        if quote == '"':
            yield number, "include by full path, <moduleformer/...>"
        elif target.startswith("moduleformer/"):
            for complaint in check_include(name, target.removeprefix("moduleformer/"), headers):
                yield number, f"<{target}>: {complaint}"
        else:
            for pattern, allowed in PLACES:
                if re.match(pattern, target) and not re.match(allowed, name):
                    yield number, f"<{target}> must not be included here"
    for number, line in enumerate(without_comments_and_strings(text).splitlines(), 1):
        macro = re.match(r"\s*#\s*define\s+(\w+)", line)
        if macro and not macro.group(1).startswith("MODULEFORMER_"):
            yield number, f"macro {macro.group(1)} lacks the prefix MODULEFORMER_"
        for pattern, complaint in FORBIDDEN:
            if re.search(pattern, line):
                yield number, complaint


def find_cycle(graph):
    """A list of names that include each other in turn, or None."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node):] + [node]
        if node in done:
            return None
        path.append(node)
        for following in graph[node]:
            cycle = visit(following) if following in graph else None
            if cycle:
                return cycle
        path.pop()
        done.add(node)
        return None

    for node in graph:
        cycle = visit(node)
        if cycle:
            return cycle
    return None


def check(root):
    """All complaints about the tree, as lines, and the number of lines of each header."""
    root = Path(root) / "moduleformer"
    headers = {}
    for path in sorted(root.rglob("*")):
        if path.suffix in (".hpp", ".cuh", ".h", ".inl"):
            headers[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    complaints = []
    for name, text in headers.items():
        complaints += [f"moduleformer/{name}:{line}: {what}" for line, what in check_file(name, text, headers)]
    graph = {name: re.findall(r"^\s*#\s*include\s*<moduleformer/([^>]+)>", text, re.M) for name, text in headers.items()}
    cycle = find_cycle(graph)
    if cycle:
        complaints.append("include cycle: " + " -> ".join(cycle))
    lengths = {name: len(text.splitlines()) for name, text in headers.items()}
    if lengths and statistics.median(lengths.values()) >= MEDIAN_MAX:
        complaints.append(f"the median header has {statistics.median(lengths.values()):g} lines, {MEDIAN_MAX - 1} are allowed")
    return complaints, lengths


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "include"
    complaints, lengths = check(root)
    if not lengths:
        sys.exit(f"no headers under {root}")
    longest = max(lengths, key=lengths.get)
    print(f"{len(lengths)} headers, {sum(lengths.values())} lines, median {statistics.median(lengths.values()):g}, "
          f"longest {lengths[longest]} ({longest})")
    for layer in sorted({layer_of(name) for name in lengths}, key=lambda pair: (pair[1] is None, pair[1] or 0, pair[0])):
        mine = [count for name, count in lengths.items() if layer_of(name) == layer]
        print(f"  {layer[0]:<9} {len(mine):3} headers, median {statistics.median(mine):g}, longest {max(mine)}")
    for complaint in complaints:
        print(complaint)
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
