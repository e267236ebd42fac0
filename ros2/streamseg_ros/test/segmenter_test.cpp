// Runs the segmenter on a case of the conformance set, given by STREAMSEG_CASE and
// STREAMSEG_ONNXRUNTIME.
#include "streamseg_ros/segmenter.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace streamseg_ros {
namespace {

constexpr uint32_t kHeight = 6, kWidth = 10;
constexpr size_t kPixels = kHeight * kWidth;
constexpr int64_t kSecond = 1'000'000'000;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<uint8_t> read_file(const std::string& name) {
  std::ifstream file(variable("STREAMSEG_CASE") + "/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class SegmenterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (variable("STREAMSEG_CASE").empty()) GTEST_SKIP() << "set STREAMSEG_CASE and STREAMSEG_ONNXRUNTIME";
    frames = read_file("frames.bin");
    expected = read_file("labels.bin");
    Settings settings;
    settings.bundle = variable("STREAMSEG_CASE") + "/bundle";
    settings.onnxruntime = variable("STREAMSEG_ONNXRUNTIME");
    settings.threads = 1;
    segmenter = std::make_unique<Segmenter>(settings);
  }
  std::vector<uint8_t> frame(size_t index) const {
    return {frames.begin() + static_cast<ptrdiff_t>(index * kPixels * 3),
            frames.begin() + static_cast<ptrdiff_t>((index + 1) * kPixels * 3)};
  }
  std::vector<uint8_t> recorded(size_t index) const {
    return {expected.begin() + static_cast<ptrdiff_t>(index * kPixels),
            expected.begin() + static_cast<ptrdiff_t>((index + 1) * kPixels)};
  }
  std::string segment(const std::vector<uint8_t>& data, int64_t stamp, const std::string& frame_id = "camera") {
    return segmenter->segment({data, kHeight, kWidth, kWidth * 3, "rgb8", stamp, frame_id}, &labels);
  }

  std::vector<uint8_t> frames, expected, labels;
  std::unique_ptr<Segmenter> segmenter;
};

// The first seven steps of every case are consecutive.
TEST_F(SegmenterTest, GivesTheRecordedLabels) {
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(segment(frame(i), static_cast<int64_t>(i + 1) * kSecond / 25), "");
    EXPECT_EQ(labels, recorded(i)) << i;
  }
}

TEST_F(SegmenterTest, TakesPaddedRowsAndOtherEncodings) {
  const auto rgb = frame(0);
  std::vector<uint8_t> padded(kHeight * 64, 7);
  for (size_t y = 0; y < kHeight; ++y) {
    for (size_t x = 0; x < kWidth; ++x) {
      for (size_t c = 0; c < 3; ++c) padded[y * 64 + x * 4 + c] = rgb[(y * kWidth + x) * 3 + 2 - c];
    }
  }
  segmenter->segment({padded, kHeight, kWidth, 64, "bgra8", 0, ""}, &labels);
  EXPECT_EQ(labels, recorded(0));
}

TEST_F(SegmenterTest, ResetsWhereTheVideoBreaks) {
  for (size_t i = 0; i < 3; ++i) segment(frame(i), static_cast<int64_t>(i + 10) * kSecond / 25);
  EXPECT_EQ(segment(frame(0), kSecond / 25).rfind("time went back", 0), 0u);
  EXPECT_EQ(labels, recorded(0));
  EXPECT_NE(segment(frame(0), 5 * kSecond).find("without an image"), std::string::npos);
  EXPECT_EQ(labels, recorded(0));
  EXPECT_EQ(segment(frame(0), 5 * kSecond + 1, "other"), "frame_id changed from 'camera' to 'other'");
  EXPECT_EQ(labels, recorded(0));
  // Images without a time count as one video.
  EXPECT_EQ(segment(frame(1), 0, "other"), "");
  EXPECT_EQ(labels, recorded(1));
}

TEST_F(SegmenterTest, ResetsWhenTheSizeChanges) {
  segment(frame(0), 0);
  const std::vector<uint8_t> large(kPixels * 4 * 3, 50);
  const auto reason = segmenter->segment({large, 12, 20, 60, "rgb8", 0, "camera"}, &labels);
  EXPECT_EQ(reason, "the image's size changed from 6x10 to 12x20");
  EXPECT_EQ(labels.size(), kPixels * 4);
}

TEST_F(SegmenterTest, ResetsWhenAsked) {
  segment(frame(0), 0);
  segment(frame(1), 0);
  segmenter->reset();
  segment(frame(0), 0);
  EXPECT_EQ(labels, recorded(0));
}

TEST_F(SegmenterTest, MeasuresAreas) {
  segment(frame(0), 0);
  ASSERT_EQ(segmenter->areas().size(), segmenter->class_names().size());
  double sum = 0;
  for (size_t i = 0; i < segmenter->areas().size(); ++i) {
    size_t count = 0;
    for (const auto label : recorded(0)) count += label == i;
    EXPECT_DOUBLE_EQ(segmenter->areas()[i], static_cast<double>(count) / kPixels);
    sum += segmenter->areas()[i];
  }
  EXPECT_NEAR(sum, 1, 1e-12);
}

TEST_F(SegmenterTest, RefusesInvalidImagesAndKeepsTheState) {
  segment(frame(0), 0);
  const auto data = frame(1);
  const auto refuse = [&](const Picture& picture) { EXPECT_THROW(segmenter->segment(picture, &labels), InvalidPicture); };
  refuse({data, kHeight, kWidth, kWidth * 3, "16UC1", 0, "camera"});
  refuse({data, kHeight, kWidth, kWidth * 2, "rgb8", 0, "camera"});
  refuse({data, kHeight + 1, kWidth, kWidth * 3, "rgb8", 0, "camera"});
  refuse({data, 0, kWidth, kWidth * 3, "rgb8", 0, "camera"});
  refuse({data, 0xffffffff, 1, 0xffffffff, "rgb8", 0, "camera"});
  EXPECT_EQ(segment(data, 0), "");
  EXPECT_EQ(labels, recorded(1));
}

}  // namespace
}  // namespace streamseg_ros
