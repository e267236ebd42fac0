#include "content.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "failure.h"

namespace streamseg::core {
namespace {

#if defined(MAP_POPULATE)
constexpr int kFlags = MAP_PRIVATE | MAP_POPULATE;
#else
constexpr int kFlags = MAP_PRIVATE;
#endif

}  // namespace

Content::Content(const std::string& path, size_t limit) : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) {
  if (file_ < 0 || fstat(file_, &about_) != 0) fail_bundle("cannot read " + path);
  if (!S_ISREG(about_.st_mode) || size() > limit) fail_bundle(path + " is not a plain file, or is too large");
  if (size() == 0) return;
  void* data = mmap(nullptr, size(), PROT_READ, kFlags, file_, 0);
  if (data == MAP_FAILED) fail_bundle("cannot read " + path);
  data_ = static_cast<uint8_t*>(data);
}

Content::~Content() {
  if (data_ != nullptr) munmap(data_, size());
  if (file_ >= 0) close(file_);
}

bool Content::changed() const {
  struct stat now;
  return fstat(file_, &now) != 0 || now.st_size != about_.st_size || now.st_mtim.tv_sec != about_.st_mtim.tv_sec ||
         now.st_mtim.tv_nsec != about_.st_mtim.tv_nsec;
}

}  // namespace streamseg::core
