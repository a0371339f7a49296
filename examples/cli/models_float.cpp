// SPDX-License-Identifier: MIT
#include "models.hpp"

namespace moduleformer {

template class Model<LanguageModelHead, dynamic_shape, dynamic_policies, Cpu<float>>;
template class Model<ClassificationHead, dynamic_shape, dynamic_policies, Cpu<float>>;

}  // namespace moduleformer
