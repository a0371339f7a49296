// SPDX-License-Identifier: MIT
// expect: moduleformer: attention.top_k must not exceed attention.experts
#include <moduleformer/core/shape.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .attention = {.experts = 4, .top_k = 5}
#else
    .attention = {.experts = 4, .top_k = 4}
#endif
};

int main() { moduleformer::check_shape<shape>(); }
