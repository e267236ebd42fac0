// Shared libraries loaded at run time. They are never unloaded: their threads may outlive us.
#pragma once

#include <dlfcn.h>

#include <string>

#include "failure.h"

namespace streamseg::core {

class SharedLibrary {
 public:
  // Throws Failure (STREAMSEG_BACKEND_FAILED) if it cannot be loaded.
  SharedLibrary(const char* path, std::string subject, int flags = RTLD_NOW | RTLD_LOCAL)
      : subject_(std::move(subject)), handle_(dlopen(path, flags)) {
    if (handle_ == nullptr) throw Failure(STREAMSEG_BACKEND_FAILED, subject_ + " does not load: " + dlerror());
  }
  template <class Function>
  Function* find(const char* name) const {
    auto* found = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (found == nullptr) throw Failure(STREAMSEG_BACKEND_FAILED, subject_ + " has no " + name);
    return found;
  }
  const std::string& subject() const { return subject_; }

 private:
  std::string subject_;
  void* handle_;
};

}  // namespace streamseg::core
