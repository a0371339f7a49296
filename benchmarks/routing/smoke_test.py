# SPDX-License-Identifier: MIT
# The benchmark of routing policies on toy sizes: cells are made once, a killed one ends as an uninterrupted one, bad input is named.
# usage: smoke_test.py PROGRAM
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

program = sys.argv[1]
failures = 0


def expect(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def command(folder, *more):
    texts = [f"{name}={folder / name}.txt" for name in ("one", "two")]
    small = "--rows 2 --window 16 --hidden 8 --layers 1 --heads 2 --router-hidden 4 --attention-experts 3 --ffn-experts 4 --ffn-hidden 8"
    return [program, *small.split(), "--threads", "1", *(x for t in texts for x in ("--data", t)), *more]


def run(folder, *more):
    return subprocess.run(command(folder, *more), capture_output=True, text=True)


def results(folder):
    """Everything but times."""
    cells = {}
    for file in sorted(folder.glob("*-[0-9].json")):
        result = json.loads(file.read_text())["result"]
        cells[file.name] = {key: value for key, value in result.items() if "second" not in key}
    return cells


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    draw = random.Random(1)
    for text, letters in (("one", "abcd "), ("two", "0123\n")):
        (folder / f"{text}.txt").write_text("".join(draw.choices(letters, k=4000)))

    cells = ("--policies", "mi,switch", "--seeds", "1,2", "--tokens", "2560")
    whole = run(folder, *cells, "--out", str(folder / "whole"))
    expect(whole.returncode == 0, whole.stderr)
    expect("4 cells of 40 steps of 64 tokens, 0 of them done" in whole.stdout, whole.stdout)
    found = results(folder / "whole")
    expect(len(found) == 4 and all(0 < sum(r["domain_bits"]) < 20 for r in found.values()), found)
    for file in ("table.md", "results.csv", "results.json"):
        expect((folder / "whole" / file).stat().st_size > 0, file)
    expect("4 of them done" in run(folder, *cells, "--out", str(folder / "whole")).stdout, "cells that are done are skipped")
    report = run(folder, *cells, "--report", "--out", str(folder / "whole"))
    expect(report.returncode == 0 and "Of commit" not in report.stdout, report.stdout + report.stderr)
    # Cells of other sources: for a report they count, if all are of the same; for a run they are missing.
    for file in sorted((folder / "whole").glob("*-[0-9].json")):
        other = json.loads(file.read_text())
        expect(other["seconds"] > 0, other)
        other["identity"] = "sources 0123456789ab;" + other["identity"].split(";", 1)[1]
        other["commit"] = "abc1234"
        (folder / "others").mkdir(exist_ok=True)
        (folder / "others" / file.name).write_text(json.dumps(other))
    report = run(folder, *cells, "--report", "--out", str(folder / "others"))
    expect("Of commit abc1234, sources 0123456789ab." in report.stdout, report.stdout + report.stderr)
    (folder / "others" / "mi-1.json").write_bytes((folder / "whole" / "mi-1.json").read_bytes())
    report = run(folder, *cells, "--report", "--out", str(folder / "others"))
    expect(report.returncode == 1 and "make one report of each" in report.stderr, report.stdout + report.stderr)
    (folder / "others" / "mi-1.json").write_text('{"identity": null}')
    expect(run(folder, *cells, "--report", "--out", str(folder / "others")).returncode == 0, "a damaged cell is a missing one")
    expect("0 of them done" in run(folder, *cells, "--rate", "1e-3", "--out", str(folder / "whole")).stdout, "other settings, other cells")

    # Saved after every step and killed: what is left goes on.
    out = folder / "killed"
    process = subprocess.Popen(command(folder, *cells, "--save-every", "0", "--out", str(out)), stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list(out.glob("*.run/config.json")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    expect(len(results(out)) < 4, "the run was killed too late to show anything")
    again = run(folder, *cells, "--out", str(out))
    expect(again.returncode == 0, again.stderr)
    expect(results(out) == found, "a killed run and an uninterrupted one have the same results")

    speed = run(folder, "--policies", "mi,expert-choice,shared", "--speed", "--out", str(out))
    expect(speed.returncode == 0, speed.stderr)
    expect("Observing routers" in speed.stdout, speed.stdout)
    for policy in ("mi", "expert-choice", "shared"):
        result = json.loads((out / f"{policy}.speed.json").read_text())["result"]
        expect(result["step"] > 0 and result["even"]["routers"] > 0, result)
    table = run(folder, *cells, "--report", "--out", str(out)).stdout
    expect("tokens/s" in table, table)

    for more, words in ((["--policies", "mi,nonsense"], "found 'nonsense'"), (["--data", "one=" + str(folder / "two.txt")], "given twice"),
                        (["--data", "three=/nowhere"], "expected a text file"), (["--data", "three"], "NAME=FILE"),
                        (["--report", "--out", str(folder / "none")], "no cell"),
                        (["--held-out", "1e-6"], "domain one: held-out text: there is none")):
        bad = run(folder, *more)
        expect(bad.returncode != 0 and words in bad.stderr, f"{more}: {bad.stderr}")

print("failures:", failures)
sys.exit(failures != 0)
