// SPDX-License-Identifier: MIT
// States saved beside a model: every value comes back, or the state is refused and unchanged.
#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/training/trainer.hpp>

#include "io/support.hpp"

#include <boost/mpl/list.hpp>
#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::test::TemporaryFolder;

namespace {

constexpr mf::Shape small{
    .vocab_size = 11, .hidden_size = 8, .layers = 1, .router_hidden_size = 5,
    .attention    = {.experts = 3, .top_k = 2, .heads = 2, .hidden_size = 6},
    .feed_forward = {.experts = 4, .top_k = 2, .hidden_size = 7},
};
template <class S>
using Model = mf::CausalLM<small, mf::Policies<>, mf::Cpu<S>>;

/// A value inside a state.
struct Position {
  mf::Index file = 0;
  std::uint64_t words = 0;
  template <class Self, class V>
  static void visit(Self& self, V&& v) {
    v("file", self.file);
    v("words", self.words);
  }
  friend bool operator==(Position const&, Position const&) = default;
};

/// One value of each kind.
struct State {
  bool flag = false;
  mf::Index step = 0;
  std::int32_t small_number = 0;
  std::uint64_t seed = 0;
  double loss = 0, best = 0, worst = 0;
  float rate = 0;
  std::string name;
  Position position;
  std::vector<float> moments;
  std::vector<double> sums;
  std::vector<std::int64_t> counts;

  template <class Self, class V>
  static void visit(Self& self, V&& v) {
    v("flag", self.flag);
    v("step", self.step);
    v("small_number", self.small_number);
    v("seed", self.seed);
    v("loss", self.loss);
    v("best", self.best);
    v("worst", self.worst);
    v("rate", self.rate);
    v("name", self.name);
    v("position", self.position);
    auto vector = [](auto& values) {
      using T = std::remove_reference_t<decltype(values[0])>;
      return mf::Vector<T>{values.data(), {static_cast<mf::Index>(values.size())}};
    };
    v("moments", vector(self.moments));
    v("sums", vector(self.sums));
    v("counts", vector(self.counts));
  }
  friend bool operator==(State const&, State const&) = default;
};

State full() {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  return {true, -7, -2147483647 - 1, 0xfedcba9876543210u, 0.1 + 0.2, infinity, -infinity, 1e-7f, "quoted \"name\" \n \xc3\xa9",
          {9007199254740993, 18446744073709551615u}, {1.5f, -0.0f, 1e-42f}, {0.1, 3e300}, {std::numeric_limits<std::int64_t>::min(), 5}};
}
State empty() {
  State state;
  state.moments.resize(3);
  state.sums.resize(2);
  state.counts.resize(2);
  return state;
}

struct Other {
  static constexpr std::string_view file_stem = "other";
  mf::Index number = 0;
  template <class Self, class V>
  static void visit(Self& self, V&& v) {
    v("number", self.number);
  }
};

/// One number or string.
template <class T>
struct One {
  T x{};
  template <class Self, class V>
  static void visit(Self& self, V&& v) {
    v("step", self.x);
  }
};
struct Named {
  mf::Index stop = 0;
  template <class Self, class V>
  static void visit(Self& self, V&& v) {
    v("stop", self.stop);
  }
};
/// Two numbers in a vector.
template <class T>
struct Two {
  std::vector<T> x{1, 2};
  template <class Self, class V>
  static void visit(Self& self, V&& v) {
    using Element = std::remove_reference_t<decltype(self.x[0])>;
    v("x", mf::Vector<Element>{self.x.data(), {2}});
  }
};

template <class Exception>
void check_refused(std::function<void()> const& action, std::string const& part) {
  try {
    action();
    BOOST_ERROR("accepted, expected: " << part);
  } catch (Exception const& error) {
    BOOST_TEST(std::string(error.what()).find(part) != std::string::npos, error.what() << " lacks " << part);
  }
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(every_value_comes_back, TemporaryFolder) {
  auto const model = Model<float>::random(1);
  auto const folder = path() / "m";
  mf::save(model, folder, {}, full(), Other{5});
  State state = empty();
  Other other;
  mf::load_state(folder, model, state);
  mf::load_state(folder, model, other);
  BOOST_TEST((state == full()));
  BOOST_TEST(std::signbit(state.moments[1]));
  BOOST_TEST(other.number == 5);
  (void)mf::load<Model<float>>(folder);

  State not_a_number = full();
  not_a_number.loss = std::numeric_limits<double>::quiet_NaN();
  mf::save(model, folder, {}, not_a_number);
  mf::load_state(folder, model, state);
  BOOST_TEST(std::isnan(state.loss));
  // The other state was not saved this time, and an old one would not belong to these weights.
  BOOST_TEST(!fs::exists(folder / "other.safetensors"));
  check_refused<mf::Error>([&] { mf::load_state(folder, model, other); }, "no state was saved beside this model");
  mf::save(model, folder);
  BOOST_TEST(!fs::exists(folder / "trainer.safetensors"));
}

BOOST_FIXTURE_TEST_CASE(weights_keep_their_precision_beside_a_state, TemporaryFolder) {
  auto const model = Model<double>::random(1);
  mf::save(model, path() / "m", {.storage = mf::StorageType::bf16}, Other{});
  auto const again = mf::load<Model<double>>(path() / "m");
  for (std::size_t i = 0; i < model.table().count(); ++i)
    for (mf::Index j = 0; j < model.values(i).size(); ++j) BOOST_REQUIRE(again.values(i)[j] == model.values(i)[j]);
}

BOOST_FIXTURE_TEST_CASE(states_that_do_not_fit, TemporaryFolder) {
  auto const model = Model<float>::random(1);
  auto const folder = path() / "m";
  mf::save(model, folder, {}, full());
  State state = empty();
  state.moments.resize(4);
  State const before = state;
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, state); }, "expected shape (4), found (3)");
  BOOST_TEST((state == before));
  One<mf::Index> fewer;
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, fewer); }, "the state has no vector of this name");
  BOOST_TEST(fewer.x == 0);
  Named more;
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, more); }, "the state has no key 'stop'");

  // Values of other types than the state's.
  One<mf::Index> number;
  One<std::string> text;
  One<bool> flag;
  One<std::int32_t> small_number;
  One<double> real;
  mf::save(model, folder, {}, One<std::string>{"1"});
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, number); }, "'step': expected an integer");
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, flag); }, "'step': expected true or false");
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, real); }, "'step': expected a number");
  mf::save(model, folder, {}, One<mf::Index>{std::int64_t{1} << 40});
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, text); }, "'step': expected a string");
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, small_number); }, "'step': expected an integer of 32 bits");
  mf::save(model, folder, {}, One<double>{0.5});
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, number); }, "'step': expected an integer");

  Two<double> doubles;
  mf::save(model, folder, {}, Two<float>{});
  check_refused<mf::FormatError>([&] { mf::load_state(folder, model, doubles); }, "expected F64, found F32");
  check_refused<mf::Error>([&] { mf::save(model, folder, {}, One<double>{}, One<bool>{}); }, "two states have one file_stem");
}

