// The exception used inside the library; the C interface turns it into a status and a message.
#pragma once

#include <stdexcept>
#include <string>

#include "streamseg/streamseg.h"

namespace streamseg::core {

class Failure : public std::runtime_error {
 public:
  Failure(streamseg_status status, const std::string& message)
      : std::runtime_error(message), status(status) {}
  streamseg_status status;
};

[[noreturn]] inline void fail_bundle(const std::string& message) {
  throw Failure(STREAMSEG_INVALID_BUNDLE, message);
}

}  // namespace streamseg::core
