# make demo, make test, make lint: each sets up what it needs in .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Set TORCH_INDEX to an index of CPU builds to avoid gigabytes of CUDA libraries.
TORCH_INDEX ?=
TORCH_VERSION := 2.13.0

.PHONY: setup docs test-fast native openvino native-test native-sanitize native-aarch64 cuda tensorrt-headers tensorrt-rtx tensorrt-lean wheel wheel-aarch64 triton-server mamba-reference ort-matrix stream-tools browser-tools web-tools web-build cpp-tools ros-messages test test-opencv4 verify-long verify-soak verify-containment verify-engines verify-reliability verify-faults verify-history verify-temporal verify-families verify-prototypes verify-schedules verify-state-value verify-checkpoints test-runtime lint format demo demo-page picture screenshots newcomer install-matrix install-cell version-ranges lint-containers clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "streamseg needs Python 3.10 or newer; $(PYTHON) is older. Set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(BIN)/python -m pip install -q --upgrade "pip>=24"
	$(BIN)/python -m pip install -q "torch==$(TORCH_VERSION)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -q -e ".[cpu,export,dev]"
	@$(BIN)/python -c 'import torch; print("torch", torch.__version__, "CUDA build " + torch.version.cuda if torch.version.cuda else "CPU build")'
	@$(BIN)/python setup.py -q build_openvino --inplace
	@touch $@

native: setup
	STREAMSEG_NATIVE=1 $(BIN)/python setup.py -q build_native --inplace

# The operators for the OpenVINO that is installed here.
openvino: setup
	STREAMSEG_OPENVINO=1 $(BIN)/python setup.py -q build_openvino --inplace

# The kernels outside Python: this machine, sanitizers, AArch64 emulated.
native-test:
	.ci/native plain
native-sanitize:
	.ci/native sanitize
native-aarch64:
	.ci/native aarch64

# The operators and their lowering in the oldest and the newest ONNX Runtime: make ort-matrix ORT="1.20.1 1.23.2"
ORT ?= 1.17.3 newest
ort-matrix: native
	.ci/ort-matrix $(BIN)/python $(ORT)

# The CUDA operators and TensorRT plugins, for this machine's GPU or, with RELEASE=1, for all.
cuda: setup
	STREAMSEG_CUDA=1 STREAMSEG_CUDA_RELEASE=$(RELEASE) $(BIN)/python setup.py -q build_cuda --inplace

