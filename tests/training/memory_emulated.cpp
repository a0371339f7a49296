// SPDX-License-Identifier: MIT
// Too little memory on the CUDA device, emulated, wherever it runs out, and launches that a device refuses: an error that
// names what was asked for; weights and optimizer are as they were, smaller work goes on, and nothing leaks.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "io/support.hpp"
#include "training/support.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/generation.hpp>

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <string>

namespace mf = moduleformer;
using namespace mf::test;

namespace {

using B = mf::CudaEmulated<float>;
using Model = mf::CausalLM<tiny_shape, mf::Policies<>, B>;
using Memory = mf::Emulated::Memory;
using Options = mf::emulation::Options;

/// Options of the device while it lives.
class Limited {
 public:
  explicit Limited(Options options) : kept_(mf::emulation_options()) { mf::emulation_options() = options; }
  Limited(Limited const&) = delete;
  Limited& operator=(Limited const&) = delete;
  ~Limited() { mf::emulation_options() = kept_; }

 private:
  Options kept_;
};

/// The message of the CudaError that f ends in with so much memory beside what is held.
template <class F>
std::string complaint_within(std::size_t bytes, F const& f) {
  Limited const limited({.memory_bytes = Memory::held() + bytes});
  try {
    f();
  } catch (mf::CudaError const& error) {
    return error.what();
  }
  return "none";
}

/// What was asked for, and what is free at most.
void check_message(std::string const& message, std::size_t free) {
  std::size_t asked = 0, left = 0;
  BOOST_REQUIRE_EQUAL(std::sscanf(message.c_str(), "device memory: %zu bytes were asked for, %zu of", &asked, &left), 2);
  BOOST_TEST(asked > left);
  BOOST_TEST(left <= free);
}

mf::Batch batch_of(mf::Index tokens) {
  mf::Batch batch{.rows = 2, .tokens = tokens};
  for (mf::Index i = 0; i < 2 * tokens; ++i) batch.ids.push_back(static_cast<mf::TokenId>(7 * i % 250));
  batch.labels = batch.ids;
  return batch;
}

auto make_trainer(Model& model) {
  return mf::Trainer{model, mf::AdamW{.learning_rate = 1e-2}, mf::Constant{}, {.seed = 8}};
}

constexpr std::size_t mebibyte = std::size_t{1} << 20;

}  // namespace

BOOST_AUTO_TEST_CASE(models_and_trainers) {
  std::size_t const before = Memory::held();
  BOOST_TEST(complaint_within(1000, [] { (void)Model::random(1); }).find("device memory: ") == 0);
  BOOST_TEST(Memory::held() == before);
  {
    auto model = Model::random(1);
    std::size_t const held = Memory::held(), values = sizeof(float) * static_cast<std::size_t>(model.parameter_count());
    // Gradients fit, moments do not.
    check_message(complaint_within(values + values / 2, [&] { (void)make_trainer(model); }), values + values / 2);
    BOOST_TEST(Memory::held() == held);
    TemporaryFolder const folder;
    mf::save(model, folder / "m");
    check_message(complaint_within(values / 2, [&] { (void)mf::load<Model>(folder / "m"); }), values / 2);
    BOOST_TEST(Memory::held() == held);
    BOOST_TEST(same_bits(weights(mf::load<Model>(folder / "m")), weights(model)));
  }
  BOOST_TEST(Memory::held() == before);
}

BOOST_AUTO_TEST_CASE(a_step_that_does_not_fit) {
  std::size_t const before = Memory::held();
  {
    auto const large = batch_of(500), small = batch_of(5);
    auto model = Model::random(4, random_settings);
    auto trainer = make_trainer(model);
    trainer.step(small);
    auto const kept = weights(model);
    auto const state = StoredState::of(trainer);
    int failures = 0;
    // A workspace grows by chunks of a mebibyte at least: each limit fails in another place, until the step fits.
    for (std::size_t bytes = 1000;; bytes += mebibyte) {
      BOOST_REQUIRE(bytes < 100 * mebibyte);
      std::string const message = complaint_within(bytes, [&] { trainer.step(large); });
      if (message == "none") break;
      ++failures;
      check_message(message, bytes);
      BOOST_TEST(same_bits(weights(model), kept));
      BOOST_TEST((StoredState::of(trainer).values == state.values));
      BOOST_TEST(complaint_within(1000, [&] {  // needs nothing new
        mf::LossReport const loss = model.loss(trainer.session(), small);
        BOOST_TEST(loss.counted == 8);
      }) == "none");
    }
    BOOST_TEST_MESSAGE(failures << " limits were too low");
    BOOST_TEST(failures > 1);
    // What failed left nothing behind: the step is that of an undisturbed run.
    auto other = Model::random(4, random_settings);
    auto undisturbed = make_trainer(other);
    undisturbed.step(small);
    undisturbed.step(large);
    BOOST_TEST(same_bits(weights(model), weights(other)));
    BOOST_TEST((StoredState::of(trainer).values == StoredState::of(undisturbed).values));
  }
  BOOST_TEST(Memory::held() == before);
}

BOOST_AUTO_TEST_CASE(generation_that_does_not_fit) {
  auto const model = Model::random(4);
  mf::Session<B> session;
  mf::GenerationOptions const options{.max_new_tokens = 3, .temperature = 0};
  auto const expected = mf::generate(model, session, {{1, 2, 3}}, options).front().tokens;
  std::size_t const held = Memory::held();
  check_message(complaint_within(1000, [&] { (void)mf::generate(model, session, {{1, 2, 3}}, {.max_new_tokens = 100000}); }), 1000);
  BOOST_TEST(Memory::held() == held);
  BOOST_TEST(mf::generate(model, session, {{1, 2, 3}}, options).front().tokens == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_launch_that_is_refused) {
  auto const batch = batch_of(5);
  auto model = Model::random(4, random_settings);
  auto trainer = make_trainer(model);
  trainer.step(batch);
  auto const kept = weights(model);
  std::string const message = [&] {
    Limited const limited({.shared_limit = 100});
    return complaint([&] { trainer.step(batch); });
  }();
  BOOST_TEST(message.find("kernel of ") == 0, message);
  BOOST_TEST(message.find("at most 100 bytes of shared memory, found ") != std::string::npos, message);
  BOOST_TEST(same_bits(weights(model), kept));
  BOOST_TEST(trainer.step(batch).step == 2);
}
