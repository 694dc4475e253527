// The pre-tokenizer: text to the pieces within which byte pairs are merged.
#pragma once

#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "worker/tokenizer_file.h"
#include "worker/tokenizer_regex.h"

namespace hproc::worker {

// Immutable; Split is safe from several threads at once.
class PreTokenizer {
 public:
  // The error names the pattern that does not compile.
  static Result<PreTokenizer> Create(const std::vector<PreTokenizerStep>& steps);

  // Calls piece(bytes) for each pre-token of `text` (valid UTF-8), in order, none empty; the view
  // is good during the call only. Each step sees a piece of the step before as a text of its own,
  // so nothing is looked for across cuts. Fails where a pattern takes too many steps, and with the
  // first error of `piece`.
  Result<void> Split(std::string_view text, RegexRun& run,
                     FunctionRef<Result<void>(std::string_view bytes)> piece) const;

 private:
  struct Cut {
    Regex regex;
    bool keep_matches = true;
    bool keep_between = true;
    bool add_prefix_space = false;  // before cutting
  };

  Result<void> SplitFrom(size_t step, std::string_view text, RegexRun& run,
                         FunctionRef<Result<void>(std::string_view)> piece) const;

  std::vector<Cut> cuts_;
  bool final_prefix_space_ = false;  // of a ByteLevel step that does not cut
};

}  // namespace hproc::worker