# TensorRT's headers for compiling its plugins where TensorRT is not installed; for tests only.
HEADERS_WHEEL := kernel-lens==2.0.1
tensorrt-headers: setup
	rm -rf build/headers_wheel build/tensorrt_headers && mkdir -p build/headers_wheel
	$(BIN)/python -m pip download -q --no-deps -d build/headers_wheel $(HEADERS_WHEEL)
	$(BIN)/python -m zipfile -e build/headers_wheel/*.whl build/headers_wheel
	mv build/headers_wheel/kernel_lens/include/tensorrt build/tensorrt_headers
	rm -rf build/headers_wheel

# TensorRT-RTX in an environment of its own: its builder needs no GPU. For tests only.
tensorrt-rtx:
	test -x build/rtx/bin/python || $(PYTHON) -m venv build/rtx
	build/rtx/bin/python -m pip install -q tensorrt-rtx-cu13==1.7.1.116 numpy onnx
	mkdir -p build/rtx/link
	ln -sf $$(build/rtx/bin/python -c 'import tensorrt_rtx_libs as t; print(t.__path__[0])')/libtensorrt_rtx.so.1 build/rtx/link/libtensorrt_rtx.so

# TensorRT's lean runtimes, which are real wheels and load our plugins without a GPU. For tests only.
LEAN := 10.15.1.29 10.16.1.11 11.0.0.114 11.2.1.2 11.4.0.106
tensorrt-lean: $(LEAN:%=build/tensorrt_lean/%)
build/tensorrt_lean/%: | setup
	rm -rf $@.part && $(BIN)/python -m pip install -q --no-deps --target $@.part \
	  tensorrt-lean-cu13-libs==$* tensorrt-lean-cu13-bindings==$*
	mv $@.part $@

# One wheel with the CPU, CUDA and TensorRT libraries, and the sources; needs nvcc 13, neither a GPU nor TensorRT.
# CUDA_ARCHITECTURES= a shorter list makes a quicker wheel: .ci/wheel checks one.
wheel: setup tensorrt-headers
	.ci/wheel x86_64 $(BIN)/python
# The CPU library for AArch64, cross-compiled; a Jetson's CUDA and TensorRT libraries are built there.
wheel-aarch64: setup
	.ci/wheel aarch64 $(BIN)/python

# A real RTSP server and GStreamer for the tests of live sources, an MQTT broker, an X server without
# a screen; the tests skip without.
STREAM_PACKAGES := ffmpeg python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0 \
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
  mosquitto xvfb
stream-tools:
	dpkg -s $(STREAM_PACKAGES) >/dev/null 2>&1 || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(STREAM_PACKAGES) >/dev/null; }

# Headless Chromium for the tests of the web page, which skip without it.
browser-tools:
	command -v chromedriver >/dev/null || { apt-get update -q && apt-get install -y -q chromium chromium-driver; }

# The browser runtime's compiler and ONNX Runtime Web, and the compiler of its kernels.
WASM_PACKAGES := clang-14 lld-14 wasi-libc libc++-14-dev-wasm32 libclang-rt-14-dev-wasm32
web-tools:
	npm ci --prefix web --no-audit --no-fund --ignore-scripts --silent
	dpkg -s $(WASM_PACKAGES) >/dev/null 2>&1 || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(WASM_PACKAGES) >/dev/null; }

# What web/src and web/kernel compile to; committed, so that nobody needs these compilers.
web-build: web-tools
	npm run --prefix web build
	web/kernel/build.sh web/kernels.wasm

# What the C++ runtime, its tests and its GStreamer element are built with.
CPP_PACKAGES := cmake g++ pkg-config nlohmann-json3-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-tools libgtest-dev
cpp-tools:
	dpkg -s $(CPP_PACKAGES) >/dev/null 2>&1 || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(CPP_PACKAGES) >/dev/null; }

# Headers of ROS 2's messages, for the test of the node. The wheels hold neither rclcpp nor launch.
ROS_WHEELS := ros-sensor-msgs==5.3.6 ros-std-msgs==5.3.6 ros-std-srvs==5.3.6 ros-builtin-interfaces==2.0.3 \
  ros-service-msgs==2.0.3 ros-rcl-interfaces==2.0.3 ros-rosidl-runtime-cpp==4.6.6 ros-rosidl-runtime-c==4.6.6 \
  ros-rosidl-typesupport-interface==4.6.6 ros-rcutils==6.7.4
ros-messages: setup
	rm -rf build/ros_wheels build/ros_messages && mkdir -p build/ros_wheels build/ros_messages
	$(BIN)/python -m pip download -q --no-deps --only-binary :all: --python-version 3.11 \
	  --platform manylinux_2_28_x86_64 -d build/ros_wheels $(ROS_WHEELS)
	for wheel in build/ros_wheels/*.whl; do $(BIN)/python -m zipfile -e $$wheel build/ros_wheels; done
	cp -r build/ros_wheels/*.data/data/include/* build/ros_messages/
	rm -rf build/ros_wheels

# NVIDIA's Triton server without its ONNX Runtime backend, which a stand-in replaces. For tests only.
triton-server: setup
	rm -rf build/triton && mkdir -p build/triton
	$(BIN)/python -m pip download -q --no-deps -d build/triton nvidia-pytriton==0.7.0
	$(BIN)/python -m zipfile -e build/triton/*.whl build/triton
	rm build/triton/*.whl && chmod +x build/triton/pytriton/tritonserver/bin/tritonserver

# The source of mamba_ssm, whose reference in PyTorch the scan is compared with. For tests only.
mamba-reference: setup
	rm -rf build/mamba && mkdir -p build/mamba
	MAMBA_SKIP_CUDA_BUILD=TRUE $(BIN)/python -m pip download -q --no-deps --no-build-isolation \
	  --no-binary :all: -d build/mamba mamba-ssm==2.3.2.post1
	rm -rf build/mamba_ssm && mkdir build/mamba_ssm
	tar -xzf build/mamba/*.tar.gz -C build/mamba_ssm --strip-components=1 && rm -rf build/mamba

# Rooms in which nothing depends on the clock, two files at a time, one thread each; then the others.
CALM := tests/calibration tests/evaluation tests/export tests/training
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(CALM)
	$(BIN)/python -m pytest $(CALM:%=--ignore=%)

# The main path of every room, under three minutes on two cores; CONTRIBUTING.md says how it is chosen.
test-fast: setup
	$(BIN)/python -m pytest $$(cat tests/fast.txt)

# The site in build/site: pages, command line and Python reference; warnings are errors.
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q
	@echo "build/site/index.html"
$(VENV)/.docs-ready: $(STAMP)
	$(BIN)/python -m pip install -q -e ".[docs]"
	@touch $@

# The drawing and video tests with OpenCV 4; the rest of the suite runs with the newest.
test-opencv4: setup
	$(BIN)/python -m pip install -q --no-deps --upgrade --target build/opencv4 "opencv-python-headless>=4.10,<5"
	PYTHONPATH=build/opencv4 $(BIN)/python -m pytest tests/runtime/video tests/runtime/sinks tests/runtime/session/test_cuts.py tests/runtime/sources/test_upright.py

# What takes too long for every change; results are committed under benchmarks/results.
verify-long: verify-soak verify-containment verify-engines verify-reliability verify-checkpoints verify-history verify-temporal verify-prototypes verify-schedules install-matrix version-ranges
verify-soak: setup
	$(BIN)/python samples/smoothing_bundle.py out/soak --size 48x64
	$(BIN)/python benchmarks/soak.py out/soak --frames 1000000
# Every exception in every stage of one of five streams; 256 streams of which 10 misbehave.
verify-containment: setup
	$(BIN)/python samples/smoothing_bundle.py out/soak --size 48x64
	$(BIN)/python benchmarks/containment.py out/soak
verify-reliability: native stream-tools tensorrt-rtx
	$(BIN)/python benchmarks/reliability.py --long
# Accuracy of the sample against the frames that each output sees.
verify-history: setup
	$(BIN)/streamseg eval samples/street/street.safetensors --size 256x512 --split test \
	    --dataset 'synthetic:street?size=128x256&scenes=4&frames=16' --history 1,2,4,8,all \
	    --json benchmarks/results/history.json -o out/history
# Temporal metrics of the sample, with state and reset before every frame.
DRAWN_TEST = synthetic:street?size=128x256&scenes=3&frames=20
TEMPORAL = $(BIN)/streamseg eval samples/street/street.safetensors --size 256x512 --split test \
    --dataset '$(DRAWN_TEST)' --mvc 2,4,8,16 --boundary --flow dis --per-clip
verify-temporal: setup
	$(TEMPORAL) --json benchmarks/results/temporal.json
	$(TEMPORAL) --stateless --json benchmarks/results/temporal_reset.json
# Small networks of the other families on the drawn streets: trained, then prototypes and schedules.
verify-families: setup
	$(BIN)/python benchmarks/families.py out/families
verify-prototypes: setup
	$(BIN)/python benchmarks/family_tables.py out/families --only prototypes --frames 20
verify-schedules: verify-families
	$(BIN)/python benchmarks/family_tables.py out/families --only schedules
# What the frame before knows that this one does not; CAMVID and CAMVID_WEIGHTS add real streets.
verify-state-value: setup
	$(BIN)/python benchmarks/state_value.py $(if $(CAMVID),--camvid $(CAMVID) --checkpoint $(CAMVID_WEIGHTS) --set window=10)
# The reduced version, for CI.
verify-faults: native
	$(BIN)/python benchmarks/reliability.py --print-only
# Engines for several GPUs; building them needs none.
verify-engines: native tensorrt-headers tensorrt-rtx
	STREAMSEG_TENSORRT_INCLUDE=$(CURDIR)/build/tensorrt_headers STREAMSEG_CUDA_ARCHITECTURES=80 $(MAKE) cuda
	$(BIN)/python benchmarks/engines.py --library plugins/libstreamseg_tensorrt.so

# Damaged files of weights.
verify-checkpoints: setup
	$(BIN)/python benchmarks/damaged_checkpoints.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=src $(BIN)/mypy -p streamseg
	$(BIN)/python .ci/examples.py build/examples
	MYPYPATH=src $(BIN)/mypy samples/camera_demo.py samples/side_by_side.py samples/two_drives.py build/examples
	$(BIN)/codespell $$(git ls-files '*.md' '*.py' '*.toml' '*.sh' '*.cpp' '*.h' '*.ts' '*.html')

# Checkpoint -> bundle -> a drawn drive, and two drives with a cut; installs only what this needs.
DEMO_VENV ?= .venv-demo
demo:
	TORCH_INDEX="$(TORCH_INDEX)" samples/demo.sh $(PYTHON) $(DEMO_VENV)

# A drive on a web page, with state on and off; Ctrl-C ends it.
demo-page: demo
	$(DEMO_VENV)/bin/python -m pip install -q -e '.[serve]'
	$(DEMO_VENV)/bin/streamseg serve out/street 'synthetic:clean?size=256x512&seed=2000000' --loop

# The README's animated picture; docs/images/state.webp is committed.
picture: setup
	$(BIN)/streamseg export samples/street/street.safetensors --size 256x512 -o out/street
	$(BIN)/python samples/side_by_side.py out/street 'synthetic:clean?size=256x512&seed=2000000' -o docs/images/state.webp
	rm -rf out/street-gated && $(BIN)/streamseg export out/street --memory gated -o out/street-gated
	$(BIN)/python samples/side_by_side.py out/street-gated 'synthetic:street?size=256x512&seed=2000000' -o docs/images/memory.webp --frames 32

# The other pictures of docs/images, taken by headless Chromium.
screenshots: docs browser-tools
	$(BIN)/streamseg export samples/street/street.safetensors --size 128x256 --logits -o out/small
	$(BIN)/streamseg calibrate out/small --dataset 'synthetic:street?size=128x256&scenes=8&frames=16' \
	    --test 'synthetic:street?size=128x256&scenes=4&frames=16' --clips 8 --clip-frames 16 -o out/small-int8
	$(BIN)/streamseg run out/small 'synthetic:clean?size=128x256&frames=12' -o out/small.mp4 --sheet out/small.png
	$(BIN)/python samples/screenshots.py out/small out/small-int8 out/small.png

# The demo and every command of README, quick start, tutorials and notebook, in a fresh environment.
newcomer:
	.ci/newcomer.py $(PYTHON)

# The wheel with every extra on every Python here, without a compiler: make install-matrix WHEEL=dist/...
WHEEL ?= $(lastword $(sort $(wildcard dist/streamseg-*x86_64.whl)))
install-matrix: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/installation.py $(WHEEL) --json benchmarks/results/installation.json

# One cell, for CI: the page on the oldest Python here, with uv.
install-cell: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/installation.py $(WHEEL) --pythons 3.10 --tools uv --extras serve

# The oldest and the newest PyTorch, transformers and others that pyproject.toml allows.
version-ranges: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/version_ranges.py --json benchmarks/results/version-ranges.json

# A linter of Dockerfiles, which needs no daemon.
lint-containers:
	for file in Dockerfile Dockerfile.cuda Dockerfile.jetson; do \
	  npm exec --yes --package=dockerfile-utils@0.16.3 -- dockerfile-utils lint $$file || exit 1; done

# The runtime without torch, on another interpreter: make test-runtime PYTHON=python3.10
RUNTIME_VENV ?= .venv-runtime
test-runtime:
	test -x $(RUNTIME_VENV)/bin/python || $(PYTHON) -m venv $(RUNTIME_VENV)
	$(RUNTIME_VENV)/bin/python -m pip install -q --upgrade "pip>=24"
	$(RUNTIME_VENV)/bin/python -m pip install -q ".[cpu]" "onnx>=1.19,<2" "pillow>=10" "pytest>=8.3" "pytest-timeout>=2.3" "hypothesis>=6.100"
	! $(RUNTIME_VENV)/bin/python -c "import torch" 2>/dev/null
	$(RUNTIME_VENV)/bin/python -m pytest tests/runtime tests/scenes tests/serving

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist out *.egg-info
