// SPDX-License-Identifier: MIT
// Folders of models after surgery: the published names and keys where they can say it, else the "moduleformer" key of config.json;
// and the state of a run that trains new experts only.
#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/modular/freeze.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/prune.hpp>
#include <moduleformer/training/trainer.hpp>

#include "io/model_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::Index;
using mf::test::TemporaryFolder;

namespace {

using Model = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<double>>;

Model golden() { return mf::load<Model>(fs::path(MODULEFORMER_TEST_DATA) / "golden" / "mlp_router_mutual_information"); }

nlohmann::json config_of(fs::path const& folder) {
  std::ifstream stream(folder / "config.json");
  return nlohmann::json::parse(stream);
}

std::vector<double> logits(Model const& model) {
  mf::Session session{model, {.threads = 1}};
  mf::Batch batch{.rows = 1, .tokens = 6, .ids = {1, 2, 3, 4, 5, 6}};
  return model.logits(session, batch).values;
}

std::set<std::string> names(Model const& model) {
  std::set<std::string> all;
  for (auto const& segment : model.table().segments()) all.insert(segment.name);
  return all;
}

/// The first experts of each layer; one more of feed-forward layer 0 if uneven.
mf::ExpertMap first_experts(Model const& model, bool uneven) {
  mf::ExpertMap map = mf::ExpertMap::of(model.config());
  for (auto& list : map.attention) list.resize(static_cast<std::size_t>(model.config().attention.top_k));
  for (auto& list : map.feed_forward) list.resize(static_cast<std::size_t>(model.config().feed_forward.top_k));
  if (uneven) map.feed_forward[0].push_back(static_cast<Index>(map.feed_forward[0].size()));
  return map;
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_even_pruned_model_is_of_the_published_layout) {
  Model const model = golden(), small = mf::prune(model, first_experts(model, false)).model;
  TemporaryFolder const folder;
  mf::save(small, folder / "small");
  auto const config = config_of(folder / "small"), before = config_of(fs::path(MODULEFORMER_TEST_DATA) / "golden" / "mlp_router_mutual_information");
  BOOST_TEST(config.at("n_mlp_experts") == model.config().feed_forward.top_k);
  BOOST_TEST(config.at("n_att_experts") == model.config().attention.top_k);
  for (auto const* key : {"n_mlp_experts", "n_att_experts", "dormant_att_experts", "removed_mlp_experts"})
    BOOST_TEST(!config.at("moduleformer").contains(key));
  BOOST_TEST((names(small) == names(model)));
  Model const loaded = mf::load<Model>(folder / "small");
  BOOST_TEST((logits(loaded) == logits(small)));
  BOOST_TEST((config.at("n_embd") == before.at("n_embd")));
}

BOOST_AUTO_TEST_CASE(what_the_published_layout_cannot_say_is_in_our_key) {
  Model const model = golden();
  TemporaryFolder const folder;
  auto const check = [&](Model const& changed, char const* key) {
    mf::save(changed, folder / key);
    BOOST_TEST(config_of(folder / key).at("moduleformer").contains(key));
    Model const loaded = mf::load<Model>(folder / key);
    BOOST_TEST((logits(loaded) == logits(changed)));
    BOOST_TEST((loaded.config() == changed.config()));
  };
  check(mf::prune(model, first_experts(model, true)).model, "n_mlp_experts");
  check(mf::insert_experts(model, {.attention = 2}).model, "dormant_att_experts");
  check(mf::prune(model, first_experts(model, false), mf::RemovedExperts::keep_rows).model, "removed_mlp_experts");
}

/// New experts that learn, stopped and resumed: the bits of a run that was not.
BOOST_AUTO_TEST_CASE(a_partly_frozen_run_resumes) {
  auto const [grown, rows] = mf::insert_experts(golden(), {.attention = 1, .feed_forward = 2, .seed = 4});
  auto const batch = [](Index step) {
    mf::Batch result{.rows = 1, .tokens = 6, .ids = {1, 2, 3, 4, 5, 6}};
    for (auto& id : result.ids) id = (id + 3 * static_cast<mf::TokenId>(step)) % 20;
    result.targets = result.ids;
    return result;
  };
  auto const run = [&](auto& trainer, Index until) {
    while (trainer.steps() < until) trainer.step(batch(trainer.steps()));
  };
  mf::AdamW const optimizer{.learning_rate = 1e-2};
  Model whole = mf::activate(grown).model;
  mf::train_only_new(whole, rows);
  mf::Trainer uninterrupted{whole, optimizer};
  run(uninterrupted, 6);

  TemporaryFolder const folder;
  {
    Model model = mf::activate(grown).model;
    mf::train_only_new(model, rows);
    mf::Trainer trainer{model, optimizer};
    run(trainer, 3);
    mf::save(model, folder / "half", {}, trainer);
  }
  Model resumed = mf::load<Model>(folder / "half", {.map = false});
  {
    // All rows train in a model as loaded: that is another run.
    mf::Trainer trainer{resumed, optimizer};
    BOOST_CHECK_THROW(mf::load_state(folder / "half", resumed, trainer), mf::Error);
  }
  mf::train_only_new(resumed, rows);
  mf::Trainer trainer{resumed, optimizer};
  mf::load_state(folder / "half", resumed, trainer);
  BOOST_TEST(trainer.steps() == 3);
  run(trainer, 6);
  BOOST_TEST((logits(resumed) == logits(whole)));
  BOOST_TEST(!(logits(resumed) == logits(mf::activate(grown).model)));
}
