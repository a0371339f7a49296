// SPDX-License-Identifier: MIT
// Stick-breaking attention against values of the published reference, and its weights for observation.

#include "stick_breaking.hpp"

#include "../support/golden.hpp"

#include <boost/test/unit_test.hpp>

#include <string>
#include <tuple>

namespace mf = moduleformer;
using mf::test::Array;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

char const* const files[] = {"inclusive", "strict_remainder", "cached_keys", "extreme_logits"};

/// A golden case. The files differentiate <grad_y, y> + <grad_remainder, r>. As r = 1 - sum_j a_j, a head gets
/// one column more, in which every value is 1 and dy is -grad_remainder; the column of q and k is 0, and
/// q grows by sqrt((d+1)/d) to keep the logits.
struct Golden {
  mf::test::GoldenFile file;
  mf::Index batch, queries, slots, heads, keys, size;
  mf::StickBreakingVariant variant;
  mf::test::AttentionCase call;
  double growth;

  explicit Golden(std::string const& name) : file("ops/stick_breaking_" + name + ".safetensors") {
    auto const q = file.tensor<double>("q").shape, k = file.tensor<double>("k").shape;
    batch = q[0], queries = q[1], slots = q[2], heads = q[3], size = q[4], keys = k[1];
    variant = {file.metadata("inclusive") == "1", false};
    call = {{heads, size + 1, slots, 0}, {}, batch * queries, batch * keys};
    for (mf::Index b = 0; b < batch; ++b) call.sequences.push_back({b * queries, queries, b * keys, keys});
    growth = std::sqrt(static_cast<double>(size + 1) / static_cast<double>(size));
  }

