// SPDX-License-Identifier: MIT
// quickstart_cuda [TEXT [DIR]]: trains a small ModuleFormer on a text (its own source, if none is given), saves it as
// a folder, loads it again and continues a prompt, all on a GPU in bfloat16. Returns 1 if the loss did not fall or
// the folder differs.
#include <moduleformer/io.hpp>
#include <moduleformer/moduleformer.cuh>

#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

namespace mf = moduleformer;

constexpr mf::Shape shape{
    .vocab_size = 256, .hidden_size = 128, .layers = 2, .router_hidden_size = 64,
    .attention    = {.experts = 8,  .top_k = 2, .heads = 2, .hidden_size = 128},
    .feed_forward = {.experts = 16, .top_k = 2, .hidden_size = 256},
};
using Model = mf::CausalLM<shape, mf::Policies<>, mf::Cuda<mf::bfloat16>>;

// A template, since nvcc 13 cannot name a model with a shape as an explicit template argument (mf::load<Model>) elsewhere.
template <class Model>
int run(Model& model, std::filesystem::path const& text, std::filesystem::path const& folder) {
  std::cout << model.parameter_count() << " parameters\n";

  constexpr mf::Index steps = 120;
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 3e-3}, mf::WarmupCosine{.warmup = 10, .total = steps}};
  double first = 0, last = 0;
  for (auto const& batch : mf::ByteBatches{text, {.rows = 8, .tokens = 64, .steps = steps, .seed = 1}}) {
    mf::StepReport const report = trainer.step(batch);
    if (report.step == 1) first = report.task;
    last = report.task;
    if (report.step % 20 == 0) std::cout << "step " << report.step << ": loss " << report.task << '\n';
  }

  mf::save(model, folder);  // config.json + model.safetensors, Hugging Face layout
  auto const loaded = mf::load<Model>(folder);

  std::string const prompt = "constexpr ";
  std::vector<std::vector<mf::TokenId>> const prompts{{prompt.begin(), prompt.end()}};
  auto const greedy = [&](Model const& from) {
    return mf::generate(from, prompts, {.max_new_tokens = 80, .temperature = 0}).front().tokens;
  };
  std::cout << prompt;
  for (mf::TokenId const id : greedy(loaded)) std::cout << static_cast<char>(id);
  std::cout << '\n';

  bool const learned = last < first / 2, same = greedy(loaded) == greedy(model);
  if (!learned) std::cerr << "the loss went from " << first << " to " << last << ", expected less than half\n";
  if (!same) std::cerr << "the loaded model continues differently\n";
  return learned && same ? 0 : 1;
}

int main(int argc, char** argv) {
  try {
    auto model = Model::random(/*seed=*/1, {.aux_loss_weight = 1e-3});
    return run(model, argc > 1 ? argv[1] : __FILE__, argc > 2 ? argv[2] : "quickstart-cuda-model");
  } catch (std::exception const& error) {
    std::cerr << "quickstart_cuda: " << error.what() << '\n';
    return 1;
  }
}
