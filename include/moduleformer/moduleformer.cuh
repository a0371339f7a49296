// SPDX-License-Identifier: MIT
#pragma once
// Everything but files (those: moduleformer/io.hpp), for a .cu file: models, training, generation, on the CUDA backend.

#include <moduleformer/backend/cuda.cuh>
#include <moduleformer/model/batch.hpp>
#include <moduleformer/model/block.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/count.hpp>
#include <moduleformer/model/generation.hpp>
#include <moduleformer/model/heads.hpp>
#include <moduleformer/model/kept_rows.hpp>
#include <moduleformer/model/kv_cache.hpp>
#include <moduleformer/model/model.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/model/reports.hpp>
#include <moduleformer/model/sampling.hpp>
#include <moduleformer/model/sequence_classifier.hpp>
#include <moduleformer/model/session.hpp>
#include <moduleformer/model/transformer.hpp>
#include <moduleformer/modular/extract.hpp>
#include <moduleformer/modular/freeze.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/merge.hpp>
#include <moduleformer/modular/prune.hpp>
#include <moduleformer/modular/surgery.hpp>
#include <moduleformer/training/data.hpp>
#include <moduleformer/training/divergence.hpp>
#include <moduleformer/training/documents.hpp>
#include <moduleformer/training/evaluation.hpp>
#include <moduleformer/training/optimizer.hpp>
#include <moduleformer/training/schedule.hpp>
#include <moduleformer/training/text_file.hpp>
#include <moduleformer/training/trainer.hpp>
#include <moduleformer/training/visit_checked.hpp>
#include <moduleformer/training/windows.hpp>
#include <moduleformer/version.hpp>
