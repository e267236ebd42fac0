# The runtime and its web page, on the CPU. To export in it as well: --build-arg EXTRAS=cpu,serve,export
#   docker build -t streamseg .
#   docker run --rm -v "$PWD/out:/data" streamseg run street 'synthetic:clean?size=256x512&frames=60' -o drive.mp4
# The page: add -p 8000:8000, a token file and `serve BUNDLE SOURCE --host 0.0.0.0 --token-file token`.
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN STREAMSEG_NATIVE=1 STREAMSEG_CUDA=0 STREAMSEG_OPENVINO=0 pip wheel --no-cache-dir --no-deps -w /wheels .

FROM python:3.12-slim-bookworm
ARG EXTRAS=cpu,serve
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[$EXTRAS]"
RUN useradd --create-home streamseg
USER streamseg
WORKDIR /data
ENTRYPOINT ["streamseg"]
CMD ["--help"]