  /// The stored rows with one column added to each head.
  template <class S>
  Array<S, 2> widened(std::string const& name, double factor, double added) const {
    auto const stored = file.tensor<double>(name).values;
    auto const count = static_cast<mf::Index>(stored.size()) / size;
    Array<S, 2> wide(count / heads, heads * (size + 1));
    for (mf::Index i = 0; i < count; ++i)
      for (mf::Index x = 0; x <= size; ++x)
        wide.view()[i * (size + 1) + x] =
            static_cast<S>(x < size ? factor * stored[static_cast<std::size_t>(i * size + x)] : added);
    return wide;
  }
  /// The result without the added columns, divided by `factor`.
  template <class S>
  std::vector<double> narrowed(Array<S, 2> const& wide, double factor) const {
    std::vector<double> values;
    for (std::size_t i = 0; i < wide.values().size(); ++i)
      if (static_cast<mf::Index>(i) % (size + 1) != size)
        values.push_back(static_cast<double>(wide.values()[i]) * factor);
    return values;
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_stick_breaking_golden)

BOOST_AUTO_TEST_CASE_TEMPLATE(outputs_and_gradients, S, Scalars) {
  for (std::string const name : files) {
    Golden const golden{name};
    mf::test::AttentionInputs<S> in{golden.widened<S>("q", golden.growth, 0), golden.widened<S>("k", 1, 0),
                                    golden.widened<S>("v", 1, 1), golden.widened<S>("grad_y", 1, 0)};
    auto const remainder = golden.file.tensor<double>("remainder").values;
    auto const d_remainder = golden.file.tensor<double>("grad_remainder").values;
    auto const place = [&](mf::Index b, mf::Index s, mf::Index h, mf::Index t) {
      return static_cast<std::size_t>(((b * golden.slots + s) * golden.heads + h) * golden.queries + t);
    };
    for (mf::Index b = 0; b < golden.batch; ++b)
      for (mf::Index t = 0; t < golden.queries; ++t)
        for (mf::Index s = 0; s < golden.slots; ++s)
          for (mf::Index h = 0; h < golden.heads; ++h)
            in.dy((b * golden.queries + t) * golden.slots + s, h * (golden.size + 1) + golden.size) =
                static_cast<S>(-d_remainder[place(b, s, h, t)]);

    mf::Cpu<S> backend{2};
    mf::test::AttentionOutputs<S> out(golden.call);
    mf::test::forward(backend, golden.call, golden.variant, in, out);
    mf::test::backward(backend, golden.call, golden.variant, in, out);
    std::vector<double> sticks(remainder.size());
    for (mf::Index i = 0; i < golden.call.rows(); ++i)
      for (mf::Index h = 0; h < golden.heads; ++h) {
        mf::Index const token = i / golden.slots;
        sticks[place(token / golden.queries, i % golden.slots, h, token % golden.queries)] =
            std::exp(static_cast<double>(out.log_stick(i, h)));
      }
    double const forward = sizeof(S) == 4 ? 2e-5 : 1e-9, gradient = sizeof(S) == 4 ? 2e-4 : 1e-9;
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(relative_error(golden.narrowed(out.y, 1), golden.file.tensor<double>("y").values) < forward);
      // The reference took 1 - sum_j a_j, so its small remainders are right to the rounding of 1.
      for (std::size_t i = 0; i < sticks.size(); ++i) BOOST_TEST(std::abs(sticks[i] - remainder[i]) < forward);
      BOOST_TEST(relative_error(golden.narrowed(out.dq, golden.growth), golden.file.tensor<double>("grad_q").values) <
                 gradient);
      BOOST_TEST(relative_error(golden.narrowed(out.dk, 1), golden.file.tensor<double>("grad_k").values) < gradient);
      BOOST_TEST(relative_error(golden.narrowed(out.dv, 1), golden.file.tensor<double>("grad_v").values) < gradient);
    }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weights, S, Scalars) {
  for (std::string const name : files) {
    Golden const golden{name};
    auto const q = golden.widened<S>("q", golden.growth, 0), k = golden.widened<S>("k", 1, 0);
    std::vector<S> all;
    mf::Cpu<S> backend{2};
    for (auto const& sequence : golden.call.sequences) {
      Array<S, 4> weights(golden.slots, golden.heads, golden.queries, golden.keys);
      mf::stick_breaking_weights(backend, golden.variant, golden.call.extents, sequence, q.view(), k.view(),
                                 weights.view());
      all.insert(all.end(), weights.values().begin(), weights.values().end());
    }
    BOOST_TEST(relative_error(all, golden.file.tensor<double>("attention").values) < (sizeof(S) == 4 ? 2e-5 : 1e-9));
  }
}

// The matrix reproduces what the blocked kernel computed.
BOOST_AUTO_TEST_CASE(weights_times_values_are_the_output) {
  auto const c = mf::test::single(50, 130, 2, 12, 2);
  auto const in = mf::test::random_inputs(c, 51);
  mf::Cpu<double> backend{2};
  for (auto const variant : mf::test::variants) {
    mf::test::AttentionOutputs<double> out(c);
    mf::test::forward(backend, c, variant, in, out);
    Array<double, 4> a(2, 2, 50, 130);
    mf::stick_breaking_weights(backend, variant, c.extents, c.sequences[0], in.q.view(), in.k.view(), a.view());
    for (mf::Index i = 0; i < c.rows(); ++i)
      for (mf::Index h = 0; h < 2; ++h) {
        double rest = 1;
        for (mf::Index j = 0; j < 130; ++j) rest -= a(i % 2, h, i / 2, j);
        BOOST_TEST(std::abs(rest - std::exp(out.log_stick(i, h))) < 1e-13);
        for (mf::Index x = h * 12; x < (h + 1) * 12; ++x) {
          double y = variant.keep_remainder ? rest * in.v(80 + i / 2, x) : 0.0;
          for (mf::Index j = 0; j < 130; ++j) y += a(i % 2, h, i / 2, j) * in.v(j, x);
          BOOST_TEST(std::abs(y - out.y(i, x)) < 1e-12);
        }
      }
  }
}

BOOST_AUTO_TEST_SUITE_END()
