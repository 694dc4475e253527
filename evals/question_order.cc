#include "evals/question_order.h"

#include <numeric>

#include "base/check.h"
#include "evals/python_random.h"

namespace hproc::evals {

std::vector<int> QuestionOrder(int questions, uint64_t seed) {
  HPROC_CHECK(questions >= 0, "a count of questions");
  std::vector<int> order(static_cast<size_t>(questions));
  std::iota(order.begin(), order.end(), 0);
  PythonRandom(seed).Shuffle(order);
  return order;
}

}  // namespace hproc::evals
