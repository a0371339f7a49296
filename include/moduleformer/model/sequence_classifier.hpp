// SPDX-License-Identifier: MIT
#pragma once
// Model with a classification head; its shape gives `labels` >= 2, or takes them from the Config.

#include <moduleformer/backend/default.hpp>
#include <moduleformer/model/model.hpp>

namespace moduleformer {

template <Shape shape, class PolicySet = Policies<>, Backend B = DefaultBackend>
using SequenceClassifier = Model<ClassificationHead, shape, PolicySet, B>;

}  // namespace moduleformer
