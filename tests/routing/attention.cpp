// SPDX-License-Identifier: MIT
// Attention experts: numeric gradients of every variant, shared keys, packed sequences, ragged sizes.

#include "routing/empty_slots.hpp"
#include "support/layer.hpp"

#include <moduleformer/routing/policies.hpp>

#include <boost/mpl/list.hpp>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

struct Case {
  std::vector<Index> lengths;
  Index d, a, h, e, k;
  double dropout = 0;
};

template <class Policies>
struct Fixture {
  using Layer = mf::Attention<Policies, Double>;

  explicit Fixture(Case c)
      : size(std::move(c)), test(Layer({size.d, 3, size.e}, size.k, size.h, size.a, policies), 0.8, 5) {
    for (Index const length : size.lengths) {
      sequences.push_back({n, length, n, length});
      n += length;
    }
    x = random_values(n * size.d, 1);
    residual = random_values(n * size.d, 2);
    weights = random_values(n * size.d, 3);
    test.settings.residual_dropout = size.dropout;
  }
  mf::Matrix<double const> view(std::vector<double> const& v) const { return {v.data(), {n, size.d}}; }
  mf::Vector<mf::Sequence const> sequence_view() const { return {sequences.data(), {static_cast<Index>(sequences.size())}}; }
  auto forward(mf::Pass<Double>& pass, mf::Matrix<double> out) {
    auto const y = pass.template allocate<double>(n * size.k, size.d);
    auto const context = test.layer.forward(pass, test.values, view(x), sequence_view(), {}, {}, y);
    combine(pass, test.layer.output(pass, view(residual), y), out);
    return context;
  }
  double value() {
    auto pass = test.pass(size.dropout > 0);
    auto const out = pass.template allocate<double>(n, size.d);
    auto const context = forward(pass, out);
    return dot(weights, out) + loss_weight * *context.router.loss;
  }
  void check() {
    std::vector<double> dx(x.size(), 0.0);
    {
      auto pass = test.pass(size.dropout > 0);
      auto const out = pass.template allocate<double>(n, size.d);
      auto const context = forward(pass, out);
      auto const direct = pass.template allocate<double>(n, size.d),
                 slots = pass.template allocate<double>(n * size.k, size.d);
      combine(pass,
              test.layer.backward(pass, test.values, test.gradients, context, view(x), sequence_view(), view(weights),
                                  direct, slots),
              {dx.data(), {n, size.d}});
    }
    check_gradient("dx", x, dx, [&] { return value(); });
    test.check_parameters([&] { return value(); });
  }

  static constexpr double loss_weight = LayerUnderTest<Layer>::routing_weight;
  Case size;
  Policies policies;
  LayerUnderTest<Layer> test;
  Index n = 0;
  std::vector<mf::Sequence> sequences;
  std::vector<double> x, residual, weights;
};

using Variants = boost::mpl::list<mf::InclusiveAttention, mf::InclusiveRemainderAttention, mf::StrictAttention,
                                  mf::StrictRemainderAttention>;

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_of_every_variant, Variant, Variants) {
  Fixture<mf::Policies<Variant>>({{1}, 1, 1, 1, 1, 1}).check();
  Fixture<mf::Policies<Variant>>({{7, 1, 13}, 6, 8, 2, 3, 2}).check();
  Fixture<mf::Policies<Variant>>({{19}, 5, 6, 3, 2, 2}).check();
}

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_with_shared_keys, Variant, Variants) {
  Fixture<mf::Policies<Variant>> shared({{11, 6}, 8, 8, 1, 3, 2});
  BOOST_TEST(shared.test.layer.shared_keys());
  BOOST_TEST(shared.test.table.find("k_proj.weight") == shared.test.table.count());
  shared.check();
}

BOOST_AUTO_TEST_CASE(gradients_with_empty_slots) {
  Fixture<mf::Policies<SomeEmpty>>({{7, 1, 13}, 6, 8, 2, 3, 2}).check();
  Fixture<mf::Policies<SomeEmpty, mf::InclusiveRemainderAttention>>({{19}, 8, 8, 1, 4, 3}).check();
  Fixture<mf::Policies<SomeEmpty, mf::NormalisedSigmoidGates, mf::ImportanceLoss>>({{40}, 5, 6, 3, 5, 3, 0.2}).check();
}

BOOST_AUTO_TEST_CASE(gradients_with_shared_experts) {
  Fixture<mf::Policies<mf::SharedExperts<1>>>({{7, 1, 13}, 6, 8, 2, 3, 2}).check();
  Fixture<mf::Policies<mf::SharedExperts<2, 0>, mf::InclusiveRemainderAttention, mf::SigmoidGates>>({{19}, 8, 8, 1, 5, 4}).check();
  Fixture<mf::Policies<mf::SharedExperts<1>, SomeEmpty>>({{40}, 5, 6, 3, 5, 3, 0.2}).check();
}

BOOST_AUTO_TEST_CASE(gradients_across_blocks) { Fixture<mf::Policies<>>({{130}, 4, 4, 2, 5, 2}).check(); }

BOOST_AUTO_TEST_CASE(gradients_under_dropout) { Fixture<mf::Policies<>>({{9, 8}, 6, 4, 2, 3, 1, 0.3}).check(); }
