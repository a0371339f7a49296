# SPDX-License-Identifier: MIT
"""What the tests of the command-line program share: running it, reading and writing safetensors files."""
import array
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unittest

PROGRAM = os.environ["MODULEFORMER_PROGRAM"]
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
CODES = {"F32": "f", "F64": "d", "I64": "q", "I32": "i", "U8": "B"}

# A model that trains within a second.
TINY = ("--hidden 16 --layers 2 --router-hidden 8 --attention-experts 4 --heads 2 --attention-hidden 16 --ffn-experts 4 "
        "--ffn-hidden 16 --rows 2 --window 16 --warmup 2 --decay 2 --threads 2").split()


def read_safetensors(path):
    """Tensors as {name: (type, shape, array)}."""
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = array.array(CODES[entry["dtype"]])
        values.frombytes(data[8 + size + begin:8 + size + end])
        tensors[name] = (entry["dtype"], entry["shape"], values)
    return tensors


def write_safetensors(path, tensors):
    """From {name: (type, shape, values)}."""
    header, body = {}, b""
    for name, (kind, shape, values) in tensors.items():
        data = array.array(CODES[kind], values).tobytes()
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


class ProgramTest(unittest.TestCase):
    """Each test works in a folder of its own."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="cli-", dir=".")
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name).resolve()
        words = "the quick brown fox jumps over a lazy dog and runs away from it".split()
        chance = random.Random(1)
        self.text = self.path / "text.txt"
        self.text.write_text(" ".join(chance.choice(words) for _ in range(800)))

    def run_program(self, *arguments, status=0):
        """Runs it in the test's folder; checks the status unless it is None, returns the result."""
        result = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.path, capture_output=True, check=False, timeout=300)
        result.out, result.err = result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
        if status is not None:
            self.assertEqual(result.returncode, status, f"{arguments}\nstdout: {result.out}\nstderr: {result.err}")
        return result

    def refuse(self, status, message, *arguments):
        """Expects the status and the message on stderr."""
        result = self.run_program(*arguments, status=status)
        self.assertIn(message, result.err)

    def train(self, out="model", steps=6, *more, status=0):
        return self.run_program("train", "--data", self.text, "--out", out, "--steps", steps, *TINY, *more, status=status)
