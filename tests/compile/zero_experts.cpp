// SPDX-License-Identifier: MIT
// expect: moduleformer: every extent of feed_forward must be positive or mf::dynamic
#include <moduleformer/core/shape.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .feed_forward = {.experts = 0}
#else
    .feed_forward = {.experts = 1}
#endif
};

int main() { moduleformer::check_shape<shape>(); }