BOOST_FIXTURE_TEST_CASE(states_of_other_weights, TemporaryFolder) {
  auto const model = Model<float>::random(1);
  mf::save(model, path() / "one", {}, Other{1});
  mf::save(model, path() / "two", {}, Other{2});
  fs::copy_file(path() / "one" / "other.safetensors", path() / "two" / "other.safetensors", fs::copy_options::overwrite_existing);
  Other other;
  check_refused<mf::FormatError>([&] { mf::load_state(path() / "two", model, other); }, "not saved together");
  constexpr mf::Shape wider = [] {
    mf::Shape shape = small;
    shape.feed_forward.hidden_size = 9;
    return shape;
  }();
  auto const wide = mf::CausalLM<wider, mf::Policies<>, mf::Cpu<float>>::random(1);
  check_refused<mf::FormatError>([&] { mf::load_state(path() / "one", wide, other); }, "expected shape");
  mf::test::write_text(path() / "one" / "trainer.safetensors",
                       mf::test::safetensors_bytes(R"({"__metadata__":{"state":"[1]"}})", ""));
  State state = empty();
  check_refused<mf::FormatError>([&] { mf::load_state(path() / "one", model, state); }, "expected an object as metadata key 'state'");
}

// The one state that matters: a run stopped after two steps goes on with the bits of one that was not.
// One of them carries the routers' mean probabilities from step to step.
using Streaming = mf::CausalLM<small, mf::Policies<mf::StreamingStatistics>, mf::Cpu<float>>;
using Resumed = boost::mpl::list<Model<float>, Model<double>, Streaming>;
BOOST_AUTO_TEST_CASE_TEMPLATE(a_trainer_resumes, M, Resumed) {
  using S = typename M::Scalar;
  TemporaryFolder temporary;
  auto const folder = temporary / "run";
  mf::Batch const batch{.rows = 2, .tokens = 5, .ids = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, .labels = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}};
  mf::Settings const settings{.aux_loss_weight = 0.01, .embedding_dropout = 0.1, .sampled_slots = 1};
  auto straight = M::random(4, settings);
  mf::Trainer trainer{straight, mf::AdamW{.learning_rate = 1e-2}, mf::Constant{}, {.threads = 1, .seed = 3}};
  for (int i = 0; i < 4; ++i) {
    trainer.step(batch);
    if (i == 1) mf::save(straight, folder, {}, trainer);
  }
  auto resumed = mf::load<M>(folder, {.map = false});
  mf::Trainer again{resumed, mf::AdamW{.learning_rate = 1e-2}, mf::Constant{}, {.threads = 2, .seed = 3}};
  mf::load_state(folder, resumed, again);
  BOOST_TEST(again.steps() == 2);
  for (int i = 0; i < 2; ++i) again.step(batch);
  for (std::size_t i = 0; i < straight.table().count(); ++i) {
    auto const a = straight.values(i), b = resumed.values(i);
    BOOST_TEST(std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(S)) == 0, straight.table()[i].name);
  }
}
