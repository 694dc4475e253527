// The one order in which every trial of a study meets the questions.
#pragma once

#include <cstdint>
#include <vector>

namespace hproc::evals {

// A permutation of 0 … questions-1 that depends on nothing but the two numbers: Fisher and Yates'
// shuffle on a Mersenne twister, exactly what `random.Random(seed).shuffle(list(range(questions)))`
// leaves in Python. Any prefix is thus a simple random sample of the file, and trials stopped at
// different places have answered the same questions, so that they compare in pairs.
std::vector<int> QuestionOrder(int questions, uint64_t seed);

}  // namespace hproc::evals
