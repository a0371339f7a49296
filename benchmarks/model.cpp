// SPDX-License-Identifier: MIT
// bench_model: training, forward and decoding speed of one model against what the machine can do.
// FLOPs are those of mf::count (products; attention over all visible keys; backward twice the forward),
// the peak is the same library's 1024^3 product on the same threads in the same run, the floor of a
// step is FLOPs / peak + bytes of the update / measured bandwidth. Every figure is a median.

#include <moduleformer/backend/cpu/build_info.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/count.hpp>
#include <moduleformer/model/generation.hpp>
#include <moduleformer/training/optimizer.hpp>

#include "support.hpp"

#include <CLI/CLI.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

namespace mf = moduleformer;
using Model = mf::CausalLM<mf::dynamic_shape>;

namespace {

struct Options {
  mf::Index tokens = 256, rows = 8, hidden = 256, layers = 4, heads = 4, attention_hidden = 256, ffn_hidden = 512;
  mf::Index attention_experts = 16, ffn_experts = 16, top_k = 2, router_hidden = 64, vocab = 256, steps = 5, context = 64;
  int threads = 0;
  bool json = false;

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
};

Options parse(int argc, char** argv) {
  Options o;
  CLI::App app{"Speed of a ModuleFormer on this machine: training, forward, decoding."};
  app.add_option("--tokens", o.tokens, "tokens of a row")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--rows", o.rows, "rows of a batch")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--hidden", o.hidden, "hidden size")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--layers", o.layers, "blocks")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--heads", o.heads, "heads of an attention expert")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--attention-hidden", o.attention_hidden, "attention hidden size")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--ffn-hidden", o.ffn_hidden, "width of a feed-forward expert")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--attention-experts", o.attention_experts, "attention experts")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--ffn-experts", o.ffn_experts, "feed-forward experts")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--top-k", o.top_k, "experts chosen for a token, of both kinds")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--router-hidden", o.router_hidden, "hidden size of the routers")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--vocab", o.vocab, "vocabulary")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--threads", o.threads, "threads, 0 for all")->capture_default_str();
  app.add_option("--steps", o.steps, "repetitions of each measurement")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--context", o.context, "prompt tokens before decoding")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_flag("--json", o.json, "print one JSON object");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& error) {
    int const status = app.exit(error);
    std::exit(status == 0 ? 0 : 2);
  }
  return o;
}

mf::Batch random_batch(Options const& o) {
  mf::Batch batch;
  batch.rows = o.rows;
  batch.tokens = o.tokens;
  for (mf::Index i = 0; i < o.rows * o.tokens; ++i) {
    auto const word = mf::random_words({1, 0, 0}, static_cast<std::uint64_t>(i))[0];
    batch.ids.push_back(static_cast<mf::TokenId>(word % static_cast<std::uint32_t>(o.vocab)));
  }
  batch.labels = batch.ids;
  return batch;
}

struct Results {
  double forward = 0, training_forward_backward = 0, forward_part = 0, update = 0, decode = 0;  // seconds; decode per token
};

Results measure(Options const& o, Model& model) {
  mf::Session session{model, {.threads = o.threads}};
  auto const batch = random_batch(o);
  Results r;
  r.forward = bench::median_seconds(o.steps, [&] { (void)model.loss(session, batch); });
  {
    auto gradient = model.make_gradient();
    mf::AdamWState<mf::DefaultBackend> state(session.backend(), model.table());
    mf::AdamW const adamw{.learning_rate = 1e-4};
    std::vector<double> both, update;
    double norm = 0;
    for (mf::Index i = 0; i <= o.steps; ++i) {
      double const t0 = bench::now();
      fill(session.backend(), gradient.values(), 0.0f);
      double const t1 = bench::now();
      model.gradients(session, batch, gradient);
      double const t2 = bench::now();
      mf::AdamWStep numbers = adamw.step_numbers(adamw.learning_rate, i + 1);
      mf::measure_gradient(session.backend(), adamw, gradient, {}, {&norm, {1}}, {&numbers, {1}});
      mf::update(session.backend(), adamw, {&numbers, {1}}, gradient, state, model);
      double const t3 = bench::now();
      if (i == 0) continue;  // warm-up
      both.push_back(t2 - t1);
      update.push_back(t1 - t0 + t3 - t2);
    }
    r.training_forward_backward = bench::median(both);
    r.update = bench::median(update);
  }
  mf::KvCache<mf::DefaultBackend> cache(model, 1, o.context + 40);
  std::vector<mf::TokenId> prompt(static_cast<std::size_t>(o.context));
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = batch.ids[i % batch.ids.size()];
  constexpr int decoded = 32;
  r.decode = bench::median_seconds(o.steps, [&](auto& timer) {
    cache.clear();
    mf::CacheExtension extension{0, prompt};
    auto logits = model.extend(session, cache, {&extension, 1});
    timer.start();
    for (int i = 0; i < decoded; ++i) {
      mf::TokenId const next = static_cast<mf::TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      mf::CacheExtension one{0, {&next, 1}};
      logits = model.extend(session, cache, {&one, 1});
    }
    timer.stop();
  }) / decoded;
  return r;
}

double peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

}  // namespace

int main(int argc, char** argv) try {
  Options const o = parse(argc, argv);
  auto model = Model::random(1, o.config(), {.aux_loss_weight = 1e-3});
  mf::Cpu<float> backend(o.threads);
  double const peak = bench::gemm_gflops(backend), bandwidth = bench::bandwidth(backend);
  Results const r = measure(o, model);

  auto const counts = mf::count(model.config(), model.policies(), o.vocab);
  double const n = static_cast<double>(o.rows * o.tokens);
  double const forward_flops = n * counts.mean_forward_flops(o.tokens), train_flops = n * counts.mean_training_flops(o.tokens);
  // AdamW reads weight, gradient and two moments and writes all but the gradient, which is also cleared.
  double const update_bytes = 8.0 * sizeof(float) * static_cast<double>(counts.parameters);
  double const step = r.training_forward_backward + r.update;
  double const floor = train_flops / (peak * 1e9) + update_bytes / bandwidth;
  nlohmann::ordered_json const result{
      {"train_tokens_per_second", n / step},
      {"forward_tokens_per_second", n / r.forward},
      {"decode_tokens_per_second", 1 / r.decode},
      {"forward_seconds", r.forward},
      {"backward_seconds", r.training_forward_backward - r.forward},
      {"update_seconds", r.update},
      {"gemm_peak_gflops", peak},
      {"bandwidth_gb_per_second", bandwidth / 1e9},
      {"train_fraction_of_peak", train_flops / r.training_forward_backward / (peak * 1e9)},
      {"forward_fraction_of_peak", forward_flops / r.forward / (peak * 1e9)},
      {"train_parameter_products_fraction_of_peak",
       3 * n * static_cast<double>(counts.dense_flops) / r.training_forward_backward / (peak * 1e9)},
      {"forward_parameter_products_fraction_of_peak", n * static_cast<double>(counts.dense_flops) / r.forward / (peak * 1e9)},
      {"step_fraction_of_floor", floor / step},
      {"peak_rss_bytes", peak_rss_bytes()},
      {"parameters", counts.parameters},
      {"active_parameters", counts.active_parameters},
      {"threads", backend.threads()},
      {"build", mf::build_info()},
  };
  if (o.json) {
    fmt::print("{}\n", result.dump());
  } else {
    for (auto const& [key, value] : result.items())
      fmt::print("{:<45} {}\n", key, value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump());
  }
} catch (std::exception const& error) {
  fmt::print(stderr, "bench_model: {}\n", error.what());
  return 1;
}
