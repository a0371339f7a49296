# SPDX-License-Identifier: MIT
# The benchmark of the paper's claims on toy sizes: cells are made once, a killed one ends as an uninterrupted one, bad input is named.
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
    texts = [f"{name}={folder / name}.txt" for name in ("one", "two", "three")]
    small = ("--rows 2 --window 16 --hidden 16 --layers 1 --heads 2 --router-hidden 4 --attention-experts 3 --attention-hidden 16 --ffn-experts 4 "
             "--ffn-hidden 16 --new-attention 1 --new-ffn 2 --tokens 640 --tune-tokens 320 --held-out 0.1 --seeds 1 --threads 1")
    options = dict(zip(small.split()[::2], small.split()[1::2]))
    small = [word for option, value in options.items() if option not in more for word in (option, value)]
    return [program, *small, *(x for t in texts for x in ("--data", t)), *more]


def run(folder, *more):
    return subprocess.run(command(folder, *more), capture_output=True, text=True)


def results(folder):
    return {file.name: json.loads(file.read_text())["result"] for file in sorted(folder.glob("*-seed1.json"))}


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    draw = random.Random(1)
    for text, letters in (("one", "abcd "), ("two", "0123\n"), ("three", "wxyz.")):
        (folder / f"{text}.txt").write_text("".join(draw.choices(letters, k=3000)))

    whole = run(folder, "--out", str(folder / "whole"))
    expect(whole.returncode == 0, whole.stderr)
    found = results(folder / "whole")
    listed = [line.split()[0] for line in run(folder, "--list").stdout.splitlines()]
    expect(sorted(f"{name}-seed1.json" for name in listed) == sorted(found), (listed, sorted(found)))
    for file, result in found.items():
        expect(all(0 < bits < 20 for bits in result["after"]) and len(result["after"]) == 3, (file, result))
    new = found["learn-new-seed1.json"]
    expect(new["trained_parameters"] < new["parameters"] and 0 <= new["agreement"] <= 1, new)
    dense, modular = found["dense-seed1.json"], found["modular-seed1.json"]
    expect(abs(dense["active_parameters"] / modular["active_parameters"] - 1) <= 0.02, (dense, modular))
    kept = found["task-concentration-seed1.json"]["pruned"]
    expect(kept[0]["experts"] == 1 and kept[6]["experts"] < 1 and kept[6]["parameters"] < kept[0]["parameters"], kept)
    for file in ("tables.md", "results.json", "efficiency.svg", "extendability.svg", "specialisation.svg"):
        expect((folder / "whole" / file).stat().st_size > 0, file)
    expect(f"{len(found)} of them done" in run(folder, "--out", str(folder / "whole")).stdout, "cells that are done are skipped")

    # Saved after every step and killed: what is left goes on, whatever kind of cell it was.
    some = ("--recipes", "modular,learn-new-kl,task", "--save-every", "0", "--out", str(folder / "killed"))
    for number in range(3):
        process = subprocess.Popen(command(folder, *some), stdout=subprocess.DEVNULL)
        deadline = time.time() + 60
        while (not list((folder / "killed").glob("*.run/config.json")) or len(results(folder / "killed")) < number) and process.poll() is None and time.time() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    expect(len(results(folder / "killed")) < 3, "the runs were killed too late to show anything")
    again = run(folder, *some)
    expect(again.returncode == 0, again.stderr)
    for file, result in results(folder / "killed").items():
        expect(result == found[file], f"a killed run and an uninterrupted one: {file}")

    speed = run(folder, "--speed", "--recipes", "modular,dense,task-concentration", "--out", str(folder / "whole"))
    expect(speed.returncode == 0, speed.stderr)
    timed = lambda: json.loads((folder / "whole" / "speed.json").read_text())["result"]
    measured = timed()["models"]
    timings = ("decode_1", "decode_8", "forward", "load_milliseconds")
    expect(len(measured) == 9 and all(s[t]["median"] > 0 and s[t]["spread"] >= 0 for s in measured for t in timings), measured)
    again = run(folder, "--speed", "--recipes", "dense,dense-1.5", "--out", str(folder / "whole"))
    more = timed()["models"]
    expect(again.returncode == 0 and {s["name"] for s in more} == {"modular", "dense", "dense-1.5", "task-concentration"} and len(more) == 10, more)
    expect([s for s in more if s["name"] == "modular"] == [s for s in measured if s["name"] == "modular"], "figures of other models stay")
    cell = folder / "whole" / "dense-seed1.json"
    good = cell.read_text()
    cell.write_text(good.replace("sources ", "sources x"))
    foreign = run(folder, "--speed", "--recipes", "dense", "--out", str(folder / "whole"))
    expect(foreign.returncode != 0 and "dense-seed1.json: expected a result of these settings and of this program" in foreign.stderr, foreign.stderr)
    cell.write_text(good)
    apart = run(folder, "--speed", "--recipes", "dense", "--threads", "2", "--out", str(folder / "whole"))
    expect(apart.returncode == 0 and timed()["threads"] == 2 and [s["name"] for s in timed()["models"]] == ["dense"], "timings of other threads do not mix")
    (folder / "whole" / "speed.json").write_text(json.dumps({"identity": "sources x; old", "commit": "x", "result": []}))
    old = run(folder, "--report", "--out", str(folder / "whole"))
    expect(old.returncode != 0 and "speed.json: expected timings of these settings" in old.stderr, old.stderr)

    # What another run left in the folder of a run is removed, even if no model could be loaded from it.
    left = folder / "left" / "modular-seed1.run"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"nothing")
    fresh = run(folder, "--recipes", "modular", "--out", str(folder / "left"))
    expect(fresh.returncode == 0 and results(folder / "left")["modular-seed1.json"] == modular, fresh.stderr)
    expect(not left.exists(), "the folder of a run that is done is removed")

    for more, words in ((["--recipes", "nonsense"], "found 'nonsense'"), (["--learn", "four"], "found 'four'"),
                        (["--task", "three"], "found 'three'"), (["--rows", "3"], "expected a multiple of 2"),
                        (["--data", "one=" + str(folder / "two.txt")], "given twice"),
                        (["--recipes", "task", "--out", str(folder / "none")], "expected modular-seed1 to be done before"),
                        (["--report", "--out", str(folder / "none")], "no cell"), (["--held-out", "2"], "a fraction between 0 and 1"), (["--seeds", "1,1"], "--seeds: 1 is given twice"),
                        (["--rate", "nan"], "--rate: expected"), (["--tune-rate", "0"], "--tune-rate: expected"),
                        (["--save-every", "nan"], "--save-every: expected"), (["--held-out", "1e-9"], "domain one: held-out text: there is none")):
        bad = run(folder, *more)
        expect(bad.returncode != 0 and words in bad.stderr, f"{more}: {bad.stderr}")

print("failures:", failures)
sys.exit(failures != 0)
