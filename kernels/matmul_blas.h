// Matrix products in float32 through a BLAS, behind the contract of kernels/matmul.h: what the products from codes are
// measured against. Built for the benches only.
#pragma once

#include <span>

#include "kernels/matmul.h"

namespace hproc::kernels::blas {

// Threads that the BLAS may use for one product; process-wide.
void SetThreads(int threads);

// Both want float32 weights and go into Context::matmul. MatmulInTurn makes one BLAS call after the other;
// MatmulOverPool cuts the calls into pieces of about the same cost and spreads those over the context's pool (set the
// BLAS to one thread).
void MatmulInTurn(const Context& context, std::span<const MatmulCall> calls);
void MatmulOverPool(const Context& context, std::span<const MatmulCall> calls);

}  // namespace hproc::kernels::blas
