// SPDX-License-Identifier: MIT
#pragma once
// Options of bench_model_cuda: those of bench_model, a preset, and how the routers' load is spread.

#include "arguments.hpp"
#include "model_floors.hpp"

#include <moduleformer/model/config.hpp>
#include <moduleformer/model/count.hpp>

#include <string>
#include <vector>

namespace bench {

namespace mf = moduleformer;

struct ModelOptions {
  Index tokens = 256, rows = 8, hidden = 256, layers = 4, heads = 4, attention_hidden = 256, ffn_hidden = 512;
  Index attention_experts = 16, ffn_experts = 16, top_k = 2, router_hidden = 64, vocab = 256, steps = 5, context = 64,
        decoded = 32;
  std::vector<Index> decoded_sequences{1, 8, 32};
  std::string preset{}, load = "router";
  bool json = false, floors = false, kernels = false;

  /// The preset first, so that single options change it.
  void read(Arguments& a) {
    a.option("--preset", preset, "molm350m-4b (16k tokens), molm350m-4b-64k, or none");
    if (preset == "molm350m-4b" || preset == "molm350m-4b-64k") {
      tokens = 512;
      rows = preset == "molm350m-4b" ? 32 : 128;
      hidden = attention_hidden = 1024;
      layers = 24;
      heads = 1;
      ffn_hidden = 2048;
      attention_experts = 16;
      ffn_experts = 32;
      router_hidden = 256;
      vocab = 50295;
      context = 512;
    } else {
      mf::expects(preset.empty(), "--preset: expected molm350m-4b or molm350m-4b-64k, found ", preset);
    }
    constexpr Index one = 1;
    a.option("--tokens", tokens, "tokens of a row", one);
    a.option("--rows", rows, "rows of a batch", one);
    a.option("--hidden", hidden, "hidden size", one);
    a.option("--layers", layers, "blocks; fewer are measured where memory is short", one);
    a.option("--heads", heads, "heads of an attention expert", one);
    a.option("--attention-hidden", attention_hidden, "attention hidden size", one);
    a.option("--ffn-hidden", ffn_hidden, "width of a feed-forward expert", one);
    a.option("--attention-experts", attention_experts, "attention experts", one);
    a.option("--ffn-experts", ffn_experts, "feed-forward experts", one);
    a.option("--top-k", top_k, "experts chosen for a token, of both kinds", one);
    a.option("--router-hidden", router_hidden, "hidden size of the routers", one);
    a.option("--vocab", vocab, "vocabulary", one);
    a.option("--steps", steps, "repetitions of each measurement", one);
    a.option("--context", context, "prompt tokens before decoding", one);
    a.option("--decoded", decoded, "tokens decoded for each sequence", one);
    a.option("--load", load, "of the experts: router (as fresh routers choose) or skewed (as a trained model's)");
    a.flag("--kernels", kernels, "list the kernels of a training step and a decoding step");
    a.flag("--floors", floors, "print floors, launches and memory only; needs no device");
    a.flag("--json", json, "print one JSON object");
    mf::expects(load == "router" || load == "skewed", "--load: expected router or skewed, found ", load);
  }

  [[nodiscard]] mf::Config config() const {
    mf::Config c;
    c.vocab_size = vocab;
    c.hidden_size = hidden;
    c.layers = layers;
    c.router_hidden_size = router_hidden;
    c.attention = {attention_experts, top_k, heads, attention_hidden};
    c.feed_forward = {ffn_experts, top_k, ffn_hidden};
    return c;
  }
  [[nodiscard]] ModelSizes sizes() const {
    return {rows * tokens,     tokens, hidden,     layers,      router_hidden, vocab, heads, attention_hidden,
            attention_experts, top_k,  ffn_hidden, ffn_experts, top_k};
  }
};

}  // namespace bench
