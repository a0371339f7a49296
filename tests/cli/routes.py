# SPDX-License-Identifier: MIT
"""Routes recorded, replayed and compared; records that do not fit are refused, and files stay as they were."""
import json
import struct
import unittest

import support
from support import TINY, read_safetensors


class Routes(support.ProgramTest):
    def setUp(self):
        super().setUp()
        self.train("model", 6, "--no-eval")

    def record(self, model="model", out="routes.safetensors", *more, status=0):
        return self.run_program("routes", "record", "--model", model, "--data", self.text, "--out", out, *more, status=status)

    def eval(self, *more):
        return self.run_program("eval", "--model", "model", "--data", self.text, *more).out

    def test_a_record(self):
        shown = self.record().out
        tensors = read_safetensors(self.path / "routes.safetensors")
        tokens = self.text.stat().st_size - 1
        self.assertIn(f"{tokens} tokens", shown)
        self.assertIn("4 routers", shown)
        for layer in 0, 1:
            for router in "attn.q_proj.gate", "mlpf.gate":
                kind, shape, experts = tensors[f"transformer.h.{layer}.{router}.experts"]
                self.assertEqual((kind, shape), ("U8", [tokens, 2]))
                self.assertEqual(set(experts) - set(range(4)), set())
                self.assertEqual(tensors[f"transformer.h.{layer}.{router}.gates"][:2], ("F32", [tokens, 2]))
        self.assertEqual(sum(tensors["batches.tokens"][2]), tokens)
        first = (self.path / "routes.safetensors").read_bytes()
        self.record("model", "routes.safetensors", "--threads", 1)
        self.assertEqual(first, (self.path / "routes.safetensors").read_bytes())

    def test_replayed_routes_give_the_same_figures(self):
        self.record()
        self.assertEqual(self.eval(), self.eval("--replay", "routes.safetensors"))
        self.train("other", 6, "--no-eval", "--seed", 5)
        self.record("other", "other.safetensors")
        own, replayed = self.eval(), self.eval("--replay", "other.safetensors")
        self.assertNotEqual(own.splitlines()[0], replayed.splitlines()[0])
        shares = [line.split("of 4")[1] for line in replayed.splitlines() if " of 4 " in line]
        theirs = self.run_program("eval", "--model", "other", "--data", self.text).out
        self.assertEqual(shares, [line.split("of 4")[1] for line in theirs.splitlines() if " of 4 " in line])

    def test_comparison(self):
        self.record()
        self.train("other", 6, "--no-eval", "--seed", 5)
        self.record("other", "other.safetensors")
        same = self.run_program("routes", "compare", "routes.safetensors", "routes.safetensors").out
        rows = [line for line in same.splitlines() if "%" in line]
        self.assertEqual([row.split("  ")[0] for row in rows], ["0 attention", "0 feed-forward", "1 attention", "1 feed-forward", "mean"])
        for row in rows:
            self.assertEqual(row.count("100.00 %"), 3)
            self.assertTrue(row.endswith("0.000000"))
        there = self.run_program("routes", "compare", "routes.safetensors", "other.safetensors").out
        back = self.run_program("routes", "compare", "other.safetensors", "routes.safetensors").out
        self.assertEqual(there, back)
        self.assertNotIn("100.00 %", there.splitlines()[-3])
        self.run_program("routes", "compare", "routes.safetensors", "routes.safetensors", "--at-least", 1)
        self.refuse(3, "other.safetensors: expected at least 1 of the slots", "routes", "compare", "routes.safetensors", "other.safetensors",
                    "--at-least", 1)
        for bad in 1.5, "nan":
            self.refuse(2, "--at-least", "routes", "compare", "routes.safetensors", "other.safetensors", "--at-least", bad)

    def test_records_that_do_not_fit(self):
        self.record()
        replay = ["eval", "--model", "model", "--data", self.text, "--replay"]
        self.refuse(1, "absent", *replay, "absent")
        self.refuse(1, "expected a record of routes", *replay, "model/model.safetensors")
        self.refuse(1, "batch 0 was recorded of another text, or of the same one cut differently", *replay, "routes.safetensors", "--rows", 3)
        short = self.path / "short.txt"
        short.write_text(self.text.read_text()[:400])
        self.run_program("routes", "record", "--model", "model", "--data", short, "--out", "short.safetensors")
        batches = len(read_safetensors(self.path / "short.safetensors")["batches.tokens"][2])
        self.assertEqual(batches, 4)  # 25 windows of 16, 8 at a time
        self.refuse(1, "short.safetensors: record of routes: batch 3 was recorded of another text", *replay, "short.safetensors")
        whole = self.path / "whole.txt"
        whole.write_text(self.text.read_text()[:385])  # the same first three batches, and then none
        self.run_program("routes", "record", "--model", "model", "--data", whole, "--out", "whole.safetensors")
        self.refuse(1, "expected a batch below 3, as many as it holds, found 3", *replay, "whole.safetensors")
        self.refuse(1, "batches, the text only 3", "eval", "--model", "model", "--data", whole, "--replay", "routes.safetensors")
        self.refuse(1, "expected the same text in the same batches, at least one", "routes", "compare", "routes.safetensors", "short.safetensors")
        self.train("wide", 2, "--no-eval", "--ffn-experts", 6)
        self.record("wide", "wide.safetensors")
        different = ("of another model: it has router 'transformer.h.0.mlpf.gate' with 6 experts, 2 slots, expected router "
                     "'transformer.h.0.mlpf.gate' with 4 experts, 2 slots")
        self.refuse(1, different, *replay, "wide.safetensors")
        self.refuse(1, "wide.safetensors and routes.safetensors: record of routes: " + different, "routes", "compare", "wide.safetensors",
                    "routes.safetensors")
        # As many experts of a token, but some that serve every one.
        self.train("shared", 2, "--no-eval", "--shared-experts", "shared", "--shared-numbers", "attention=0,feed_forward=1")
        self.record("shared", "shared.safetensors")
        other = "it has router 'transformer.h.0.mlpf.gate' with 4 experts, 2 slots, 1 shared, expected router 'transformer.h.0.mlpf.gate' with 4 experts, 2 slots"
        self.refuse(1, other, "routes", "compare", "shared.safetensors", "routes.safetensors")
        self.refuse(1, other, *replay, "shared.safetensors")
        self.run_program("eval", "--model", "shared", "--data", self.text, "--replay", "shared.safetensors")

    def test_damaged_records(self):
        self.record()
        file = self.path / "routes.safetensors"
        good = file.read_bytes()
        file.write_bytes(good[:-1])
        for command in ("eval", "--model", "model", "--data", self.text, "--replay", file), ("routes", "compare", file, file):
            self.refuse(1, "routes.safetensors", *command)
        size, = struct.unpack_from("<Q", good)
        begin = 8 + size + json.loads(good[8:8 + size])["transformer.h.1.mlpf.gate.experts"]["data_offsets"][0]
        file.write_bytes(good[:begin + 10] + b"\x04" + good[begin + 11:])
        self.refuse(1, "router 'transformer.h.1.mlpf.gate' with 4 experts, 2 slots, batch 0, token 5: expected different experts from 0 to 3, "
                    "or -1, found 4", "eval", "--model", "model", "--data", self.text, "--replay", file)

    def test_usage(self):
        self.record()
        good = (self.path / "routes.safetensors").read_bytes()
        self.refuse(2, "subcommand", "routes")
        self.refuse(2, "--out", "routes", "record", "--model", "model", "--data", self.text)
        self.refuse(2, "B", "routes", "compare", "routes.safetensors")
        for bad in ("--held-out", "nan"), ("--rows", "0"), ("--rows", "9" * 309), ("--window", "-1"):
            self.refuse(2, f"{bad[0]}: expected", "routes", "record", "--model", "model", "--data", self.text, "--out", "x", *bad)
        self.refuse(2, "--data FILE... or --tokens", "routes", "record", "--model", "model", "--out", "routes.safetensors")
        self.refuse(2, "replace an input", "routes", "record", "--model", "model", "--data", self.text, "--out", self.text)
        self.refuse(2, "model's own files", "routes", "record", "--model", "model", "--data", self.text, "--out", "model/routes.safetensors")
        self.refuse(2, "replace an input", "eval", "--model", "model", "--data", self.text, "--replay", "routes.safetensors", "--svg",
                    "routes.safetensors")
        self.refuse(1, "absent", "routes", "record", "--model", "absent", "--data", self.text, "--out", "routes.safetensors")
        self.refuse(1, "absent", "routes", "record", "--model", "model", "--data", self.text, "--out", "absent/routes.safetensors")
        self.assertEqual(good, (self.path / "routes.safetensors").read_bytes())
        self.assertEqual([entry.name for entry in self.path.glob("*tmp*")], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
