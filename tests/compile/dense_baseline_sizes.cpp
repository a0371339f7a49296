// SPDX-License-Identifier: MIT
// expect: dense baseline: expected a shape whose layers have known sizes
#include <moduleformer/model/dense_baseline.hpp>

constexpr moduleformer::Shape shape{
    .hidden_size = 64,
    .router_hidden_size = 32,
    .attention = {.experts = 8, .top_k = 2, .heads = 2, .hidden_size = 64},
#ifdef MISUSE
    .feed_forward = {.experts = 8, .top_k = 2}
#else
    .feed_forward = {.experts = 8, .top_k = 2, .hidden_size = 128}
#endif
};

static_assert(moduleformer::dense_baseline(shape).feed_forward.hidden_size == 256);

int main() {}
