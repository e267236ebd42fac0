// Tests the node with a stand-in for rclcpp and ROS 2's own messages.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "segmentation_node.cpp"

namespace streamseg_ros {
namespace {

using Labels = rclcpp::Publisher<Image>;
using Areas = rclcpp::Publisher<Float64MultiArray>;

class NodeTest : public ::testing::Test {
 protected:
  NodeTest() {
    options.overrides["bundle"] = std::string(std::getenv("STREAMSEG_CASE")) + "/bundle";
    options.overrides["onnxruntime"] = std::string(std::getenv("STREAMSEG_ONNXRUNTIME"));
    options.overrides["threads"] = 1;
  }
  static std::vector<uint8_t> read(const std::string& name) {
    std::ifstream file(std::string(std::getenv("STREAMSEG_CASE")) + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  std::shared_ptr<Image> image(size_t index) const {
    auto made = std::make_shared<Image>();
    made->height = 6;
    made->width = 10;
    made->step = 30;
    made->encoding = "rgb8";
    made->header.frame_id = "camera";
    made->header.stamp.sec = 7;
    made->header.stamp.nanosec = static_cast<uint32_t>(index) * 40'000'000;
    made->data.assign(frames.begin() + static_cast<ptrdiff_t>(index * 180),
                      frames.begin() + static_cast<ptrdiff_t>((index + 1) * 180));
    return made;
  }
  std::vector<uint8_t> recorded(size_t index) const {
    return {expected.begin() + static_cast<ptrdiff_t>(index * 60), expected.begin() + static_cast<ptrdiff_t>((index + 1) * 60)};
  }

  rclcpp::NodeOptions options;
  std::vector<uint8_t> frames = read("frames.bin"), expected = read("labels.bin");
};

TEST_F(NodeTest, PublishesLabelsAndAreasOfEveryImage) {
  SegmentationNode node(options);
  auto& images = node.thing<rclcpp::Subscription<Image>>("/image");
  EXPECT_EQ(images.qos.depth, 1u);
  EXPECT_FALSE(images.qos.reliable);
  for (size_t i = 0; i < 3; ++i) images.callback(image(i));
  auto& labels = node.thing<Labels>("/labels").published;
  auto& areas = node.thing<Areas>("/areas").published;
  ASSERT_EQ(labels.size(), 3u);
  ASSERT_EQ(areas.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(labels[i]->data, recorded(i));
    EXPECT_EQ(labels[i]->header, image(i)->header);
    EXPECT_EQ(labels[i]->encoding, "mono8");
    EXPECT_EQ(labels[i]->step, 10u);
    EXPECT_EQ(labels[i]->height, 6u);
    EXPECT_EQ(labels[i]->width, 10u);
    EXPECT_EQ(areas[i]->data.size(), node.parameter<std::vector<std::string>>("class_names").size());
  }
  EXPECT_TRUE(node.lines.empty());
}

TEST_F(NodeTest, ResetsByItsServiceAndLogsOtherResets) {
  SegmentationNode node(options);
  auto& images = node.thing<rclcpp::Subscription<Image>>("/image");
  images.callback(image(0));
  images.callback(image(1));
  auto response = std::make_shared<Trigger::Response>();
  node.thing<rclcpp::Service<Trigger>>("/streamseg/reset").callback(std::make_shared<Trigger::Request>(), response);
  EXPECT_TRUE(response->success);
  images.callback(image(0));
  images.callback(image(1));
  auto again = image(0);
  images.callback(again);  // its time is before that of the last image
  auto& labels = node.thing<Labels>("/labels").published;
  EXPECT_EQ(labels[2]->data, recorded(0));
  EXPECT_EQ(labels[4]->data, recorded(0));
  ASSERT_EQ(node.lines.size(), 1u);
  EXPECT_NE(node.lines[0].find("the state was reset: time went back"), std::string::npos);
}

TEST_F(NodeTest, AnInvalidImageIsLoggedAndPublishesNothing) {
  SegmentationNode node(options);
  auto broken = image(0);
  broken->encoding = "yuv422";
  node.thing<rclcpp::Subscription<Image>>("/image").callback(broken);
  EXPECT_TRUE(node.thing<Labels>("/labels").published.empty());
  ASSERT_EQ(node.lines.size(), 1u);
  EXPECT_NE(node.lines[0].find("encoding is 'yuv422'"), std::string::npos);
}

TEST_F(NodeTest, AMissingBundleEndsTheNode) {
  options.overrides["bundle"] = std::string("/nowhere");
  EXPECT_THROW(SegmentationNode node(options), streamseg::Error);
}

}  // namespace
}  // namespace streamseg_ros
