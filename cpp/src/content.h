// The bytes of a file, mapped into memory: a graph is hashed and parsed without a copy.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace streamseg::core {

class Content {
 public:
  // Throws Failure (STREAMSEG_INVALID_BUNDLE) unless the path is a regular file of at most
  // `limit` bytes.
  explicit Content(const std::string& path, size_t limit = SIZE_MAX);
  Content(Content&& other) noexcept
      : file_(std::exchange(other.file_, -1)), data_(std::exchange(other.data_, nullptr)), about_(other.about_) {}
  Content& operator=(Content&&) = delete;
  ~Content();

  const uint8_t* data() const { return data_; }
  size_t size() const { return static_cast<size_t>(about_.st_size); }
  const uint8_t* begin() const { return data_; }
  const uint8_t* end() const { return data_ + size(); }
  // Writes to the file show in the mapping: anything read from it is then invalid.
  bool changed() const;

 private:
  int file_;
  uint8_t* data_ = nullptr;  // null if the file is empty
  struct stat about_;
};

}  // namespace streamseg::core
