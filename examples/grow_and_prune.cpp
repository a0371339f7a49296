// SPDX-License-Identifier: MIT
// grow_and_prune [OLD NEW]: a ModuleFormer is trained on one text, learns another with new experts only, and becomes a small expert at
// the first. Without texts: this library's headers and its documentation. Returns 1 if something is not as it should be.
#include <moduleformer/io.hpp>
#include <moduleformer/moduleformer.hpp>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <iostream>
#include <span>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;

constexpr mf::Shape shape{
    .vocab_size = 256, .hidden_size = 64, .layers = 2, .router_hidden_size = 32,
    .attention    = {.experts = 8,  .top_k = 2, .heads = 2, .hidden_size = 64},
    .feed_forward = {.experts = 16, .top_k = 2, .hidden_size = 64},
};
using Model = mf::CausalLM<shape, mf::dynamic_policies>;  // the routing loss changes on the way

using Files = std::vector<fs::path>;

constexpr mf::Index steps = 200;

mf::ByteBatches text(Files const& files, std::uint64_t seed) {
  return mf::ByteBatches{files, {.rows = 8, .tokens = 64, .steps = steps, .seed = seed, .held_out = 0.03}};
}

template <class AnyModel>
mf::Evaluation held_out(AnyModel const& model, Files const& files) {
  mf::Session session{model};
  return mf::evaluate(model, session, text(files, 0).held_out());
}

template <class AnyModel>
void show(char const* what, AnyModel const& model, Files const& old_text, Files const& new_text) {
  std::cout << what << ": " << model.parameter_count() << " parameters, " << held_out(model, old_text).bits_per_byte()
            << " bits per byte of the old text, " << held_out(model, new_text).bits_per_byte() << " of the new\n";
}

void train(Model& model, Files const& files, double rate) {
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = rate}, mf::WarmupCosine{.warmup = 10, .total = steps}};
  for (auto const& batch : text(files, 1)) trainer.step(batch);
}

/// Learns `new_text` with new experts only; their routers are held to what they did on `old_text`. True if dormant experts changed no result.
bool grow(Model const& model, Files const& old_text, Files const& new_text) {
  auto const grown = mf::insert_experts(model, {.attention = 2, .feed_forward = 4});  // dormant
  bool const same = held_out(grown.model, old_text).nats == held_out(model, old_text).nats;
  auto active = mf::activate(grown.model).model;
  mf::train_only_new(active, grown.rows);

  auto const fresh = text(new_text, 1), old = text(old_text, 2);
  mf::Trainer trainer{active, mf::AdamW{.learning_rate = 1e-2}, mf::Constant{}, {.guard = {.kl = 0.1}}};
  mf::Batch now, before;
  while (trainer.steps() < steps) {
    fresh.read(trainer.steps(), now);
    old.read(trainer.steps(), before);
    trainer.step(std::span<mf::Batch const>(&now, 1), {}, std::span<mf::Batch const>(&before, 1));
  }
  show("grown", active, old_text, new_text);

  mf::Session one{model}, other{active};
  auto const seen = mf::compare_routes(mf::record_routes(model, one, text(old_text, 0).held_out()),
                                       mf::record_routes(active, other, text(old_text, 0).held_out()), mf::SecondModel::grown);
  std::cout << 100 * mf::mean_agreement(seen).shared_slots << " % of the old text's choices are as before\n";
  return same;
}

/// Fine-tunes on one text so that few experts serve it, and removes the others. True if the small model was saved as it is.
bool specialise(Model& model, Files const& task, fs::path const& folder) {
  model.policies().routing_loss = mf::LoadConcentrationLoss{};
  mf::Settings settings = model.settings();
  settings.aux_loss_weight = 0.1;
  model.set_settings(settings);
  train(model, task, 1e-3);

  mf::Session session{model};
  auto const use = mf::evaluate(model, session, text(task, 3)).routers;  // of training text: held-out text judges the result
  auto const small = mf::prune(model, mf::keep_used(model, use, 0.02)).model;
  mf::save(small, folder);
  auto const loaded = mf::load<mf::Resizable<Model>>(folder);
  std::cout << "specialised: " << model.parameter_count() << " parameters, " << held_out(model, task).bits_per_byte()
            << " bits per byte of the old text; pruned: " << loaded.parameter_count() << " parameters, "
            << held_out(loaded, task).bits_per_byte() << '\n';
  return loaded.parameter_count() < model.parameter_count() && held_out(loaded, task).nats == held_out(small, task).nats;
}

int run(Files const& old_text, Files const& new_text) {
  auto model = Model::random(/*seed=*/1, {.aux_loss_weight = 1e-2});
  train(model, old_text, 4e-3);
  show("trained", model, old_text, new_text);
  bool const grew = grow(model, old_text, new_text), pruned = specialise(model, old_text, "grow_and_prune-model");
  if (!grew) std::cerr << "dormant experts changed the model\n";
  if (!pruned) std::cerr << "the pruned model is not the one that was saved\n";
  return grew && pruned ? 0 : 1;
}

/// The files below a folder that end so, in order.
Files files_of(fs::path const& folder, std::string const& ending) {
  Files files;
  for (auto const& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().extension() == ending) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

int main(int argc, char** argv) try {
  if (argc == 3) return run({argv[1]}, {argv[2]});
  auto const project = fs::path(__FILE__).parent_path().parent_path();
  return run(files_of(project / "include", ".hpp"), files_of(project / "docs", ".md"));
} catch (std::exception const& error) {
  std::cerr << "grow_and_prune: " << error.what() << '\n';
  return 1;
}
