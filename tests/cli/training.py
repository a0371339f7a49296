# SPDX-License-Identifier: MIT
"""Training: the same bits for any number of threads, after Ctrl-C and a resume; progress on a terminal."""
import json
import os
import pty
import select
import signal
import struct
import subprocess
import time
import unittest

import support
from support import TINY, read_safetensors

# Everything that draws random numbers or keeps state.
RICH = ("--embedding-dropout 0.1 --residual-dropout 0.1 --router-dropout 0.1 --sampled-slots 1 --accumulate 2 --eos "
        "--schedule stable_decay").split()


class Training(support.ProgramTest):
    def weights(self, folder):
        return read_safetensors(self.path / folder / "model.safetensors")

    def expect_same_weights(self, one, other):
        a, b = self.weights(one), self.weights(other)
        self.assertEqual(a.keys(), b.keys())
        for name in a:
            self.assertEqual(a[name][2].tobytes(), b[name][2].tobytes(), f"{one} and {other} differ in {name}")

    def test_the_loss_falls_and_is_compared_with_n_gram_models(self):
        result = self.train("model", 150, "--rate", "0.01")
        lines = {line.split()[0]: line.split() for line in result.out.splitlines() if line}
        model, trigram, unigram = (float(lines[n][i]) for n, i in (("model", 1), ("trigram", 2), ("unigram", 2)))
        self.assertLess(model, unigram)
        self.assertLess(trigram, unigram)
        self.assertIn("150/150", result.err)
        self.assertNotIn("\r", result.err)  # plain lines where stderr is no terminal

    def test_a_seed_gives_the_same_bits_for_any_number_of_threads(self):
        for name, threads, seed in (("one", 1, 3), ("two", 2, 3), ("three", 3, 3), ("other", 2, 4)):
            self.train(name, 6, *RICH, "--threads", threads, "--seed", seed, "--no-eval")
        self.expect_same_weights("one", "two")
        self.expect_same_weights("one", "three")
        head = "lm_head.weight"
        self.assertNotEqual(self.weights("one")[head], self.weights("other")[head])

    def test_recomputed_blocks_give_the_same_bits(self):
        self.train("kept", 5, *RICH, "--no-eval")
        self.train("recomputed", 5, *RICH, "--no-eval", "--recompute")
        self.expect_same_weights("kept", "recomputed")

    def stored_step(self, folder):
        with open(self.path / folder / "trainer.safetensors", "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        return json.loads(header["__metadata__"]["state"])["step"]

    def interrupted(self, out, steps, signal_number):
        """Starts a run, sends the signal once it trains; its status."""
        with subprocess.Popen([support.PROGRAM, "train", "--data", self.text, "--out", out, "--steps", str(steps), *TINY, *RICH,
                               "--no-eval"], cwd=self.path, stderr=subprocess.PIPE) as process:
            for line in process.stderr:
                if line.startswith(b"step 1/"):
                    break
            process.send_signal(signal_number)
            rest = process.stderr.read().decode()
            return process.wait(timeout=60), rest

    def test_ctrl_c_saves_and_a_resumed_run_gives_the_same_bits(self):
        steps = 400
        status, rest = self.interrupted("stopped", steps, signal.SIGINT)
        self.assertEqual(status, 130, rest)
        self.assertIn("saved in stopped", rest)
        for name in ("config.json", "model.safetensors", "trainer.safetensors"):
            self.assertTrue((self.path / "stopped" / name).exists(), name)
        self.run_program("generate", "--model", "stopped", "--prompt", "the", "--max-new-tokens", 3)
        resumed = self.run_program("train", "--data", self.text, "--out", "stopped", "--resume", "--no-eval", "--threads", 1)
        self.assertIn(f"{steps}/{steps}", resumed.err)
        self.train("straight", steps, *RICH, "--no-eval")
        self.expect_same_weights("stopped", "straight")

    def test_sigterm_saves_too(self):
        status, rest = self.interrupted("stopped", 100000, signal.SIGTERM)
        self.assertEqual(status, 128 + signal.SIGTERM, rest)
        self.assertTrue((self.path / "stopped" / "model.safetensors").exists())

    def test_kill_leaves_the_last_checkpoint(self):
        with subprocess.Popen([support.PROGRAM, "train", "--data", self.text, "--out", "killed", "--steps", "100000", *TINY,
                               "--no-eval", "--save-every", "2"], cwd=self.path, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + 60
            while not (self.path / "killed" / "config.json").exists() and time.monotonic() < end:
                time.sleep(0.01)
            process.kill()
            process.wait()
        self.run_program("generate", "--model", "killed", "--prompt", "the", "--max-new-tokens", 3)
        done = self.stored_step("killed")
        self.assertGreater(done, 0)
        self.run_program("train", "--data", self.text, "--out", "killed", "--resume", "--steps", done + 2, "--no-eval")
        self.assertEqual(self.stored_step("killed"), done + 2)

    def test_what_a_resumed_run_must_agree_with(self):
        self.train("model", 4, "--no-eval")
        resume = ["train", "--out", "model", "--resume", "--no-eval"]
        other = self.path / "other.txt"
        other.write_text("something else altogether, but long enough to be trained on")
        self.refuse(1, "the run was started on other documents", *resume, "--data", other, "--steps", 6)
        self.refuse(2, "--hidden 32: the run in model has 16", *resume, "--data", self.text, "--hidden", 32)
        self.refuse(2, "--window 8: the run in model has 16", *resume, "--data", self.text, "--window", 8)
        self.refuse(2, "--router linear: the run in model has mlp", *resume, "--data", self.text, "--router", "linear")
        self.refuse(2, "--loss-numbers x=1: the run in model has ''," , *resume, "--data", self.text, "--loss-numbers", "x=1")
        longer = self.run_program(*resume, "--data", self.text, "--steps", 6, "--rate", "0.001", "--hidden", 16)
        self.assertIn("6/6", longer.err)
        # The new numbers are the ones that were saved.
        self.assertIn("has 6 of 6 steps already", self.run_program(*resume, "--data", self.text).err)

    def test_a_terminal_shows_a_bar(self):
        master, slave = pty.openpty()
        process = subprocess.Popen([support.PROGRAM, "train", "--data", self.text, "--out", "model", "--steps", "20", *TINY],
                                   cwd=self.path, stderr=slave, stdout=subprocess.DEVNULL)
        os.close(slave)
        shown = b""
        while True:
            ready, _, _ = select.select([master], [], [], 60)
            try:
                block = os.read(master, 4096) if ready else b""
            except OSError:  # the other end is closed
                block = b""
            if not block:
                break
            shown += block
        os.close(master)
        self.assertEqual(process.wait(timeout=60), 0)
        for part in (b"\r[", b"20/20", b"tok/s", b"loss", b"left"):
            self.assertIn(part, shown)

    def test_every_policy_trains(self):
        policies = [("--attention", n) for n in ("inclusive_remainder", "strict", "strict_remainder")]
        policies += [("--router", n) for n in ("linear", "gmm", "mlp_relu")]
        policies += [("--activation", n) for n in ("gelu", "relu", "silu", "tanh")]
        policies += [("--routing-loss", n) for n in ("load_concentration", "switch", "router_z", "importance_cv2", "load_cv2", "none")]
        policies += [("--routing-loss", "weighted_sum", "--loss-numbers", "mi=1,router_z=0.1"),
                     ("--selection", "gumbel_top_k", "--selection-numbers", "scale=0.5", "--gating", "top_k_softmax"),
                     ("--selection", "biased_top_k", "--selection-numbers", "rate=0.01", "--gating", "sigmoid"),
                     ("--selection", "expert_choice"), ("--selection", "document_pool"),
                     ("--shared-experts", "shared", "--shared-numbers", "feed_forward=1,attention=0"), ("--router-jitter", "0.1"),
                     ("--statistics", "streaming", "--accumulate", "2"), ("--statistics", "whole_batch", "--accumulate", "2")]
        policies += [("--schedule", n) for n in ("linear", "constant")]
        policies += [("--heads", 1)]
        published = {"linear", "gmm", "gelu", "relu", "silu", "tanh", "constant", 1, "0.1"}
        for i, policy in enumerate(policies):
            with self.subTest(policy=policy):
                self.train(f"model{i}", 4, *policy, "--no-eval")
                shown = self.run_program("inspect", "--model", f"model{i}").out
                if policy[0] not in ("--schedule", "--heads"):
                    self.assertIn(policy[1], shown)
                    can = policy[1] in published or policy[1] == "switch"
                    self.assertIn("published code        " + ("can load" if can else "cannot load"), shown)
                if policy[0] == "--heads":
                    self.assertIn("keys and values shared", shown)
                self.run_program("generate", "--model", f"model{i}", "--prompt", "the", "--max-new-tokens", 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
