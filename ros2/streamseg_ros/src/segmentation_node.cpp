// The ROS 2 node: passes messages to and from the segmenter, which contains all logic.
#include <memory>
#include <string>
#include <utility>

#include "rclcpp/rclcpp.hpp"
#include "rclcpp_components/register_node_macro.hpp"
#include "sensor_msgs/msg/image.hpp"
#include "std_msgs/msg/float64_multi_array.hpp"
#include "std_srvs/srv/trigger.hpp"
#include "streamseg_ros/segmenter.hpp"

namespace streamseg_ros {

using sensor_msgs::msg::Image;
using std_msgs::msg::Float64MultiArray;
using std_srvs::srv::Trigger;

class SegmentationNode : public rclcpp::Node {
 public:
  explicit SegmentationNode(const rclcpp::NodeOptions& options) : Node("streamseg", options), segmenter_(settings()) {
    fixed("class_names", segmenter_.class_names(), "Names of the classes, in the order of their ids");
    labels_ = create_publisher<Image>("labels", rclcpp::SystemDefaultsQoS());
    areas_ = create_publisher<Float64MultiArray>("areas", rclcpp::SystemDefaultsQoS());
    // While a step runs, only the newest image is kept.
    images_ = create_subscription<Image>("image", rclcpp::SensorDataQoS().keep_last(1),
                                         [this](const Image::ConstSharedPtr& image) { take(*image); });
    reset_ = create_service<Trigger>(
        "~/reset", [this](std::shared_ptr<Trigger::Request>, std::shared_ptr<Trigger::Response> response) {
          segmenter_.reset();
          response->success = true;
          response->message = "the next image is the first of a new video";
        });
  }

 private:
  // A parameter that is set only when the node starts.
  template <class Value>
  Value fixed(const char* name, const Value& value, const char* about) {
    rcl_interfaces::msg::ParameterDescriptor descriptor;
    descriptor.read_only = true;
    descriptor.description = about;
    return declare_parameter(name, value, descriptor);
  }

  Settings settings() {
    const std::string none;
    Settings found;
    found.bundle = fixed("bundle", none, "Folder of the bundle");
    found.onnxruntime = fixed("onnxruntime", none, "Path of libonnxruntime.so");
    found.operators = fixed("operators", none, "Path of libstreamseg_ops.so, or of the backend's operators");
    found.backend = fixed("backend", none, "onnxruntime (the default), cuda or tensorrt");
    found.engines = fixed("engines", none, "Folder of TensorRT engines");
    found.tensorrt = fixed("tensorrt", none, "Path of libnvinfer.so");
    found.threads = fixed("threads", found.threads, "Threads of one step; 0: automatic");
    found.reset_gap = fixed("reset_gap", found.reset_gap, "Seconds without an image that reset the state; 0: never");
    return found;
  }

  void take(const Image& image) {
    auto labels = std::make_unique<Image>();
    try {
      const int64_t stamp = int64_t{image.header.stamp.sec} * 1'000'000'000 + image.header.stamp.nanosec;
      const std::string reason = segmenter_.segment(
          {image.data, image.height, image.width, image.step, image.encoding, stamp, image.header.frame_id},
          &labels->data);
      if (!reason.empty()) RCLCPP_INFO(get_logger(), "the state was reset: %s", reason.c_str());
    } catch (const std::exception& error) {
      RCLCPP_ERROR(get_logger(), "no labels for an image: %s", error.what());
      return;
    }
    labels->header = image.header;
    labels->height = image.height;
    labels->width = image.width;
    labels->encoding = "mono8";
    labels->is_bigendian = 0;
    labels->step = image.width;
    auto areas = std::make_unique<Float64MultiArray>();
    areas->data = segmenter_.areas();
    labels_->publish(std::move(labels));
    areas_->publish(std::move(areas));
  }

  Segmenter segmenter_;
  rclcpp::Publisher<Image>::SharedPtr labels_;
  rclcpp::Publisher<Float64MultiArray>::SharedPtr areas_;
  rclcpp::Subscription<Image>::SharedPtr images_;
  rclcpp::Service<Trigger>::SharedPtr reset_;
};

}  // namespace streamseg_ros

RCLCPP_COMPONENTS_REGISTER_NODE(streamseg_ros::SegmentationNode)
