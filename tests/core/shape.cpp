// SPDX-License-Identifier: MIT
// Extents that the compiler knows and extents that it does not, and shapes as template arguments.
// Shapes that check_shape refuses are in tests/compile/.

#include <moduleformer/core/shape.hpp>

#include <boost/test/unit_test.hpp>

#include <string>
#include <type_traits>

namespace mf = moduleformer;

namespace {

constexpr mf::Shape small{
    .vocab_size = 256, .hidden_size = 8, .layers = 1, .router_hidden_size = 4,
    .attention = {.experts = 3, .top_k = 3, .heads = 2, .hidden_size = 8},
    .feed_forward = {.experts = 1, .top_k = 1, .hidden_size = 7},
};
constexpr mf::Shape mixed{.hidden_size = 8, .attention = {.experts = mf::dynamic, .top_k = 2, .heads = 4}};

template <mf::Shape shape>
struct Model {};

}  // namespace

BOOST_AUTO_TEST_SUITE(core_shape)

BOOST_AUTO_TEST_CASE(a_shape_is_a_template_argument) {
  static_assert(std::is_same_v<Model<small>, Model<mf::Shape{small}>>);
  static_assert(!std::is_same_v<Model<small>, Model<mixed>>);
  BOOST_TEST((small == mf::Shape{small}));
  BOOST_TEST((small != mixed));
}

BOOST_AUTO_TEST_CASE(what_is_not_given_is_dynamic) {
  BOOST_TEST(mixed.vocab_size == mf::dynamic);
  BOOST_TEST(mixed.attention.experts == mf::dynamic);
  BOOST_TEST((mixed.feed_forward == mf::FeedForwardShape{}));
  BOOST_TEST((mf::dynamic_shape == mf::Shape{}));
}

BOOST_AUTO_TEST_CASE(sound_shapes_pass) {
  // Two extents are compared only where both are known.
  mf::check_shape<small>();
  mf::check_shape<mixed>();
  mf::check_shape<mf::dynamic_shape>();
  constexpr bool at_compile_time = (mf::check_shape<small>(), true);
  BOOST_TEST(at_compile_time);
}

BOOST_AUTO_TEST_CASE(static_extent) {
  static_assert(std::is_empty_v<mf::Extent<5>>);
  constexpr mf::Extent<5> extent;
  static_assert(extent == 5);
  BOOST_TEST(mf::Index{mf::Extent<5>("hidden_size", 5)} == 5);
  BOOST_CHECK_EXCEPTION(mf::Extent<5>("hidden_size", 6), mf::Error, [](mf::Error const& error) {
    return error.what() == std::string("hidden_size: the model's type says 5, the config says 6");
  });
  BOOST_CHECK_THROW(mf::Extent<1>("layers", mf::dynamic), mf::Error);
}

BOOST_AUTO_TEST_CASE(dynamic_extent) {
  mf::Extent<mf::dynamic> extent;
  BOOST_TEST(mf::Index{extent} == 0);
  extent = mf::Extent<mf::dynamic>("hidden_size", 7);
  BOOST_TEST(mf::Index{extent} == 7);
  static_assert(mf::Index{mf::Extent<mf::dynamic>("layers", 3)} == 3);
}

BOOST_AUTO_TEST_SUITE_END()
