"""Start the node: ros2 launch streamseg_ros segment.launch.py bundle:=out/street image:=/image."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

TEXTS = {
    "bundle": "Folder of the bundle",
    "onnxruntime": "Path of libonnxruntime.so",
    "operators": "Path of libstreamseg_ops.so, or of the backend's operators",
    "backend": "onnxruntime (the default), cuda or tensorrt",
    "engines": "Folder of TensorRT engines",
    "tensorrt": "Path of libnvinfer.so",
}
NUMBERS = {
    "threads": (int, "0", "Threads of one step; 0: automatic"),
    "reset_gap": (float, "1.0", "Seconds without an image that reset the state; 0: never"),
}


def generate_launch_description():
    """The node with its parameters as arguments."""
    arguments = [
        DeclareLaunchArgument("bundle", description=TEXTS["bundle"]),
        *(
            DeclareLaunchArgument(name, default_value="", description=about)
            for name, about in TEXTS.items()
            if name != "bundle"
        ),
        DeclareLaunchArgument("image", default_value="image", description="Topic of the images"),
    ]
    parameters = {name: ParameterValue(LaunchConfiguration(name), value_type=str) for name in TEXTS}
    for name, (kind, default, about) in NUMBERS.items():
        arguments.append(DeclareLaunchArgument(name, default_value=default, description=about))
        parameters[name] = ParameterValue(LaunchConfiguration(name), value_type=kind)
    node = Node(
        package="streamseg_ros",
        executable="segment",
        name="streamseg",
        output="screen",
        parameters=[parameters],
        remappings=[("image", LaunchConfiguration("image"))],
    )
    return LaunchDescription([*arguments, node])
