// SPDX-License-Identifier: MIT
// expect: moduleformer: the shared experts of feed_forward must be fewer than feed_forward.top_k
#include <moduleformer/routing/shared_experts.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .feed_forward = {.experts = 4, .top_k = 1}
#else
    .feed_forward = {.experts = 4, .top_k = 2}
#endif
};

int main() { moduleformer::check_shared_experts<shape, moduleformer::SharedExperts<0, 1>>(); }
