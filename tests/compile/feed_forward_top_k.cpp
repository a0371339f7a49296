// SPDX-License-Identifier: MIT
// expect: moduleformer: feed_forward.top_k must not exceed feed_forward.experts
#include <moduleformer/core/shape.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .feed_forward = {.experts = 1, .top_k = 2}
#else
    .feed_forward = {.experts = 1, .top_k = 1}
#endif
};

int main() { moduleformer::check_shape<shape>(); }
